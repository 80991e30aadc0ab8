"""Writing of a model to ONNX, with a comparison of the files and the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.checkpoints.writing import write_description
from kerasllm.export.comparison import Comparison, compare
from kerasllm.export.onnx.exporters import ExportedModel, exporter_of
from kerasllm.export.onnx.files import LARGEST, write_graph
from kerasllm.export.onnx.quantization import quantize
from kerasllm.export.onnx.sessions import Sessions

_FOLDER, _QUANTIZED = "onnx", "_quantized"


def write_onnx(
    model: Any,
    tokenizer: Any,
    directory: Path,
    precision: str,
    figures: Callable[[Any], dict[str, Any]] | None = None,
    largest: int = LARGEST,
) -> dict[str, Any]:
    """Writes a model's ONNX files, its config.json and the tokenizer's files, and compares the files with the model.

    Args:
        model: a model of one of the classes in `EXPORTERS`.
        tokenizer: its tokenizer.
        directory: an empty directory.
        precision: "float32", or "int8" for files with 8-bit weights, too.
        figures: a function of a model that returns its figures on validation data, for 8-bit weights.
        largest: the most bytes of weights in one file.

    Returns:
        The differences, and for "int8" also the figures and the seconds of both.

    Raises:
        InputError: the class cannot be written to ONNX, or a file's results differ from the model's.
    """
    folder = directory / _FOLDER
    folder.mkdir()
    graphs = exporter_of(model).graphs(model)
    sizes = {name: sum(array.nbytes for array in graph.weights.values()) for name, graph in graphs.items()}
    for name, graph in graphs.items():
        write_graph(graph, folder / f"{name}.onnx", largest)
    names = list(graphs)
    graphs.clear()
    write_description(model, directory, tokenizer=tokenizer)
    exported = ExportedModel(model, Sessions(folder, names))
    report: dict[str, Any] = {
        "comparison": compare(model, exported, tokenizer).checked(folder, precision="float32")
    }
    if precision == "int8":
        for name in names:
            is_large = sizes[name] > 4 * largest
            quantize(folder / f"{name}.onnx", folder / f"{name}{_QUANTIZED}.onnx", is_large)
        small = ExportedModel(model, Sessions(folder, names, _QUANTIZED))
        found: Comparison = compare(model, small, tokenizer)
        report["int8"] = {"comparison": found.as_dict()} | _measured(exported, small, figures)
    return report


def _measured(
    before: ExportedModel, after: ExportedModel, figures: Callable[[Any], dict[str, Any]] | None
) -> dict[str, Any]:
    """Returns the figures on the validation data before and after, and the seconds that they took."""
    if figures is None:
        return {}
    report: dict[str, Any] = {}
    for name, model in (("before", before), ("after", after)):
        began = time.perf_counter()
        report[name] = figures(model)
        report[name]["seconds"] = float(np.round(time.perf_counter() - began, 3))
    return report
