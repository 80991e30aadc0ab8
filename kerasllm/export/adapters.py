"""Export of a run's low-rank adapters in the format of the `peft` package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kerasllm.checkpoints.adapters import CONFIG_FILE, WEIGHTS_FILE
from kerasllm.errors import InputError
from kerasllm.export.comparison import compare
from kerasllm.tokenizers.saving import save_tokenizer


def write_peft(run: Path, model: Any, tokenizer: Any, directory: Path) -> dict[str, Any]:
    """Writes the adapters of a run and the tokenizer's files, and compares base and adapters with the merged model.

    Args:
        run: the run directory, in which a run with `--lora_rank` keeps its adapters.
        model: the run's model, with its adapters merged.
        tokenizer: its tokenizer.
        directory: an empty directory.

    Returns:
        The differences.

    Raises:
        InputError: the run has no adapters, or their base model is no longer there.
    """
    adapters = run / "adapter"
    if not (adapters / CONFIG_FILE).is_file():
        raise InputError(
            f"--model {run}: holds no adapter/{CONFIG_FILE}: adapters are those of a run with --lora_rank"
        )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(adapters / name, directory / name)
    save_tokenizer(tokenizer, directory, max_length=model.config.max_sequence_length)
    names = ("num_classes", "label_names", "multi_label", "pooling", "normalize")
    settings = {name: getattr(model, name) for name in names if hasattr(model, name)}
    adapted = type(model).from_adapter(directory, **settings)
    return {"comparison": compare(model, adapted, tokenizer).checked(directory, precision="float32")}
