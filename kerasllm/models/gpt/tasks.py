"""GPT's task model: a causal language model whose output projection is tied to the embedding or separate."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.attention import combined_mask
from kerasllm.layers.heads import VocabularyHead
from kerasllm.layers.projections import dense
from kerasllm.losses import CausalLanguageModelLoss
from kerasllm.models.base import LanguageModel
from kerasllm.models.gpt.backbone import GPTBackbone
from kerasllm.models.gpt.config import GPTConfig


@keras.saving.register_keras_serializable(package="kerasllm")
class GPTCausalLM(LanguageModel):
    """A causal language model, which predicts the next token at each position.

    Args:
        config: the architecture.
        backbone: an existing backbone; the default is a new one.
        lora_rank: as in `GPTBackbone`; used only for a new backbone.
        lora_alpha: as in `GPTBackbone`; used only for a new backbone.
        seed: seed of the initial values and of dropout.

    Call it with the dict that the backbone takes. It returns logits (batch, length, vocabulary_size); those at position
    i predict token i + 1. If it is compiled with a `CausalLanguageModelLoss` and no metrics, `fit` and `evaluate`
    project to the vocabulary inside the loss, a chunk of tokens at a time.
    """

    config_class = GPTConfig

    def __init__(
        self,
        config: GPTConfig,
        *,
        backbone: GPTBackbone | None = None,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        name: str | None = None,
    ):
        super().__init__(config, seed=seed, name=name)
        if backbone is None:
            backbone = GPTBackbone(config, lora_rank=lora_rank, lora_alpha=lora_alpha, seed=self.seed)
        elif backbone.config != config:
            raise ValueError(
                f"the backbone was made with another config: {backbone.config} instead of {config}"
            )
        self.backbone = backbone
        self.head = None
        if not config.tie_embeddings:
            self.head = VocabularyHead(
                vocabulary_size=config.vocabulary_size,
                standard_deviation=config.initializer_range,
                seed=self.seed,
                name="head",
            )
            self.head.build((None, None, config.hidden_dim))
            self.head.trainable = not backbone.lora_rank
        self._projects_in_loss = False
        self.built = True

    @property
    def output_table(self) -> Any:
        """The table of the output projection, (vocabulary_size, hidden_dim)."""
        return self.backbone.embeddings.token if self.head is None else self.head.kernel

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.backbone(inputs, training=training)["sequence_output"]
        return hidden if self._projects_in_loss else self.project(hidden)

    @property
    def label_counts(self):
        """The tokens."""
        return {"tokens": self.config.vocabulary_size}

    def default_loss(self, reduction="mean_with_sample_weight"):
        """Returns a `CausalLanguageModelLoss`."""
        return CausalLanguageModelLoss(reduction=reduction)

    def project(self, hidden):
        """Returns the logits (batch, length, vocabulary_size) of hidden states (batch, length, hidden_dim)."""
        return dense(hidden, self.output_table, transposed=True)

    def train_step(self, *args):
        """Runs a training step, in which the loss may project to the vocabulary; see the class."""
        with _Projecting(self):
            return super().train_step(*args)

    def test_step(self, *args):
        """Runs an evaluation step, in which the loss may project to the vocabulary; see the class."""
        with _Projecting(self):
            return super().test_step(*args)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the compiled loss, from hidden states if `call` left the projection to the loss."""
        if not self._projects_in_loss:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        with self.loss.projecting(self.output_table, differentiable=training):
            return super().compute_loss(x, y, y_pred, sample_weight, training)

    def generate(self, prompts: Any, **settings: Any) -> Any:
        """Continues prompts, greedily by default; see `kerasllm.generation.continuation.Settings`.

        Args:
            prompts: int (batch, length) or (length,), or a list of lists of different lengths; with a
                `tokenizer` also a text or a list of texts.
            settings: the arguments of `kerasllm.generation.generate`: `max_new_tokens`, `tokenizer` and others.

        Returns:
            The prompts with their continuations, in the form of the prompts: an int32 array (batch, length + new),
            lists, or texts.
        """
        from kerasllm.generation import generate  # imported here, as training does not need it

        return generate(self, prompts, **settings)

    def prefill(self, token_ids, starts, capacity):
        """See `kerasllm.generation.protocol.GenerativeModel`; the caches are the keys and values of each block."""
        rows, width = token_ids.shape
        config = self.config
        columns = ops.arange(width, dtype="int32")[None]
        positions = ops.maximum(columns - starts[:, None], 0)
        shape = (rows * config.key_value_heads, capacity, config.head_dim)
        cache_type = backend.decoding.cache_type(self.compute_dtype)
        caches = [
            (ops.zeros(shape, cache_type), ops.zeros(shape, cache_type)) for _ in range(config.num_layers)
        ]
        mask = combined_mask(columns >= starts[:, None], is_causal=True)
        hidden, caches = self.backbone.extend(token_ids, positions, mask, caches, 0)
        return self._next_logits(hidden[:, -1]), caches

    def step(self, token_ids, column, starts, caches):
        """See `kerasllm.generation.protocol.GenerativeModel`."""
        starts = starts[:, None]
        columns = ops.arange(caches[0][0].shape[1], dtype="int32")[None]
        mask = ops.logical_and(columns >= starts, columns <= column)[:, None]  # (rows, 1, capacity)
        # A row that has used up its positions may run on beside others; its results are ignored.
        positions = ops.minimum(column - starts, self.config.max_sequence_length - 1)
        hidden, caches = self.backbone.extend(token_ids[:, None], positions, mask, caches, column)
        return self._next_logits(hidden[:, 0]), caches

    def reorder(self, caches, rows):
        """See `kerasllm.generation.protocol.GenerativeModel`."""

        def taken(cache):  # (rows * heads, capacity, head_dim): the heads of a row stay together
            whole = ops.reshape(cache, (cache.shape[0] // self.config.key_value_heads, -1))
            return ops.reshape(ops.take(whole, rows, axis=0), (-1, *cache.shape[1:]))

        return [tuple(map(taken, cache)) for cache in caches]

    def _next_logits(self, hidden):
        """Returns the logits (rows, vocabulary_size) of hidden states (rows, hidden_dim), by a product for few rows."""
        return backend.decoding.scores(hidden, ops.convert_to_tensor(self.output_table))

    def get_config(self):
        """Returns the fields of the config, and `lora_rank` and `lora_alpha`."""
        own = {"lora_rank": self.backbone.lora_rank, "lora_alpha": self.backbone.lora_alpha}
        return super().get_config() | own


class _Projecting:
    """A context in which `call` returns hidden states, if the loss can project them to the vocabulary itself."""

    def __init__(self, model: GPTCausalLM) -> None:
        self.model = model
        metrics = getattr(model, "_compile_metrics", None)
        unmetered = metrics is None or not (metrics._user_metrics or metrics._user_weighted_metrics)
        loss = getattr(model, "loss", None)
        # What a subclass computes from the outputs, it is to compute from logits.
        names = ("call", "project", "compute_loss", "compute_metrics")
        plain = all(getattr(type(model), name) is getattr(GPTCausalLM, name) for name in names)
        self.possible = isinstance(loss, CausalLanguageModelLoss) and loss.projects and unmetered and plain

    def __enter__(self) -> None:
        self.model._projects_in_loss = self.possible

    def __exit__(self, *error: Any) -> None:
        self.model._projects_in_loss = False
