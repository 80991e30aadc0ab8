"""BERT's encoder as published and as `transformers` computes it: post-layer-norm, exact GELU, epsilon 1e-12.

Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasllm.layers import Pooler, TransformerEmbeddings, TransformerEncoderBlock
from kerasllm.layers.attention import combined_mask
from kerasllm.layers.recomputation import run_block
from kerasllm.models.base import LanguageModel
from kerasllm.models.bert.config import BertConfig
from kerasllm.models.inputs import ALL_INPUTS


@keras.saving.register_keras_serializable(package="kerasllm")
class BertBackbone(LanguageModel):
    """A BERT encoder without task heads.

    Args:
        config: the architecture.
        pooler: whether there is a pooler, which gives the pooled output.
        lora_rank: rank of the low-rank adapters beside the blocks' projections, which alone are trained, with the
            pooler; 0 for none.
        lora_alpha: the adapters' outputs are scaled by lora_alpha / lora_rank; the default is twice the rank.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`.

    Call it with a dict of `token_ids` int (batch, length) and, optionally, `segment_ids` int (batch, length) and
    `padding_mask` (batch, length), 1 for real tokens. It returns a dict of `sequence_output`
    (batch, length, hidden_dim) and `pooled_output` (batch, hidden_dim).

    Several sequences may be packed into a row (`kerasllm.data.batches.packing`). Instead of `padding_mask`, the dict
    then has `sequence_ids` and `position_ids`, both int (batch, length), and `first_positions` int (batch, slots), the
    positions of the sequences' first tokens. The pooled output is then (batch, slots, hidden_dim), and the outputs of
    the task models have a second axis of slots too.

    The task models call it with `only_read=True`: the last block then skips positions that no head reads.
    `sequence_output` is that at `masked_positions` int (batch, slots), and is missing if these are not given.
    """

    config_class = BertConfig
    accepted_inputs = ALL_INPUTS

    def __init__(
        self,
        config: BertConfig,
        *,
        pooler: bool = True,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, seed=seed, **kwargs)
        if lora_rank < 0:
            raise ValueError(f"lora_rank is {lora_rank}, it must be at least 0")
        self.lora_rank, self.lora_alpha = lora_rank, lora_alpha
        shared: dict[str, Any] = {
            "dropout": config.dropout,
            "layer_norm_epsilon": config.layer_norm_epsilon,
            "standard_deviation": config.initializer_range,
            "seed": self.seed,
            "dtype": self.dtype_policy,
        }
        self.embeddings = TransformerEmbeddings(
            vocabulary_size=config.vocabulary_size,
            max_sequence_length=config.max_sequence_length,
            hidden_dim=config.hidden_dim,
            num_segments=config.num_segments,
            name="embeddings",
            **shared,
        )
        self.blocks = [
            TransformerEncoderBlock(
                num_heads=config.num_heads,
                intermediate_dim=config.intermediate_dim or 4 * config.hidden_dim,
                activation=config.activation,
                attention_dropout=config.attention_dropout or 0.0,
                lora_rank=lora_rank,
                lora_alpha=lora_alpha,
                name=f"block_{index}",
                **shared,
            )
            for index in range(config.num_layers)
        ]
        self.pooler = None
        if pooler:
            self.pooler = Pooler(
                standard_deviation=config.initializer_range,
                seed=self.seed,
                dtype=self.dtype_policy,
                name="pooler",
            )

        self.embeddings.build((None, None))
        self.embeddings.trainable = not lora_rank
        for block in self.blocks:
            block.build((None, None, config.hidden_dim))
        if self.pooler is not None:
            self.pooler.build((None, None, config.hidden_dim))
        self.built = True

    def call(self, inputs, only_read=False, training=False):
        """See the class."""
        # With `sequence_ids`, padding attends to padding.
        mask = combined_mask(inputs.get("padding_mask"), inputs.get("sequence_ids"))
        first, masked = inputs.get("first_positions"), inputs.get("masked_positions")
        hidden = self.embeddings(
            inputs["token_ids"], inputs.get("segment_ids"), inputs.get("position_ids"), training=training
        )
        for block in self.blocks[:-1]:
            given = {"attention_mask": mask, "training": training}
            hidden = run_block(
                block, hidden, recompute=self.recompute, **given
            )  # (batch, length, hidden_dim)
        last = self.blocks[-1]
        if not only_read:
            hidden = last(hidden, attention_mask=mask, training=training)
            outputs = {"sequence_output": hidden}
            if self.pooler is not None:
                outputs["pooled_output"] = self.pooler(hidden, first)
            return outputs

        # The last block computes the first positions of the sequences, and after them the masked ones.
        positions, pooled, firsts = [], None, 0
        if self.pooler is not None and first is None:
            positions.append(ops.zeros_like(inputs["token_ids"][:, :1]))
            firsts = 1
        elif self.pooler is not None:
            positions.append(first)
            firsts = ops.shape(first)[1]  # the static shape may be unknown
            pooled = ops.zeros_like(first) + ops.arange(firsts, dtype=first.dtype)
        if masked is not None:
            positions.append(masked)
        query_positions = ops.concatenate([ops.cast(some, "int32") for some in positions], axis=1)
        hidden = last(hidden, attention_mask=mask, query_positions=query_positions, training=training)
        outputs = {}
        if masked is not None:
            outputs["sequence_output"] = hidden[:, firsts:]
        if self.pooler is not None:
            outputs["pooled_output"] = self.pooler(hidden, pooled)
        return outputs

    def get_config(self):
        """Returns Keras' own settings, the fields of the config, the seed, `pooler`, `lora_rank` and `lora_alpha`."""
        own = {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha}
        return super().get_config() | own | {"pooler": self.pooler is not None}
