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
from kerasllm.models.recurrent.backbone import RecurrentBackbone
from kerasllm.models.recurrent.classifier import RecurrentClassifier
from kerasllm.models.recurrent.config import RECURRENT_SIZES, RecurrentConfig
from kerasllm.models.recurrent.language_model import RecurrentLM
from kerasllm.models.recurrent_seq2seq import (
    RECURRENT_SEQ2SEQ_SIZES,
    RecurrentSeq2SeqBackbone,
    RecurrentSeq2SeqConfig,
    RecurrentSeq2SeqLM,
)
from kerasllm.models.seq2seq.backbone import Seq2SeqBackbone
from kerasllm.models.seq2seq.config import SEQ2SEQ_SIZES, Seq2SeqConfig
from kerasllm.models.seq2seq.tasks import Seq2SeqLM

__all__ = [
    "BERT_SIZES",
    "GPT_SIZES",
    "RECURRENT_SEQ2SEQ_SIZES",
    "RECURRENT_SIZES",
    "SEQ2SEQ_SIZES",
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
    "RecurrentBackbone",
    "RecurrentClassifier",
    "RecurrentConfig",
    "RecurrentLM",
    "RecurrentSeq2SeqBackbone",
    "RecurrentSeq2SeqConfig",
    "RecurrentSeq2SeqLM",
    "Seq2SeqBackbone",
    "Seq2SeqConfig",
    "Seq2SeqLM",
]
