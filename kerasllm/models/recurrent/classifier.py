"""The recurrent classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.heads import ClassificationHead
from kerasllm.layers.pooling import pool_tokens
from kerasllm.losses import ClassificationLoss, MultiLabelLoss
from kerasllm.models.base import LanguageModel
from kerasllm.models.construction import checked_backbone
from kerasllm.models.labels import class_names
from kerasllm.models.recurrent.backbone import RecurrentBackbone
from kerasllm.models.recurrent.config import RecurrentConfig

Pooling = Literal["last", "mean"]


@keras.saving.register_keras_serializable(package="kerasllm")
class RecurrentClassifier(LanguageModel):
    """A recurrent model that classifies a text by its last state, or by the mean of its outputs.

    Args:
        config: the architecture; with `bidirectional`, the text is read in both directions.
        num_classes: number of classes, at least 2; the default is the number of `label_names`, or 2 without them.
        label_names: names of the classes, which are written to config.json's `id2label`.
        multi_label: whether a text may have several labels, or none; written to config.json's `problem_type`.
        pooling: "last", the output at the end of the text in each direction, or "mean" of all outputs.
        backbone: an existing backbone; the default is a new one.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`, which is a given backbone's unless something else is said.

    Call it with the dict that the backbone takes; `segment_ids`, which classifiers' batches have, are not used. It
    returns logits (batch, num_classes), for a `ClassificationLoss` and classes (batch,), or, with `multi_label`, for a
    `MultiLabelLoss` and labels of 0 and 1 (batch, num_classes).
    """

    config_class = RecurrentConfig
    reads_any_tokenizer = True
    accepted_inputs = ("token_ids", "padding_mask", "segment_ids")

    def __init__(
        self,
        config: RecurrentConfig,
        *,
        num_classes: int | None = None,
        label_names: Sequence[str] | None = None,
        multi_label: bool = False,
        pooling: Pooling = "mean",
        backbone: RecurrentBackbone | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, backbone=backbone, seed=seed, **kwargs)
        self.label_names = class_names(label_names)
        num_classes = len(self.label_names or (0, 1)) if num_classes is None else num_classes
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: a classifier has at least 2")
        if self.label_names and len(self.label_names) != num_classes:
            raise ValueError(f"label_names are {len(self.label_names)}, num_classes is {num_classes}")
        if pooling not in ("last", "mean"):
            raise ValueError(f"pooling is {pooling!r}, it must be 'last' or 'mean'")
        self.num_classes, self.multi_label, self.pooling = num_classes, multi_label, pooling
        self.backbone = checked_backbone(self, backbone, RecurrentBackbone)
        self.classifier = ClassificationHead(
            num_outputs=num_classes,
            dropout=config.dropout,
            standard_deviation=config.output_dim**-0.5,
            seed=self.seed,
            dtype=self.dtype_policy,
            name="classifier",
        )
        self.classifier.build((None, config.output_dim))
        self.built = True

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **settings: Any) -> None:
        """Compiles the model as `LanguageModel` does, on PyTorch without its compiler; see `RecurrentLM.compile`."""
        if backend.name == "torch":
            settings["jit_compile"] = False
        super().compile(optimizer, loss, **settings)

    def call(self, inputs, training=False):
        """See the class."""
        mask = inputs.get("padding_mask")
        hidden = self.backbone.run(inputs["token_ids"], None, mask, training=training)[0]
        if self.pooling == "mean":
            pooled = ops.cast(pool_tokens(hidden, "mean", padding_mask=mask), hidden.dtype)
        else:  # over padding the state stays as it is, and the outputs with it
            width = self.config.hidden_dim if self.config.bidirectional else hidden.shape[-1]
            pooled = ops.concatenate([hidden[:, -1, :width], hidden[:, 0, width:]], axis=-1)
        return self.classifier(pooled, training=training)

    @property
    def label_counts(self):
        """The classes; empty with `multi_label`, as labels are then 0 or 1."""
        return {} if self.multi_label else {"classes": self.num_classes}

    def default_loss(self, reduction="mean_with_sample_weight"):
        """Returns a `ClassificationLoss`, or a `MultiLabelLoss` with `multi_label`."""
        return (MultiLabelLoss if self.multi_label else ClassificationLoss)(reduction=reduction)

    def get_config(self):
        """Returns the fields of the config, `num_classes`, `label_names`, `multi_label` and `pooling`."""
        names = None if self.label_names is None else list(self.label_names)
        own = {"num_classes": self.num_classes, "label_names": names, "multi_label": self.multi_label}
        return super().get_config() | own | {"pooling": self.pooling}
