"""BERT for tags: a class for each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerasllm.losses import ClassificationLoss
from kerasllm.models.base import LanguageModel
from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.bert.config import BertConfig
from kerasllm.models.bert.construction import adapters_of, make_backbone, make_head
from kerasllm.models.labels import class_names


@keras.saving.register_keras_serializable(package="kerasllm")
class BertTokenClassifier(LanguageModel):
    """A BERT that classifies each token, for named entities or parts of speech.

    Args:
        config: the architecture.
        num_classes: number of tags, at least 2; the default is the number of `label_names`, or 2 without them.
        label_names: names of the tags, which are written to config.json's `id2label`.
        backbone: an existing backbone; a new one has no pooler.
        lora_rank: as in `BertBackbone`; used only for a new backbone. The head is trained.
        lora_alpha: as in `BertBackbone`; used only for a new backbone.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`, which is a given backbone's unless something else is said.

    Call it with the dict that the backbone takes. It returns logits (batch, length, num_classes), for a
    `ClassificationLoss` with a weight of 1 at the first token of each word and 0 elsewhere.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 5.3.
    """

    config_class = BertConfig
    reads_all = True

    def __init__(
        self,
        config: BertConfig,
        *,
        num_classes: int | None = None,
        label_names: Sequence[str] | None = None,
        backbone: BertBackbone | None = None,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, backbone=backbone, seed=seed, **kwargs)
        self.label_names = class_names(label_names)
        self.num_classes = len(self.label_names or (0, 1)) if num_classes is None else num_classes
        if self.num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: there must be at least 2 tags")
        if self.label_names and len(self.label_names) != self.num_classes:
            raise ValueError(f"label_names are {len(self.label_names)}, num_classes is {num_classes}")
        self.backbone = make_backbone(self, backbone, False, lora_rank, lora_alpha)
        self.classifier = make_head(self, "classifier", self.num_classes, config.classifier_dropout)
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.backbone(inputs, training=training)["sequence_output"]
        return self.classifier(hidden, training=training)

    def begin_with_frequencies(self, counts: Sequence[int]) -> None:
        """Lets a new head begin with the tags' frequencies: its bias becomes their logarithms.

        Most words have no entity, and a head that begins with all tags equally likely learns that first, for hundreds
        of steps in a small data set. A head that has been trained, whose bias is not zero, is left as it is.

        Args:
            counts: occurrences of each tag in the training data; one is added to each.

        Reference: Lin et al. 2017, https://arxiv.org/abs/1708.02002, section 4.1.
        """
        bias = self.classifier.bias
        if not np.any(keras.ops.convert_to_numpy(bias)):
            smoothed = np.asarray(counts, "float64") + 1
            bias.assign(np.log(smoothed / smoothed.sum()).astype("float32"))

    @property
    def label_counts(self):
        """The tags."""
        return {"tags": self.num_classes}

    def default_loss(self, reduction="mean_with_sample_weight"):
        """Returns a `ClassificationLoss`."""
        return ClassificationLoss(reduction=reduction)

    def get_config(self):
        """Returns what `LanguageModel.get_config` does, `num_classes`, `label_names`, and the adapters' settings."""
        names = None if self.label_names is None else list(self.label_names)
        own = {"num_classes": self.num_classes, "label_names": names}
        return super().get_config() | own | adapters_of(self)
