"""BERT for extractive question answering: the answer is a span of the context."""

from __future__ import annotations

from typing import Any

import keras

from kerasllm.losses import AnswerSpanLoss
from kerasllm.models.base import LanguageModel
from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.bert.config import BertConfig
from kerasllm.models.bert.construction import adapters_of, make_backbone, make_head


@keras.saving.register_keras_serializable(package="kerasllm")
class BertQuestionAnswering(LanguageModel):
    """A BERT that scores each token as the first and as the last one of the answer.

    Args:
        config: the architecture.
        backbone: an existing backbone; a new one has no pooler.
        lora_rank: as in `BertBackbone`; used only for a new backbone. The head is trained.
        lora_alpha: as in `BertBackbone`; used only for a new backbone.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`, which is a given backbone's unless something else is said.

    Call it with the dict that the backbone takes, where each row is `[CLS] question [SEP] context [SEP]` with segment
    ids 0 and 1. It returns logits (batch, length, 2), `[..., 0]` for the first token of the answer and `[..., 1]` for
    the last one, as the `start_logits` and `end_logits` of `transformers`; train it with `AnswerSpanLoss`.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 4.2.
    """

    config_class = BertConfig
    reads_all = True

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
        self.answer_head = make_head(self, "answer_head", 2, dropout=0.0)
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.backbone(inputs, training=training)["sequence_output"]
        return self.answer_head(hidden, training=training)

    def default_loss(self, reduction="mean_with_sample_weight"):
        """Returns an `AnswerSpanLoss`."""
        return AnswerSpanLoss(reduction=reduction)

    def get_config(self):
        """Returns what `LanguageModel.get_config` does, and the adapters' settings."""
        return super().get_config() | adapters_of(self)
