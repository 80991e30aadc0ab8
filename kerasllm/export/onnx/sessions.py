"""Exported ONNX files as onnxruntime runs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from kerasllm.errors import InputError

_TYPES: dict[str, type] = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(bool)": np.bool_}


class Sessions:
    """The files of an exported model, opened by onnxruntime on the processor.

    Args:
        directory: the directory of the files.
        names: their names without `.onnx`.
        suffix: what the names of the files end with, such as "_quantized".

    Raises:
        InputError: onnxruntime cannot read a file.
    """

    def __init__(self, directory: Path, names: list[str], suffix: str = "") -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        self._sessions = {}
        for name in names:
            path = directory / f"{name}{suffix}.onnx"
            try:
                self._sessions[name] = onnxruntime.InferenceSession(
                    str(path), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # onnxruntime raises errors of many types
                raise InputError(f"{path}: onnxruntime cannot read it: {_first_line(error)}") from error

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs of a file by name.

        Args:
            name: the file's name without its suffix and `.onnx`.
            inputs: all inputs by name, which are converted to the types that the file takes.
        """
        session = self._sessions[name]
        given: dict[str, np.ndarray] = {
            each.name: inputs[each.name].astype(_TYPES[each.type]) for each in session.get_inputs()
        }
        names = [each.name for each in session.get_outputs()]
        return dict(zip(names, session.run(names, given), strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
