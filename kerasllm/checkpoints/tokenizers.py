"""Loading of the tokenizer that lies beside a model, wherever the model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kerasllm.checkpoints.hub import resolve_directory


def load_tokenizer(source: str | Path, *, revision: str | None = None) -> Any:
    """Loads a tokenizer of any kind: WordPiece, byte-level BPE, characters, SentencePiece.

    Args:
        source: a model directory, a run directory, a `tokenizer.json`, `vocab.txt` or `vocab.json`, or a hub id, as
            `from_pretrained` takes it.
        revision: the branch, tag or commit of a hub id.

    Returns:
        A `tokenizers.Tokenizer`, which `transformers` and kerasllm use alike.

    Raises:
        kerasllm.errors.InputError: there is no tokenizer, or it cannot be read.
    """
    from kerasllm.tokenizers import loading  # imported here, as `import kerasllm` must not load `tokenizers`

    is_here = Path(source).exists() and revision is None
    return loading.load_tokenizer(source if is_here else resolve_directory(source, revision))
