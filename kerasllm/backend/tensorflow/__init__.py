"""The operators of `kerasllm.backend` for TensorFlow."""
