"""BERT for sentence embeddings: one vector for each text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import keras
from keras import ops

from kerasllm import backend
from kerasllm.backend.hashing import undivided
from kerasllm.layers.heads import ProjectionHead
from kerasllm.layers.pooling import pool_tokens, unit_length
from kerasllm.models.base import LanguageModel
from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.bert.config import BertConfig
from kerasllm.models.bert.construction import adapters_of, make_backbone

PoolingKind = Literal["mean", "cls", "max"]


@keras.saving.register_keras_serializable(package="kerasllm")
class BertEncoder(LanguageModel):
    """A BERT that turns each text into one vector, as the models of sentence-transformers do.

    Args:
        config: the architecture.
        pooling: how the vectors of the tokens become one: their mean, that of [CLS], or the greatest value of each
            coordinate. Padding does not count.
        projection_dim: size of a dense projection of the pooled vector; None for no projection.
        projection_activation: the activation after the projection: "linear" for none, "tanh", "relu" or "gelu".
        normalize: whether the vectors have length 1, so that their dot product is their cosine.
        sequence_length: the most tokens of a text that the model is made for, with special tokens; None means all
            positions.
        prompts: texts that are put before a text, by the name of their purpose, such as "query" and "document".
        default_prompt: the name of the prompt that is used if no purpose is given.
        backbone: an existing backbone; a new one has no pooler.
        lora_rank: as in `BertBackbone`; used only for a new backbone. The projection is trained.
        lora_alpha: as in `BertBackbone`; used only for a new backbone.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`, which is a given backbone's unless something else is said.

    If the attribute `training_parts` is set before `fit`, the rows of a training batch are computed in so many parts,
    one after the other, and again for the gradient: a batch of any size takes the memory of one part, and about a third
    more time. Its loss still compares all texts of the batch (GradCache; Gao et al. 2021,
    https://arxiv.org/abs/2101.06983).

    Call it with the dict that the backbone takes. It returns vectors (batch, dim), or (rows, slots, dim) for packed
    rows, where empty slots hold no text's vector.

    Reference: Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084, section 3.
    """

    config_class = BertConfig
    reads_all = True
    unread = ("pooler.dense",)  # which sentence-transformers' checkpoints have, though it plays no part
    headless = True  # model.safetensors holds the backbone alone, as sentence-transformers has it

    def __init__(
        self,
        config: BertConfig,
        *,
        pooling: PoolingKind = "mean",
        projection_dim: int | None = None,
        projection_activation: str = "linear",
        normalize: bool = True,
        sequence_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt: str | None = None,
        backbone: BertBackbone | None = None,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, backbone=backbone, seed=seed, **kwargs)
        if pooling not in get_args(PoolingKind):
            raise ValueError(f"pooling is {pooling!r}: choose one of {', '.join(get_args(PoolingKind))}")
        if sequence_length is not None and not 3 <= sequence_length <= config.max_sequence_length:
            raise ValueError(
                f"sequence_length is {sequence_length}, it must lie in [3, {config.max_sequence_length}]"
            )
        self.pooling, self.normalize, self.sequence_length = pooling, normalize, sequence_length
        self.projection_dim, self.projection_activation = projection_dim, projection_activation
        self.prompts, self.default_prompt = dict(prompts or {}), default_prompt
        self.training_parts = 1
        self._moves: list[Any] = []  # what a part of a batch adds to the states
        self.backbone = make_backbone(self, backbone, False, lora_rank, lora_alpha)
        self.projection = None
        if projection_dim is not None:
            self.projection = ProjectionHead(
                num_outputs=projection_dim,
                activation=projection_activation,
                standard_deviation=config.initializer_range,
                seed=self.seed,
                dtype=self.dtype_policy,
                name="projection",
            )
            self.projection.build((None, config.hidden_dim))
        self.built = True

    @property
    def dim(self) -> int:
        """The size of the vectors."""
        return self.config.hidden_dim if self.projection_dim is None else self.projection_dim

    def call(self, inputs, training=False):
        """See the class.

        Raises:
            ValueError: the rows of a training batch are not divisible by `training_parts`.
        """
        if training and self.training_parts > 1:
            return self._encode_in_parts(inputs)
        return self._encode(inputs, training)

    def _encode_in_parts(self, inputs):
        """Returns the vectors of a training batch, of which one part is in memory at a time."""
        number, processes, _ = backend.share() if backend.sums_gradients else (0, 1, 1)
        rows, all_rows = inputs["token_ids"].shape[0], inputs["token_ids"].shape[0] * processes
        if all_rows % self.training_parts or self.training_parts % processes:
            among = "" if processes == 1 else f" and shared among {processes} processes"
            raise ValueError(
                f"training_parts is {self.training_parts}, and a batch has {all_rows} rows, which are not divisible"
                + among
            )
        count = self.training_parts // processes
        parts = {
            name: ops.reshape(value, (count, rows // count, *value.shape[1:]))
            for name, value in inputs.items()
        }
        trained = backend.differentiated(self.trainable_variables)
        others = [some for some in self.non_trainable_variables if not hasattr(some, "divided")]

        def encode(weights, states, part):
            given = zip((*trained, *others), (*weights, *states), strict=True)
            with undivided(), backend.stateless(given) as scope:
                vectors = self._encode(part, training=True)
            return vectors, [scope.get_current_value(variable) for variable in others]

        weights, states = ([variable.value for variable in some] for some in (trained, others))
        if processes == 1:
            vectors, states = backend.in_parts(encode, weights, states, parts)
        else:  # dropout draws for a part what it would draw in a single process
            if not self._moves:
                _, after = encode(weights, states, {name: value[0] for name, value in parts.items()})
                self._moves = [new - old for new, old in zip(after, states, strict=True)]
            vectors, _ = backend.in_parts(encode, weights, self._moved(states, number * count), parts)
            states = self._moved(states, self.training_parts)
        for variable, state in zip(others, states, strict=True):
            variable.assign(state)
        return ops.reshape(vectors, (rows, *vectors.shape[2:]))

    def _moved(self, states, parts: int):
        """Returns the states after so many parts of a batch."""
        return [state + parts * move for state, move in zip(states, self._moves, strict=True)]

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the share of this process in the loss of the vectors of all processes, which are compared."""
        processes = backend.share()[1] if backend.sums_gradients and training else 1
        if processes == 1:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        y, y_pred, sample_weight = (
            None if some is None else backend.rows_of_all(some) for some in (y, y_pred, sample_weight)
        )
        return super().compute_loss(x, y, y_pred, sample_weight, training) / processes

    def _encode(self, inputs, training: bool):
        hidden = self.backbone(inputs, training=training)["sequence_output"]
        pooled = pool_tokens(
            hidden,
            self.pooling,
            padding_mask=inputs.get("padding_mask"),
            sequence_ids=inputs.get("sequence_ids"),
            first_positions=inputs.get("first_positions"),
        )
        if self.projection is not None:
            pooled = self.projection(pooled)
        return unit_length(pooled) if self.normalize else pooled

    def get_config(self) -> dict[str, Any]:
        """Returns what `LanguageModel.get_config` does, and the other arguments of the constructor."""
        names = ("pooling", "projection_dim", "projection_activation", "normalize", "sequence_length")
        settings = {name: getattr(self, name) for name in (*names, "default_prompt")}
        return super().get_config() | settings | {"prompts": dict(self.prompts)} | adapters_of(self)
