"""The Transformer encoder-decoder, as published and as `transformers` computes Marian.

Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Junczys-Dowmunt et al. 2018,
https://arxiv.org/abs/1804.00344 (Marian).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasllm.layers import TransformerDecoderBlock, TransformerEncoderBlock
from kerasllm.layers.attention import combined_mask
from kerasllm.layers.heads import FinalNorm
from kerasllm.layers.recomputation import run_block
from kerasllm.layers.scaled_embeddings import ScaledEmbeddings
from kerasllm.models.base import LanguageModel
from kerasllm.models.seq2seq.config import Seq2SeqConfig


@keras.saving.register_keras_serializable(package="kerasllm")
class Seq2SeqBackbone(LanguageModel):
    """An encoder and a decoder without a language-model head.

    Args:
        config: the architecture.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`.

    Call it with a dict of `encoder_token_ids` int (batch, source_length), `decoder_token_ids` int
    (batch, target_length), which begin with the padding token, and, optionally, `encoder_padding_mask`
    (batch, source_length), 1 for real tokens. It returns a dict of `encoder_output`
    (batch, source_length, hidden_dim) and `sequence_output` (batch, target_length, hidden_dim).
    """

    config_class = Seq2SeqConfig
    accepted_inputs = ("encoder_token_ids", "decoder_token_ids", "encoder_padding_mask")

    def __init__(self, config: Seq2SeqConfig, *, seed: int | None = None, **kwargs: Any):
        super().__init__(config, seed=seed, **kwargs)
        token_deviation = config.hidden_dim**-0.5 if config.scale_embedding else config.initializer_range
        self.embeddings = ScaledEmbeddings(
            vocabulary_size=config.vocabulary_size,
            max_sequence_length=config.max_sequence_length,
            hidden_dim=config.hidden_dim,
            pad_token_id=config.pad_token_id or 0,
            positions=config.positions,
            scale=config.scale_embedding,
            dropout=config.dropout,
            standard_deviation=token_deviation,
            position_deviation=config.initializer_range,
            seed=self.seed,
            dtype=self.dtype_policy,
            name="embeddings",
        )
        shared: dict[str, Any] = {
            "num_heads": config.num_heads,
            "intermediate_dim": config.intermediate_dim,
            "activation": config.activation,
            "feed_forward": config.feed_forward,
            "normalize_first": config.normalize_first,
            "normalization": config.normalization,
            "layer_norm_epsilon": config.layer_norm_epsilon,
            "dropout": config.dropout,
            "attention_dropout": config.attention_dropout,
            "standard_deviation": config.initializer_range,
            "seed": self.seed,
            "dtype": self.dtype_policy,
        }
        self.encoder_blocks = [
            TransformerEncoderBlock(**shared, name=f"encoder_block_{index}")
            for index in range(config.num_layers)
        ]
        self.decoder_blocks = [
            TransformerDecoderBlock(**shared, cross_attention=True, name=f"decoder_block_{index}")
            for index in range(config.num_decoder_layers or 0)
        ]
        self.encoder_norm = self.decoder_norm = None
        if config.normalize_first:
            settings: dict[str, Any] = {
                "normalization": config.normalization,
                "layer_norm_epsilon": config.layer_norm_epsilon,
                "dtype": self.dtype_policy,
            }
            self.encoder_norm = FinalNorm(**settings, name="encoder_norm")
            self.decoder_norm = FinalNorm(**settings, name="decoder_norm")
        self.embeddings.build((None, None))
        for layer in [*self.encoder_blocks, *self.decoder_blocks, self.encoder_norm, self.decoder_norm]:
            if layer is not None:
                layer.build((None, None, config.hidden_dim))
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        padding_mask = inputs.get("encoder_padding_mask")
        encoded = self.encode(inputs["encoder_token_ids"], padding_mask, training=training)
        hidden = self.embeddings(inputs["decoder_token_ids"], is_target=True, training=training)
        mask = combined_mask(padding_mask)
        for block in self.decoder_blocks:
            given = {"encoder_hidden": encoded, "cross_attention_mask": mask, "training": training}
            hidden = run_block(block, hidden, recompute=self.recompute, **given)
        return {"encoder_output": encoded, "sequence_output": self._last_norm(hidden)}

    def cross_attention(self, inputs):
        """Returns how much each target position attends to each source position, for pictures of it.

        Args:
            inputs: the dict that `call` takes.

        Returns:
            float32 (layers, batch, heads, target_length, source_length); the last axis has sums of 1.
        """
        encoded = self.encode(inputs["encoder_token_ids"], inputs.get("encoder_padding_mask"))
        hidden = self.embeddings(inputs["decoder_token_ids"], is_target=True)
        mask = combined_mask(inputs.get("encoder_padding_mask"))
        weights = []
        for block in self.decoder_blocks:
            weights.append(block.cross_attention_weights(hidden, encoded, mask))
            hidden = block(hidden, encoder_hidden=encoded, cross_attention_mask=mask)
        return ops.stack(weights)

    def encode(self, token_ids, padding_mask=None, position_ids=None, training=False):
        """Returns the encoder's output (batch, source_length, hidden_dim).

        Args:
            token_ids: int (batch, source_length).
            padding_mask: (batch, source_length), 1 for real tokens; None if all are.
            position_ids: int (batch, source_length); None for 0, 1, 2 ….
            training: whether there is dropout.
        """
        hidden = self.embeddings(token_ids, position_ids, training=training)
        mask = combined_mask(padding_mask)
        for block in self.encoder_blocks:
            given = {"attention_mask": mask, "training": training}
            hidden = run_block(block, hidden, recompute=self.recompute, **given)
        return hidden if self.encoder_norm is None else self.encoder_norm(hidden)

    def extend(self, token_ids, column, mask, cross_mask, caches, cross_caches):
        """Runs a new target token of each row, whose earlier keys and values are in caches.

        Args:
            token_ids: int (batch, 1), a new token for each row.
            column: int scalar, its position and cache column.
            mask: boolean (batch, 1, 1, capacity), True for the columns up to it.
            cross_mask: boolean (batch, 1, 1, source_length), True for real tokens.
            caches: the keys and values of each block.
            cross_caches: those of the encoder's output.

        Returns:
            The hidden states (batch, 1, hidden_dim) and the updated caches.
        """
        # A row that has used up its positions may run on beside others; its results are ignored.
        position = ops.minimum(ops.cast(column, "int32"), self.config.max_sequence_length - 1)
        hidden = self.embeddings(token_ids, ops.reshape(position, (1, 1)), is_target=True)
        extended = []
        for block, cache, cross_cache in zip(self.decoder_blocks, caches, cross_caches, strict=True):
            hidden, cache = block(
                hidden,
                mask,
                cross_attention_mask=cross_mask,
                cache=cache,
                cache_position=column,
                cross_cache=cross_cache,
            )
            extended.append(cache)
        return self._last_norm(hidden), extended

    def _last_norm(self, hidden):
        return hidden if self.decoder_norm is None else self.decoder_norm(hidden)
