"""Export of trained models to the formats of other programs: ONNX, GGUF, TensorFlow's SavedModel, and PEFT's adapters.

This package builds on the models and their tasks. Each format has a module, or a folder, that writes its files and
compares them with the model; `kerasllm.export.directory` does what is the same for all.
"""
