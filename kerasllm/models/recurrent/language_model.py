"""The recurrent language model, which carries its state from batch to batch where the data says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from kerasllm import backend
from kerasllm.errors import InputError
from kerasllm.layers.heads import VocabularyHead
from kerasllm.layers.projections import dense
from kerasllm.layers.recurrent import CarriedState
from kerasllm.losses import CausalLanguageModelLoss
from kerasllm.models.construction import checked_backbone
from kerasllm.models.projecting import ProjectsInLoss
from kerasllm.models.recurrent.backbone import RecurrentBackbone
from kerasllm.models.recurrent.config import RecurrentConfig


@keras.saving.register_keras_serializable(package="kerasllm")
class RecurrentLM(ProjectsInLoss):
    """A recurrent language model, which predicts the next token at each position.

    Args:
        config: the architecture, of one direction.
        backbone: an existing backbone; the default is a new one.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`, which is a given backbone's unless something else is said.

    Call it with the dict that the backbone takes. It returns logits (batch, length, vocabulary_size); those at position
    i predict token i + 1. A row begins with a state of zeros, unless the dict has `continues` (batch,), 1 where a row
    goes on from the same row of the batch before; `carry_state` must have made place for that. No gradient goes back
    into the batch before (truncated back-propagation through time).

    Reference: Mikolov et al. 2010, "Recurrent neural network based language model".
    """

    config_class = RecurrentConfig
    accepted_inputs = ("token_ids", "padding_mask", "continues")

    def __init__(
        self,
        config: RecurrentConfig,
        *,
        backbone: RecurrentBackbone | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, backbone=backbone, seed=seed, **kwargs)
        if config.bidirectional:
            raise ValueError("bidirectional is True: a language model reads in one direction")
        self.backbone = checked_backbone(self, backbone, RecurrentBackbone)
        self.head = None
        if not config.tie_embeddings:
            self.head = VocabularyHead(
                vocabulary_size=config.vocabulary_size,
                use_bias=True,
                standard_deviation=(3 * config.output_dim) ** -0.5,
                seed=self.seed,
                dtype=self.dtype_policy,
                name="head",
            )
            self.head.build((None, None, config.output_dim))
        self.training_state: CarriedState | None = None
        self.evaluation_state: CarriedState | None = None
        self.generation_settings: dict[str, Any] | None = None
        self.built = True

    def carry_state(self, *, training_rows: int = 0, evaluation_rows: int = 0, parts: int = 1) -> None:
        """Makes place for the states that are carried; call it before the model is first used.

        Args:
            training_rows: rows of a batch in training; 0 for none.
            evaluation_rows: rows of a batch in evaluation, which has a state of its own; 0 for none.
            parts: number of batches of a training step (gradient accumulation), whose rows are different texts.
        """
        wide = self.config.hidden_dim
        count = sum(len(part) for layer in self._begin(1) for part in layer)
        if training_rows:
            shapes = [(training_rows, wide)] * count
            # On JAX the array is one over all processes.
            share = backend.share()[:2] if backend.sums_gradients else (0, 1)
            self.training_state = CarriedState(shapes, parts, share, name="training_state")
        if evaluation_rows:
            shapes = [(evaluation_rows, wide)] * count
            self.evaluation_state = CarriedState(shapes, name="evaluation_state")

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **settings: Any) -> None:
        """Compiles the model as `LanguageModel` does, on PyTorch without its compiler.

        PyTorch has kernels for whole recurrent layers; its compiler would take them apart, step by step.
        """
        if backend.name == "torch":
            settings["jit_compile"] = False
        super().compile(optimizer, loss, **settings)

    @property
    def output_table(self) -> Any:
        """The table of the output projection, (vocabulary_size, output_dim), or with a last column of biases."""
        if self.head is None:
            return self.backbone.embeddings.token
        kernel, bias = map(ops.convert_to_tensor, (self.head.kernel, self.head.bias))
        return ops.concatenate([kernel, bias[:, None]], axis=1)

    def call(self, inputs, training=False):
        """See the class."""
        token_ids, continues = inputs["token_ids"], inputs.get("continues")
        carried = self._place(continues, training)
        state = None
        if carried is not None:
            state = keras.tree.pack_sequence_as(self._begin(1), carried.read(continues))
        hidden, last = self.backbone.run(token_ids, state, inputs.get("padding_mask"), training=training)
        if carried is not None:
            carried.write(keras.tree.flatten(last))
        return self._for_table(hidden) if self.projects_in_loss else self.project(hidden)

    def _place(self, continues, training):
        """Returns what holds the state for a batch, or None if it begins with zeros.

        Before training, Keras tries a model with a batch of training as if it were evaluated, which carries nothing.

        Raises:
            InputError: there is no place for the state of so many rows.
        """
        if continues is None:
            return None
        carried = self.training_state if training else self.evaluation_state
        rows = continues.shape[0]
        if carried is not None and rows in (None, carried.rows):
            return carried
        if not training and self.training_state is not None and rows == self.training_state.rows:
            return None
        raise InputError(
            f"a batch of {rows} rows continues another, and the model has a state of "
            f"{0 if carried is None else carried.rows} rows: call carry_state, with the number of rows of a batch"
        )

    def _begin(self, rows):
        """Returns the state that texts begin with."""
        return [layer.begin(rows) for layer in self.backbone.recurrent_layers]

    @property
    def label_counts(self):
        """The tokens."""
        return {"tokens": self.config.vocabulary_size}

    def default_loss(self, reduction="mean_with_sample_weight"):
        """Returns a `CausalLanguageModelLoss`."""
        return CausalLanguageModelLoss(reduction=reduction)

    def project(self, hidden):
        """Returns the logits (batch, length, vocabulary_size) of hidden states (batch, length, output_dim)."""
        if self.head is not None:
            return self.head(hidden)
        return dense(hidden, self.output_table, transposed=True)

    def _for_table(self, hidden):
        """Returns hidden states with a last column of ones if the table has one of biases."""
        if self.head is None:
            return hidden
        return ops.concatenate([hidden, ops.ones_like(hidden[..., :1])], axis=-1)

    def generate(
        self,
        prompts: Any,
        *,
        tokenizer: Any = None,
        stop_token_ids: Sequence[int] | None = None,
        on_tokens: Callable[[int, list[int]], None] | None = None,
        **settings: Any,
    ) -> Any:
        """Continues prompts, greedily unless a setting of sampling is given; see `GPTCausalLM.generate`.

        Args:
            prompts: int (batch, length) or (length,), or a list of lists of different lengths; with a
                `tokenizer` also a text or a list of texts.
            tokenizer: a tokenizer of the `tokenizers` library, which text prompts and stop texts need.
            stop_token_ids: tokens that end a row; the default is the model's end token.
            on_tokens: a function that is called with a row's number and its new tokens, token by token.
            settings: the other settings of `kerasllm.generation.continuation.Settings`.

        Returns:
            The prompts with their continuations, in the form of the prompts.

        Raises:
            kerasllm.errors.InputError: a prompt is empty or holds an unknown token or character, or a setting is out of
                range.
        """
        from kerasllm.generation import generate  # imported here, as training does not need it

        return generate(
            self,
            prompts,
            tokenizer=tokenizer,
            stop_token_ids=stop_token_ids,
            on_tokens=on_tokens,
            **settings,
        )

    def prefill(self, token_ids, starts, capacity):
        """See `kerasllm.generation.protocol.GenerativeModel`; the caches are the state, of one size for ever."""
        columns = ops.arange(token_ids.shape[1], dtype="int32")[None]
        hidden, state = self.backbone.run(token_ids, None, columns >= starts[:, None])
        return self._next_logits(hidden[:, -1]), state

    def step(self, token_ids, column, starts, caches):
        """See `kerasllm.generation.protocol.GenerativeModel`."""
        hidden, state = self.backbone.run(token_ids[:, None], caches)
        return self._next_logits(hidden[:, 0]), state

    def reorder(self, caches, rows):
        """See `kerasllm.generation.protocol.GenerativeModel`."""
        return keras.tree.map_structure(lambda part: ops.take(part, rows, axis=0), caches)

    def _next_logits(self, hidden):
        """Returns the logits (rows, vocabulary_size) of hidden states (rows, output_dim)."""
        return backend.decoding.scores(self._for_table(hidden), ops.convert_to_tensor(self.output_table))
