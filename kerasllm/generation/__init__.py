"""Text generation with any model that has the methods of `kerasllm.generation.protocol.GenerativeModel`."""

from kerasllm.generation.continuation import generate
from kerasllm.generation.protocol import GenerativeModel

__all__ = ["GenerativeModel", "generate"]
