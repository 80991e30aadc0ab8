"""Model families, one file each: config, backbone, task models, named sizes."""

from kerasllm.models.bert import (
    BertClassifier,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
)
from kerasllm.models.bert_backbone import BertBackbone
from kerasllm.models.bert_config import BERT_SIZES, BertConfig
from kerasllm.models.gpt import GPTBackbone, GPTCausalLM
from kerasllm.models.gpt_config import GPT_SIZES, GPTConfig

__all__ = [
    "BERT_SIZES",
    "GPT_SIZES",
    "BertBackbone",
    "BertClassifier",
    "BertConfig",
    "BertMaskedLM",
    "BertPretraining",
    "BertRegressor",
    "GPTBackbone",
    "GPTCausalLM",
    "GPTConfig",
]
