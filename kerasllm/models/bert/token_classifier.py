"""BERT for tags: a class for each token."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from kerasllm.models.base import LanguageModel
from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.bert.config import BertConfig
from kerasllm.models.bert.tasks import _backbone, _classification_head


@keras.saving.register_keras_serializable(package="kerasllm")
class BertTokenClassifier(LanguageModel):
    """A BERT that classifies each token, for named entities or parts of speech.

    Args:
        config: the architecture.
        num_classes: number of tags, at least 2; the default is the number of `label_names`, or 2 without them.
        label_names: names of the tags, which are written to config.json's `id2label`.
        backbone: an existing backbone; a new one has no pooler.
        seed: seed of the initial values and of dropout.

    Call it with the dict that the backbone takes. It returns logits (batch, length, num_classes), for a
    `TokenClassificationLoss` with a weight of 1 at the first token of each word and 0 elsewhere.

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
        seed: int | None = None,
        name: str | None = None,
    ):
        super().__init__(config, seed=seed, name=name)
        self.label_names = tuple(label_names) if label_names else None
        self.num_classes = len(self.label_names or (0, 1)) if num_classes is None else num_classes
        if self.num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: there must be at least 2 tags")
        if self.label_names and len(self.label_names) != self.num_classes:
            raise ValueError(f"label_names are {len(self.label_names)}, num_classes is {num_classes}")
        self.backbone = _backbone(config, backbone, self.seed, pooler=False)
        self.classifier = _classification_head(
            config, self.seed, "classifier", self.num_classes, config.classifier_dropout
        )
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.backbone(inputs, training=training)["sequence_output"]
        return self.classifier(hidden, training=training)

    def get_config(self):
        """Returns the fields of the config, `num_classes` and `label_names`."""
        names = None if self.label_names is None else list(self.label_names)
        return super().get_config() | {"num_classes": self.num_classes, "label_names": names}
