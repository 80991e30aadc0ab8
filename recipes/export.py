"""Exports a trained run for other programs: ONNX, GGUF for llama.cpp, TensorFlow's SavedModel, adapters for PEFT.

KERAS_BACKEND=jax python recipes/export.py --model runs/mine --format onnx --output exported
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from kerasllm import cli
from kerasllm.export.directory import FileFormat, Precision, export_model
from kerasllm.training.callbacks.progress import in_words


@dataclass
class Config:
    """Exports a trained model, and compares the exported file with the model."""

    model: str
    """A run, a model directory or a hub id."""

    format: FileFormat
    """onnx for onnxruntime and transformers.js; gguf for llama.cpp; tf_saved_model for TensorFlow; peft: adapters."""

    output: str
    """New directory for the files."""

    precision: Precision = "float32"
    """Precision of the weights: float16 and int8 (q8_0) with gguf; int8 beside float32 with onnx."""


def main(config: Config) -> int:
    """Exports the model, and says what was written and how it compares."""
    report = export_model(config.model, config.output, config.format, config.precision)
    for name, size in report["files"].items():
        print(f"{name}: {size / 1e6:,.1f} MB" if size >= 100_000 else f"{name}: {size:,} bytes")
    print_comparison("", report.get("comparison"))
    small = report.get("int8", {})
    print_comparison("8-bit weights: ", small.get("comparison"))
    for name in ("before", "after"):
        if name in small:
            print(f"validation {name}: {in_words(small[name])}")
    for note in report.get("notes", ()):
        print(f"note: {note}", file=sys.stderr)
    print(f"written to {config.output}")
    return 0


def print_comparison(prefix: str, found: dict[str, Any] | None) -> None:
    """Prints how far the file's results are from the model's."""
    if found:
        same = found["same_choice"]
        also = "" if same is None else f"; the same choice in {100 * same:.4g} % of cases"
        difference = f"{found['greatest_difference']:.2g}{also}"
        print(f"{prefix}greatest difference from the model on {found['texts']} texts: {difference}")


if __name__ == "__main__":
    cli.run(main, Config)
