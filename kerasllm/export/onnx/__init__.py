"""ONNX graphs of the models, written from their config and weights, so that they are the same on every backend.

Importing this package needs the packages `onnx` and `onnxruntime` (the extra `onnx`).
"""
