"""Export of a trained model to a directory, whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kerasllm.checkpoints import resolve_directory
from kerasllm.errors import DISK_FULL, InputError, require
from kerasllm.files.json import to_json
from kerasllm.models import BertConfig, BertEncoder, GPTBackbone, GPTCausalLM
from kerasllm.models.bert.sentence_transformers import MODULES
from kerasllm.tasks import TASKS
from kerasllm.tasks.base import load_whole
from kerasllm.tasks.saved_model import SavedModel, open_model

FileFormat = Literal["onnx", "gguf", "tf_saved_model", "peft"]
Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class Order:
    """What is to be exported.

    Args:
        source: a run directory, a model directory or a hub id.
        saved: the model on the disk.
        precision: the precision of the weights.
    """

    source: str
    saved: SavedModel
    precision: Precision

    @property
    def model_class(self) -> type:
        """The class of the model; a BERT with the files of sentence-transformers is an encoder."""
        is_encoder = isinstance(self.saved.config, BertConfig) and (self.saved.directory / MODULES).is_file()
        if is_encoder:
            return BertEncoder
        named = self.saved.model_class
        return GPTCausalLM if named is GPTBackbone else named  # whose output table is that of its embedding

    def load(self) -> Any:
        """Returns the model, with the heads that its task needs.

        Raises:
            InputError: the weights cannot be read, or lack a head.
        """
        model_class = self.model_class
        for task in TASKS:
            if model_class in task.model_classes:
                return load_whole(model_class, self.saved.directory, task.heads)
        return model_class.from_pretrained(self.saved.directory)  # type: ignore[attr-defined]


def _onnx(order: Order, directory: Path) -> dict[str, Any]:
    require("--format onnx", "onnx", "onnx", "onnxruntime")
    from kerasllm.export.held_out import validation_figures
    from kerasllm.export.onnx.writing import write_onnx

    model, tokenizer = order.load(), order.saved.tokenizer
    figures = None
    if order.precision == "int8":
        figures = validation_figures(Path(order.source), model, tokenizer)
    return write_onnx(model, tokenizer, directory, order.precision, figures)


def _peft(order: Order, directory: Path) -> dict[str, Any]:
    from kerasllm.export.adapters import write_peft

    return write_peft(Path(order.source), order.load(), order.saved.tokenizer, directory)


def _gguf(order: Order, directory: Path) -> dict[str, Any]:
    require("--format gguf", "gguf", "gguf")
    from kerasllm.export.gguf.writing import write_gguf

    return write_gguf(order.load(), order.saved.tokenizer, directory, order.precision)


def _tf_saved_model(order: Order, directory: Path) -> dict[str, Any]:
    from kerasllm.export.saved_model import write_saved_model

    return write_saved_model(order.load(), order.saved.tokenizer, directory)


WRITERS: dict[str, Callable[[Order, Path], dict[str, Any]]] = {
    "onnx": _onnx,
    "gguf": _gguf,
    "tf_saved_model": _tf_saved_model,
    "peft": _peft,
}
"""For each format a function that writes a directory and returns what is to be told of it."""

PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "onnx": ("float32", "int8"),
    "gguf": ("float32", "float16", "int8"),
    "tf_saved_model": ("float32",),
    "peft": ("float32",),
}
"""The precisions of each format."""


def export_model(
    source: str, output: str | Path, file_format: FileFormat, precision: Precision = "float32"
) -> dict[str, Any]:
    """Writes a trained model in another program's format to a new directory, and returns the content of export.json.

    Args:
        source: a run directory, a model directory or a hub id.
        output: the directory, which does not exist or is empty. It appears when it is whole.
        file_format: "onnx", "gguf", "tf_saved_model" or "peft".
        precision: the precision of the weights: "float32"; "float16" and "int8" (q8_0) in GGUF; "int8" beside float32
            in ONNX.

    Raises:
        InputError: there is no such model, the format cannot hold it, a package is missing, the output cannot be
            written, or what was written gives other results than the model.
    """
    output = Path(output)
    if precision not in PRECISIONS[file_format]:
        raise InputError(
            f"--precision {precision} is none of --format {file_format}: it has {', '.join(PRECISIONS[file_format])}"
        )
    _check_output(output)
    _check_finished(Path(source))
    saved = open_model(source)
    working = output.with_name(f".{output.name}.{uuid.uuid4().hex}.tmp")
    try:
        working.mkdir(parents=True)
        order = Order(source, saved, precision)
        report = WRITERS[file_format](order, working)
        report = {
            "format": file_format,
            "precision": precision,
            "model": order.model_class.__name__,
            **report,
        }
        report["files"] = _sizes(working)
        (working / "export.json").write_text(to_json(report, indent=2) + "\n", encoding="utf-8")
        if output.is_dir():
            output.rmdir()
        os.replace(working, output)
    except OSError as error:
        reason = "the disk is full" if error.errno in DISK_FULL else error.strerror or error
        raise InputError(f"--output {output}: {reason}; give another directory") from error
    except InputError as error:  # the user knows no other directory than theirs
        raise InputError(str(error).replace(str(working), str(output))) from error
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return report


def _check_output(output: Path) -> None:
    if not output.name:
        raise InputError(f"--output {str(output)!r}: give a new directory")
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file; give a directory")
    if output.is_dir() and any(output.iterdir()):
        raise InputError(f"--output {output} is not empty; give a new directory")
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--output {output}: {existing} cannot be written to; give another directory")


def _check_finished(source: Path) -> None:
    is_run = (source / "config.yaml").is_file()
    if is_run and (source / "checkpoints").is_dir() and not (source / "results.json").is_file():
        raise InputError(f"--model {source} is a run that is not finished: continue it with --resume")
    if is_run:
        resolve_directory(source)


def _sizes(directory: Path) -> dict[str, int]:
    """Returns the bytes of each file by its path in the directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in files}
