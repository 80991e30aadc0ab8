"""The encoder-decoder's task model: a language model of the target, given the source."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.layers.attention import combined_mask
from kerasllm.layers.heads import OutputBias, VocabularyHead
from kerasllm.layers.projections import dense
from kerasllm.losses import CausalLanguageModelLoss
from kerasllm.models.construction import checked_backbone
from kerasllm.models.projecting import ProjectsInLoss
from kerasllm.models.seq2seq.backbone import Seq2SeqBackbone
from kerasllm.models.seq2seq.config import Seq2SeqConfig


@keras.saving.register_keras_serializable(package="kerasllm")
class Seq2SeqLM(ProjectsInLoss):
    """A model of target texts given source texts, for translation and other text-to-text tasks.

    Args:
        config: the architecture.
        backbone: an existing backbone; the default is a new one.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`, which is a given backbone's unless something else is said.

    Call it with the dict that the backbone takes. It returns logits (batch, target_length, vocabulary_size); those at
    position i predict target token i, as `decoder_token_ids` are the target shifted by one. If it is compiled with a
    `CausalLanguageModelLoss` and no metrics, `fit` and `evaluate` project to the vocabulary inside the loss, a chunk of
    tokens at a time.
    """

    config_class = Seq2SeqConfig

    def __init__(
        self,
        config: Seq2SeqConfig,
        *,
        backbone: Seq2SeqBackbone | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, backbone=backbone, seed=seed, **kwargs)
        inputs = ("encoder_token_ids", "decoder_token_ids")
        self.backbone = checked_backbone(self, backbone, Seq2SeqBackbone, *inputs)
        self.head = None
        if not config.tie_embeddings:
            self.head = VocabularyHead(
                vocabulary_size=config.vocabulary_size,
                standard_deviation=config.initializer_range,
                seed=self.seed,
                dtype=self.dtype_policy,
                name="head",
            )
            self.head.build((None, None, config.hidden_dim))
        self.output_bias = OutputBias(
            vocabulary_size=config.vocabulary_size, dtype=self.dtype_policy, name="output_bias"
        )
        self.output_bias.build((None, None, config.vocabulary_size))
        self._has_output_bias = False
        self.built = True

    @property
    def output_table(self) -> Any:
        """The table of the output projection, (vocabulary_size, hidden_dim); padding's row is zero."""
        if self.head is not None:
            return self.head.kernel
        embeddings = self.backbone.embeddings
        return embeddings.without_padding(ops.convert_to_tensor(embeddings.token))

    @property
    def can_project_in_loss(self) -> bool:
        """Whether there is no output bias, which the loss could not add, as `fit` and `evaluate` begin."""
        return not self._has_output_bias

    def make_train_function(self, force=False):
        """Calls Keras' own method, after a look at the output bias, whose value a compiled step could not ask for."""
        self._has_output_bias = bool(np.any(ops.convert_to_numpy(self.output_bias.bias)))
        return super().make_train_function(force)

    def make_test_function(self, force=False):
        """Calls Keras' own method, after a look at the output bias, as `make_train_function` does."""
        self._has_output_bias = bool(np.any(ops.convert_to_numpy(self.output_bias.bias)))
        return super().make_test_function(force)

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.backbone(inputs, training=training)["sequence_output"]
        return hidden if self.projects_in_loss else self.project(hidden)

    @property
    def label_counts(self):
        """The tokens."""
        return {"tokens": self.config.vocabulary_size}

    def default_loss(self, reduction="mean_with_sample_weight"):
        """Returns a `CausalLanguageModelLoss` with label smoothing, as the paper has it."""
        return CausalLanguageModelLoss(label_smoothing=0.1, reduction=reduction)

    def project(self, hidden):
        """Returns the logits (batch, length, vocabulary_size) of hidden states (batch, length, hidden_dim)."""
        return self.output_bias(dense(hidden, self.output_table, transposed=True))

    def prefill(self, token_ids, starts, capacity):
        """See `kerasllm.generation.protocol.GenerativeModel`; the prompts are the sources.

        The first of a row's new tokens is the decoder's second, as a target begins with the padding token.
        """
        config = self.config
        rows, width = token_ids.shape
        columns = ops.arange(width, dtype="int32")[None]
        real = columns >= starts[:, None]
        positions = ops.maximum(columns - starts[:, None], 0)
        encoded = self.backbone.encode(token_ids, real, positions)
        cross = [block.cross_keys_and_values(encoded) for block in self.backbone.decoder_blocks]
        kind = backend.decoding.cache_type(self.compute_dtype)
        cross = [tuple(ops.cast(part, kind) for part in cache) for cache in cross]
        shape = (rows * config.num_heads, capacity - width + 1, config.head_dim)
        own = [(ops.zeros(shape, kind), ops.zeros(shape, kind)) for _ in cross]
        caches = {"own": own, "cross": cross, "mask": combined_mask(real)}
        begin = ops.full((rows,), config.pad_token_id, dtype="int32")
        return self.step(begin, width - 1, starts, caches)

    def step(self, token_ids, column, starts, caches):
        """See `kerasllm.generation.protocol.GenerativeModel`."""
        capacity = caches["own"][0][0].shape[1]
        cross_mask = caches["mask"]  # (rows, 1, 1, width)
        column = column - cross_mask.shape[-1] + 1  # the decoder's
        mask = ops.arange(capacity, dtype="int32") <= column
        mask = ops.broadcast_to(mask[None, None, None], (token_ids.shape[0], 1, 1, capacity))
        own, cross = caches["own"], caches["cross"]
        hidden, own = self.backbone.extend(token_ids[:, None], column, mask, cross_mask, own, cross)
        return self._next_logits(hidden[:, 0]), caches | {"own": own}

    def reorder(self, caches, rows):
        """See `kerasllm.generation.protocol.GenerativeModel`; a row's beams have the same source."""

        def taken(cache):  # (rows * heads, capacity, head_dim): the heads of a row stay together
            whole = ops.reshape(cache, (cache.shape[0] // self.config.num_heads, -1))
            return ops.reshape(ops.take(whole, rows, axis=0), (-1, *cache.shape[1:]))

        found = caches | {"own": [tuple(map(taken, cache)) for cache in caches["own"]]}
        if rows.shape[0] != caches["mask"].shape[0]:
            found["cross"] = [tuple(map(taken, cache)) for cache in caches["cross"]]
            found["mask"] = ops.take(caches["mask"], rows, axis=0)
        return found

    def _next_logits(self, hidden):
        """Returns the logits (rows, vocabulary_size) of hidden states; padding is never the next token."""
        logits = self.output_bias(backend.decoding.scores(hidden, ops.convert_to_tensor(self.output_table)))
        pad = ops.arange(self.config.vocabulary_size) == self.config.pad_token_id
        return ops.where(pad[None], ops.cast(-1e9, logits.dtype), logits)
