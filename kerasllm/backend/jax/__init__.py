"""The operators of `kerasllm.backend` for JAX."""
