"""GPT's decoder as published and as `transformers` computes it: pre-layer-norm, tanh GELU, learned positions.

With other settings in its config it is a Llama. Reference: Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners".
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kerasllm.layers import TransformerDecoderBlock, TransformerEmbeddings
from kerasllm.layers.attention import combined_mask
from kerasllm.layers.heads import FinalNorm
from kerasllm.layers.positions import rotary_tables
from kerasllm.layers.recomputation import run_block
from kerasllm.models.base import LanguageModel
from kerasllm.models.gpt.config import GPTConfig


@keras.saving.register_keras_serializable(package="kerasllm")
class GPTBackbone(LanguageModel):
    """A GPT decoder without a language-model head.

    Args:
        config: the architecture.
        lora_rank: rank of the low-rank adapters beside the blocks' projections, which alone are trained; 0 for none.
        lora_alpha: the adapters' outputs are scaled by lora_alpha / lora_rank; the default is twice the rank.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`.

    Call it with a dict of `token_ids` int (batch, length) and these optional entries: `padding_mask` (batch, length),
    1 for real tokens, is needed only if padding comes *before* tokens, as attention is causal; `sequence_ids` int
    (batch, length) restricts attention to tokens with the same number; `position_ids` int (batch, length) are 0, 1,
    2 … by default. It returns a dict of `sequence_output` (batch, length, hidden_dim).
    """

    config_class = GPTConfig
    accepted_inputs = ("token_ids", "padding_mask", "position_ids", "sequence_ids")

    def __init__(
        self,
        config: GPTConfig,
        *,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, seed=seed, **kwargs)
        if lora_rank < 0:
            raise ValueError(f"lora_rank is {lora_rank}, it must be at least 0")
        self.lora_rank, self.lora_alpha = lora_rank, lora_alpha
        self.embeddings = TransformerEmbeddings(
            vocabulary_size=config.vocabulary_size,
            max_sequence_length=config.max_sequence_length,
            hidden_dim=config.hidden_dim,
            num_segments=0,
            learned_positions=config.positions == "learned",
            normalize=False,
            truncated=False,
            dropout=config.embedding_dropout or 0.0,
            standard_deviation=config.initializer_range,
            seed=self.seed,
            dtype=self.dtype_policy,
            name="embeddings",
        )
        self.blocks = [
            TransformerDecoderBlock(
                num_heads=config.num_heads,
                num_key_value_heads=config.key_value_heads,
                intermediate_dim=config.intermediate_dim or 4 * config.hidden_dim,
                activation=config.activation,
                feed_forward=config.feed_forward,
                normalization=config.normalization,
                layer_norm_epsilon=config.layer_norm_epsilon,
                use_bias=config.use_bias,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout or 0.0,
                standard_deviation=config.initializer_range,
                residual_deviation=config.initializer_range / math.sqrt(2 * config.num_layers),
                lora_rank=lora_rank,
                lora_alpha=lora_alpha,
                seed=self.seed,
                dtype=self.dtype_policy,
                name=f"block_{index}",
            )
            for index in range(config.num_layers)
        ]
        self.final_norm = FinalNorm(
            normalization=config.normalization,
            layer_norm_epsilon=config.layer_norm_epsilon,
            use_bias=config.use_bias,
            dtype=self.dtype_policy,
            name="final_norm",
        )
        self.embeddings.build((None, None))
        for block in self.blocks:
            block.build((None, None, config.hidden_dim))
        self.final_norm.build((None, None, config.hidden_dim))
        if lora_rank:
            self.embeddings.trainable = self.final_norm.trainable = False
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        mask = combined_mask(inputs.get("padding_mask"), inputs.get("sequence_ids"), is_causal=True)
        hidden, rotary = self.embed(inputs["token_ids"], inputs.get("position_ids"), training=training)
        for block in self.blocks:
            # (batch, length, hidden_dim)
            hidden = run_block(block, hidden, mask, rotary, training=training, recompute=self.recompute)
        return {"sequence_output": self.final_norm(hidden)}

    def embed(self, token_ids, position_ids=None, training=False):
        """Returns the input of the first block (batch, length, hidden_dim), and the rotary tables or None."""
        if self.config.positions == "learned":
            return self.embeddings(token_ids, None, position_ids, training=training), None
        if position_ids is None:
            position_ids = ops.arange(ops.shape(token_ids)[1])[None]
        tables = rotary_tables(position_ids, self.config.head_dim, self.config.rotary_base)
        return self.embeddings(token_ids, training=training), tables

    def extend(self, token_ids, position_ids, mask, caches, cache_position):
        """Runs new tokens of sequences whose earlier keys and values are in caches.

        Args:
            token_ids: int (batch, new): one new token per sequence, or whole prompts for empty caches.
            position_ids: int (batch, new).
            mask: boolean; (batch, 1, capacity) for one new token; for prompts, broadcastable to
                (batch, heads, new, new), or None for causal attention without padding.
            caches: the keys and values of each block, as `TransformerDecoderBlock` takes them.
            cache_position: int scalar, the cache column of the first new token; int (batch,) if each has its own.

        Returns:
            The hidden states (batch, new, hidden_dim) and the updated caches.
        """
        hidden, rotary = self.embed(token_ids, position_ids)
        if token_ids.shape[1] == 1:
            mask = mask[:, None]
        extended = []
        for block, cache in zip(self.blocks, caches, strict=True):
            hidden, cache = block(hidden, mask, rotary, cache=cache, cache_position=cache_position)
            extended.append(cache)
        return self.final_norm(hidden), extended

    def get_config(self):
        """Returns Keras' own settings, the fields of the config, the seed, and `lora_rank` and `lora_alpha`."""
        return super().get_config() | {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha}
