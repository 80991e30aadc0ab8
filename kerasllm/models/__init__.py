"""Model families, one file each: config, backbone, task models, named sizes."""

from kerasllm.models.bert import (
    BERT_SIZES,
    BertBackbone,
    BertClassifier,
    BertConfig,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
)

__all__ = [
    "BERT_SIZES",
    "BertBackbone",
    "BertClassifier",
    "BertConfig",
    "BertMaskedLM",
    "BertPretraining",
    "BertRegressor",
]
