"""The recurrent encoder-decoder's task model: a language model of the target, given the source."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.projections import dense
from kerasllm.losses import CausalLanguageModelLoss
from kerasllm.models.construction import checked_backbone
from kerasllm.models.projecting import ProjectsInLoss
from kerasllm.models.recurrent_seq2seq.backbone import RecurrentSeq2SeqBackbone
from kerasllm.models.recurrent_seq2seq.config import RecurrentSeq2SeqConfig


@keras.saving.register_keras_serializable(package="kerasllm")
class RecurrentSeq2SeqLM(ProjectsInLoss):
    """A recurrent model of target texts given source texts, with attention.

    Args:
        config: the architecture.
        backbone: an existing backbone; the default is a new one.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`, which is a given backbone's unless something else is said.

    Call it with the dict that the backbone takes. It returns logits (batch, target_length, vocabulary_size); those at
    position i predict target token i, as `decoder_token_ids` are the target shifted by one. The output projection is
    the token embedding's transpose.
    """

    config_class = RecurrentSeq2SeqConfig

    def __init__(
        self,
        config: RecurrentSeq2SeqConfig,
        *,
        backbone: RecurrentSeq2SeqBackbone | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, backbone=backbone, seed=seed, **kwargs)
        inputs = ("encoder_token_ids", "decoder_token_ids")
        self.backbone = checked_backbone(self, backbone, RecurrentSeq2SeqBackbone, *inputs)
        self.built = True

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **settings: Any) -> None:
        """Compiles the model as `LanguageModel` does, on PyTorch without its compiler, as `RecurrentLM` says."""
        if backend.name == "torch":
            settings["jit_compile"] = False
        super().compile(optimizer, loss, **settings)

    @property
    def output_table(self) -> Any:
        """The table of the output projection, (vocabulary_size, hidden_dim)."""
        return self.backbone.embeddings.token

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.backbone(inputs, training=training)["sequence_output"]
        return hidden if self.projects_in_loss else self.project(hidden)

    @property
    def label_counts(self):
        """The tokens."""
        return {"tokens": self.config.vocabulary_size}

    def default_loss(self, reduction="mean_with_sample_weight"):
        """Returns a `CausalLanguageModelLoss` with label smoothing."""
        return CausalLanguageModelLoss(label_smoothing=0.1, reduction=reduction)

    def project(self, hidden):
        """Returns the logits (batch, length, vocabulary_size) of hidden states (batch, length, hidden_dim)."""
        return dense(hidden, self.output_table, transposed=True)

    def prefill(self, token_ids, starts, capacity):
        """See `kerasllm.generation.protocol.GenerativeModel`; the prompts are the sources."""
        rows, width = token_ids.shape
        real = ops.arange(width, dtype="int32")[None] >= starts[:, None]
        encoded, state = self.backbone.encode(token_ids, real)
        begin = ops.full((rows,), self.config.pad_token_id, dtype="int32")
        return self.step(begin, width - 1, starts, {"state": state, "encoded": encoded, "real": real})

    def step(self, token_ids, column, starts, caches):
        """See `kerasllm.generation.protocol.GenerativeModel`."""
        hidden, state = self.backbone.decode(token_ids[:, None], caches["state"])
        weights = self.backbone.weights_of(hidden, caches["encoded"], caches["real"])
        hidden = self.backbone.attend(hidden, caches["encoded"], weights)[:, 0]
        logits = backend.decoding.scores(hidden, ops.convert_to_tensor(self.output_table))
        pad = ops.arange(self.config.vocabulary_size) == self.config.pad_token_id  # never the next token
        return ops.where(pad[None], ops.cast(-1e9, logits.dtype), logits), caches | {"state": state}

    def reorder(self, caches, rows):
        """See `kerasllm.generation.protocol.GenerativeModel`."""
        return keras.tree.map_structure(lambda part: ops.take(part, rows, axis=0), caches)
