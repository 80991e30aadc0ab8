"""The operators of `kerasllm.backend` for PyTorch."""
