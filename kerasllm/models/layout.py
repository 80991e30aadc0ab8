"""Where the weights of Transformers lie on several devices: which axis is divided among which devices.

The projections into heads and into the feed-forward network are divided by their outputs, those back by their inputs,
so that "tensor" devices exchange one sum a branch (Megatron). "fsdp" divides the other axis of each matrix, which is
gathered where it is needed. Vectors other than the biases of divided outputs are whole on every device.

Reference: Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053; Zhao et al. 2023, https://arxiv.org/abs/2304.11277.
"""

from __future__ import annotations

_INTO = r"(query_key_value|cross_attention_query|cross_attention_key_value|intermediate)"
_BACK = r"(attention_output|cross_attention_output|output)"

TRANSFORMER_LAYOUT: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embeddings/token", ("tensor", "fsdp")),
    (r"embeddings/(position|segment)", (None, "fsdp")),
    (rf"\w*block_\d+/{_INTO}_kernel", ("fsdp", "tensor")),
    (rf"\w*block_\d+/{_INTO}_bias", ("tensor",)),
    (rf"\w*block_\d+/{_BACK}_kernel", ("tensor", "fsdp")),
    (r"head/kernel", ("tensor", "fsdp")),
    (r"(pooler|masked_lm_head|next_sentence_head|classifier|regressor)/kernel", ("fsdp", None)),
    (r"masked_lm_head/vocabulary_bias", ("tensor",)),
)
"""The rules for BERT, GPT and the encoder-decoder, as `Family.layout` takes them."""
