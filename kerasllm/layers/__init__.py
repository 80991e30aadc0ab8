"""Keras layers of which the models are made; they also serve in a functional model of one's own."""

from kerasllm.layers.decoder_block import TransformerDecoderBlock
from kerasllm.layers.embeddings import TransformerEmbeddings
from kerasllm.layers.encoder_block import TransformerEncoderBlock
from kerasllm.layers.heads import ClassificationHead, MaskedLanguageModelHead, Pooler
from kerasllm.layers.initializers import KeyedNormal, KeyedTruncatedNormal

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
