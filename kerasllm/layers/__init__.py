"""Keras layers of which the models are made; they also serve in a functional model of one's own."""

from kerasllm.layers.decoder import TransformerDecoderBlock
from kerasllm.layers.embeddings import TransformerEmbeddings
from kerasllm.layers.heads import ClassificationHead, MaskedLanguageModelHead, Pooler
from kerasllm.layers.initializers import KeyedNormal, KeyedTruncatedNormal
from kerasllm.layers.transformer import TransformerEncoderBlock

__all__ = [
    "ClassificationHead",
    "KeyedNormal",
    "KeyedTruncatedNormal",
    "MaskedLanguageModelHead",
    "Pooler",
    "TransformerDecoderBlock",
    "TransformerEmbeddings",
    "TransformerEncoderBlock",
]
