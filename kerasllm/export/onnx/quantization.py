"""Quantization of ONNX files to 8-bit weights."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic


def quantize(path: Path, target: Path, is_large: bool) -> None:
    """Writes a file with 8-bit weights; what they are multiplied with is rounded to 8 bits as it is computed.

    Args:
        path: the file with float32 weights.
        target: the file to write.
        is_large: whether the new file's weights lie beside it.

    Reference: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "dynamic quantization".
    """
    root = logging.getLogger()
    before, root.disabled = root.disabled, True  # it advises to make the file anew, which helps nothing here
    try:
        quantize_dynamic(
            path,
            target,
            per_channel=True,
            reduce_range=True,  # processors without VNNI add two products in 16 bits, which 8-bit weights overflow
            weight_type=QuantType.QInt8,
            use_external_data_format=is_large,
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )
    finally:
        root.disabled = before
    onnx.checker.check_model(str(target))
