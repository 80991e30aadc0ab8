"""Model families, one file each: config, backbone, task models, named sizes."""

from kerasllm.models.bert import (
    BertBackbone,
    BertClassifier,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
)
from kerasllm.models.bert_config import BERT_SIZES, BertConfig

__all__ = [
    "BERT_SIZES",
    "BertBackbone",
    "BertClassifier",
    "BertConfig",
    "BertMaskedLM",
    "BertPretraining",
    "BertRegressor",
]
