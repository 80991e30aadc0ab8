"""BERT for extractive question answering: the answer is a span of the context."""

from __future__ import annotations

import keras

from kerasllm.models.base import LanguageModel
from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.bert.config import BertConfig
from kerasllm.models.bert.tasks import _backbone, _classification_head


@keras.saving.register_keras_serializable(package="kerasllm")
class BertQuestionAnswering(LanguageModel):
    """A BERT that scores each token as the first and as the last one of the answer.

    Args:
        config: the architecture.
        backbone: an existing backbone; a new one has no pooler.
        seed: seed of the initial values and of dropout.

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
        seed: int | None = None,
        name: str | None = None,
    ):
        super().__init__(config, seed=seed, name=name)
        self.backbone = _backbone(config, backbone, self.seed, pooler=False)
        self.answer_head = _classification_head(config, self.seed, "answer_head", 2, dropout=0.0)
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.backbone(inputs, training=training)["sequence_output"]
        return self.answer_head(hidden, training=training)
