"""Model families, one folder each: config, backbone, task models and named sizes. Importing this registers them."""

from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.bert.config import BERT_SIZES, BertConfig
from kerasllm.models.bert.encoder import BertEncoder
from kerasllm.models.bert.question_answering import BertQuestionAnswering
from kerasllm.models.bert.tasks import (
    BertClassifier,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
)
from kerasllm.models.bert.token_classifier import BertTokenClassifier
from kerasllm.models.gpt.backbone import GPTBackbone
from kerasllm.models.gpt.config import GPT_SIZES, GPTConfig
from kerasllm.models.gpt.tasks import GPTCausalLM

__all__ = [
    "BERT_SIZES",
    "GPT_SIZES",
    "BertBackbone",
    "BertClassifier",
    "BertConfig",
    "BertEncoder",
    "BertMaskedLM",
    "BertPretraining",
    "BertQuestionAnswering",
    "BertRegressor",
    "BertTokenClassifier",
    "GPTBackbone",
    "GPTCausalLM",
    "GPTConfig",
]
