"""BERT's task models: pretraining, classification and regression.

Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kerasllm.losses import (
    ClassificationLoss,
    MaskedLanguageModelLoss,
    MultiLabelLoss,
    NextSentenceLoss,
    SquaredErrorLoss,
)
from kerasllm.models.base import LanguageModel
from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.bert.config import BertConfig
from kerasllm.models.bert.construction import (
    adapters_of,
    freeze_masked_lm,
    make_backbone,
    make_head,
    make_masked_lm_head,
    make_masked_lm_projection,
    output_table,
)
from kerasllm.models.labels import class_names


@keras.saving.register_keras_serializable(package="kerasllm")
class BertPretraining(LanguageModel):
    """A BERT with the heads of masked-LM and next-sentence prediction, or with one of them.

    Args:
        config: the architecture.
        objectives: "masked_lm", "next_sentence", or both.
        backbone: an existing backbone; the default is a new one.
        lora_rank: as in `BertBackbone`; used only for a new backbone. The masked-LM head is frozen, too.
        lora_alpha: as in `BertBackbone`; used only for a new backbone.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`, which is a given backbone's unless something else is said.

    Call it with the dict that the backbone takes, and `masked_positions` int (batch, slots) for masked-LM logits at
    those positions only. It returns a dict of the logits `masked_lm` (batch, slots or length, vocabulary_size) and
    `next_sentence` (batch, 2), where class 0 means that the second segment follows the first, as in the released
    checkpoints.
    """

    config_class = BertConfig

    def __init__(
        self,
        config: BertConfig,
        *,
        objectives: Sequence[str] = ("masked_lm", "next_sentence"),
        backbone: BertBackbone | None = None,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, backbone=backbone, seed=seed, **kwargs)
        self.objectives = tuple(objectives)
        if not objectives or set(objectives) - {"masked_lm", "next_sentence"}:
            raise ValueError(f"objectives {list(objectives)}: choose masked_lm, next_sentence or both")
        has_pooler = "next_sentence" in objectives
        self.backbone = make_backbone(self, backbone, has_pooler, lora_rank, lora_alpha)
        self.masked_lm_head = self.masked_lm_projection = self.next_sentence_head = None
        if "masked_lm" in objectives:
            self.masked_lm_head = make_masked_lm_head(self)
            self.masked_lm_projection = make_masked_lm_projection(self)
            freeze_masked_lm(self)
        if "next_sentence" in objectives:
            self.next_sentence_head = make_head(self, "next_sentence_head", 2, dropout=0.0)
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        needs_all = self.masked_lm_head is not None and "masked_positions" not in inputs
        encoded = self.backbone(inputs, only_read=not needs_all, training=training)
        outputs = {}
        if self.masked_lm_head is not None:
            outputs["masked_lm"] = self.masked_lm_head(encoded["sequence_output"], output_table(self))
        if self.next_sentence_head is not None:
            outputs["next_sentence"] = self.next_sentence_head(encoded["pooled_output"], training=training)
        return outputs

    @property
    def label_counts(self):
        """The tokens, and the two classes of a pair."""
        counts = {"masked_lm": self.config.vocabulary_size, "next_sentence": 2}
        return {name: counts[name] for name in self.objectives}

    def default_loss(self, reduction="mean_with_sample_weight"):
        """Returns a loss for each objective."""
        losses = {"masked_lm": MaskedLanguageModelLoss, "next_sentence": NextSentenceLoss}
        return {name: losses[name](reduction=reduction) for name in self.objectives}

    def get_config(self):
        """Returns the fields of the config, `objectives`, `lora_rank` and `lora_alpha`."""
        return super().get_config() | {"objectives": list(self.objectives)} | adapters_of(self)


@keras.saving.register_keras_serializable(package="kerasllm")
class BertMaskedLM(LanguageModel):
    """A BERT with the masked-LM head alone; a new backbone has no pooler.

    Args:
        config: the architecture.
        backbone: an existing backbone; the default is a new one.
        lora_rank: as in `BertBackbone`; used only for a new backbone. The head is frozen, too.
        lora_alpha: as in `BertBackbone`; used only for a new backbone.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`, which is a given backbone's unless something else is said.

    Call it like `BertPretraining`. It returns a dict of `masked_lm`, logits (batch, slots or length, vocabulary_size).
    """

    config_class = BertConfig

    def __init__(
        self,
        config: BertConfig,
        *,
        backbone: BertBackbone | None = None,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, backbone=backbone, seed=seed, **kwargs)
        self.backbone = make_backbone(self, backbone, False, lora_rank, lora_alpha)
        self.masked_lm_head = make_masked_lm_head(self)
        self.masked_lm_projection = make_masked_lm_projection(self)
        freeze_masked_lm(self)
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        encoded = self.backbone(inputs, only_read="masked_positions" in inputs, training=training)
        return {"masked_lm": self.masked_lm_head(encoded["sequence_output"], output_table(self))}

    @property
    def label_counts(self):
        """The tokens."""
        return {"masked_lm": self.config.vocabulary_size}

    def default_loss(self, reduction="mean_with_sample_weight"):
        """Returns a `MaskedLanguageModelLoss`."""
        return {"masked_lm": MaskedLanguageModelLoss(reduction=reduction)}

    def get_config(self):
        """Returns the fields of the config, `lora_rank` and `lora_alpha`."""
        return super().get_config() | adapters_of(self)


@keras.saving.register_keras_serializable(package="kerasllm")
class BertClassifier(LanguageModel):
    """A BERT that classifies a text or a pair of texts by the pooled output.

    Args:
        config: the architecture.
        num_classes: number of classes, at least 2; the default is the number of `label_names`, or 2 without them.
        label_names: names of the classes, which are written to config.json's `id2label`.
        multi_label: whether a text may have several labels, or none; written to config.json's `problem_type`.
        backbone: an existing backbone; the default is a new one.
        lora_rank: as in `BertBackbone`; used only for a new backbone. The head is trained.
        lora_alpha: as in `BertBackbone`; used only for a new backbone.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`, which is a given backbone's unless something else is said.

    Call it with the dict that the backbone takes. It returns logits (batch, num_classes), for a `ClassificationLoss`
    and classes (batch,), or, with `multi_label`, for a `MultiLabelLoss` and labels of 0 and 1 (batch, num_classes).
    """

    config_class = BertConfig

    def __init__(
        self,
        config: BertConfig,
        *,
        num_classes: int | None = None,
        label_names: Sequence[str] | None = None,
        multi_label: bool = False,
        backbone: BertBackbone | None = None,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, backbone=backbone, seed=seed, **kwargs)
        self.label_names = class_names(label_names)
        if num_classes is None:
            num_classes = len(self.label_names or (0, 1))
        if num_classes < 2:
            raise ValueError(
                f"num_classes is {num_classes}: a classifier has at least 2, BertRegressor predicts a number"
            )
        if self.label_names and len(self.label_names) != num_classes:
            raise ValueError(f"label_names are {len(self.label_names)}, num_classes is {num_classes}")
        self.num_classes, self.multi_label = num_classes, multi_label
        self.backbone = make_backbone(self, backbone, True, lora_rank, lora_alpha)
        self.classifier = make_head(self, "classifier", num_classes, config.classifier_dropout)
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        pooled = self.backbone(inputs, only_read=True, training=training)["pooled_output"]
        return self.classifier(pooled, training=training)

    @property
    def label_counts(self):
        """The classes; empty with `multi_label`, as labels are then 0 or 1."""
        return {} if self.multi_label else {"classes": self.num_classes}

    def default_loss(self, reduction="mean_with_sample_weight"):
        """Returns a `ClassificationLoss`, or a `MultiLabelLoss` with `multi_label`."""
        return (MultiLabelLoss if self.multi_label else ClassificationLoss)(reduction=reduction)

    def get_config(self):
        """Returns the fields of the config, `num_classes`, `label_names`, `multi_label` and the adapters' settings."""
        names = None if self.label_names is None else list(self.label_names)
        labels = {"num_classes": self.num_classes, "label_names": names, "multi_label": self.multi_label}
        return super().get_config() | labels | adapters_of(self)


@keras.saving.register_keras_serializable(package="kerasllm")
class BertRegressor(LanguageModel):
    """A BERT that predicts a number for a text or a pair of texts by the pooled output.

    Args:
        config: the architecture.
        backbone: an existing backbone; the default is a new one.
        lora_rank: as in `BertBackbone`; used only for a new backbone. The head is trained.
        lora_alpha: as in `BertBackbone`; used only for a new backbone.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`, which is a given backbone's unless something else is said.

    Call it with the dict that the backbone takes. It returns numbers (batch,), for a `SquaredErrorLoss`.
    """

    config_class = BertConfig

    def __init__(
        self,
        config: BertConfig,
        *,
        backbone: BertBackbone | None = None,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, backbone=backbone, seed=seed, **kwargs)
        self.backbone = make_backbone(self, backbone, True, lora_rank, lora_alpha)
        self.regressor = make_head(self, "classifier", 1, config.classifier_dropout)
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        pooled = self.backbone(inputs, only_read=True, training=training)["pooled_output"]
        return self.regressor(pooled, training=training)[..., 0]

    def default_loss(self, reduction="mean_with_sample_weight"):
        """Returns a `SquaredErrorLoss`."""
        return SquaredErrorLoss(reduction=reduction)

    def get_config(self):
        """Returns the fields of the config, `lora_rank` and `lora_alpha`."""
        return super().get_config() | adapters_of(self)
