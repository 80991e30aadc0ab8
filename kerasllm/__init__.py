"""kerasllm: the whole training process of a language model in Keras 3.

Importing the package loads Keras and the one backend that `KERAS_BACKEND` names, and nothing heavier: what reads texts
is loaded when it is first used.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasllm.checkpoints.tokenizers import load_tokenizer
    from kerasllm.data.text_data.causal_lm import CausalLanguageModelData
    from kerasllm.data.text_data.conversations import ConversationData
    from kerasllm.data.text_data.labelled import TextClassificationData, TextRegressionData
    from kerasllm.data.text_data.masked_lm import MaskedLanguageModelData, SentencePairPretrainingData
    from kerasllm.models.devices import distribute
    from kerasllm.tasks.predictor import Predictor, load
    from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
    from kerasllm.tokenizers.characters import train_characters
    from kerasllm.tokenizers.saving import save_tokenizer
    from kerasllm.tokenizers.wordpiece import train_wordpiece

__version__ = "0.2.0"


_LOADED_ON_USE = {
    "CausalLanguageModelData": "data.text_data.causal_lm",
    "ConversationData": "data.text_data.conversations",
    "MaskedLanguageModelData": "data.text_data.masked_lm",
    "Predictor": "tasks.predictor",
    "SentencePairPretrainingData": "data.text_data.masked_lm",
    "TextClassificationData": "data.text_data.labelled",
    "TextRegressionData": "data.text_data.labelled",
    "distribute": "models.devices",
    "load": "tasks.predictor",
    "load_tokenizer": "checkpoints.tokenizers",
    "save_tokenizer": "tokenizers.saving",
    "train_byte_level_bpe": "tokenizers.byte_level_bpe",
    "train_characters": "tokenizers.characters",
    "train_wordpiece": "tokenizers.wordpiece",
}
"""The modules of the public names that need more than Keras."""


def __getattr__(name: str) -> Any:
    """Returns a public name whose module is loaded on its first use."""
    if name not in _LOADED_ON_USE:
        raise AttributeError(f"module 'kerasllm' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"kerasllm.{_LOADED_ON_USE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns all names, also those that are not loaded yet."""
    return sorted({*globals(), *__all__})


def _is_command() -> bool:
    """Returns whether this process is `kerasllm` or `python -m kerasllm`, which loads Keras only for a recipe."""
    after = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
    module = sys.argv[:1] == ["-m"] and after[:1] == ["kerasllm"]
    return module or Path(sys.argv[0] if sys.argv else "").stem == "kerasllm"


if not _is_command():
    import kerasllm.backend  # first, as it reports in one line that the backend is not installed
    import kerasllm.checkpoints  # noqa: F401 - for `kerasllm.checkpoints.push_model`
    from kerasllm.embedding_losses import (
        CoSENTLoss,
        CosineSimilarityLoss,
        DistillationLoss,
        RankingLoss,
        TripletLoss,
    )
    from kerasllm.losses import (
        AnswerSpanLoss,
        CausalLanguageModelLoss,
        ClassificationLoss,
        MaskedLanguageModelLoss,
        MultiLabelLoss,
        NextSentenceLoss,
        SquaredErrorLoss,
    )
    from kerasllm.metrics import MaskedLanguageModelAccuracy, NextSentenceAccuracy, Perplexity
    from kerasllm.models import (
        BERT_SIZES,
        GPT_SIZES,
        RECURRENT_SEQ2SEQ_SIZES,
        RECURRENT_SIZES,
        SEQ2SEQ_SIZES,
        BertBackbone,
        BertClassifier,
        BertConfig,
        BertEncoder,
        BertMaskedLM,
        BertPretraining,
        BertQuestionAnswering,
        BertRegressor,
        BertTokenClassifier,
        GPTBackbone,
        GPTCausalLM,
        GPTConfig,
        RecurrentBackbone,
        RecurrentClassifier,
        RecurrentConfig,
        RecurrentLM,
        RecurrentSeq2SeqBackbone,
        RecurrentSeq2SeqConfig,
        RecurrentSeq2SeqLM,
        Seq2SeqBackbone,
        Seq2SeqConfig,
        Seq2SeqLM,
    )
    from kerasllm.models.registry import from_keras_hub, to_keras_hub

__all__ = [
    "BERT_SIZES",
    "GPT_SIZES",
    "RECURRENT_SEQ2SEQ_SIZES",
    "RECURRENT_SIZES",
    "SEQ2SEQ_SIZES",
    "AnswerSpanLoss",
    "BertBackbone",
    "BertClassifier",
    "BertConfig",
    "BertEncoder",
    "BertMaskedLM",
    "BertPretraining",
    "BertQuestionAnswering",
    "BertRegressor",
    "BertTokenClassifier",
    "CausalLanguageModelData",
    "CausalLanguageModelLoss",
    "ClassificationLoss",
    "CoSENTLoss",
    "ConversationData",
    "CosineSimilarityLoss",
    "DistillationLoss",
    "GPTBackbone",
    "GPTCausalLM",
    "GPTConfig",
    "MaskedLanguageModelAccuracy",
    "MaskedLanguageModelData",
    "MaskedLanguageModelLoss",
    "MultiLabelLoss",
    "NextSentenceAccuracy",
    "NextSentenceLoss",
    "Perplexity",
    "Predictor",
    "RankingLoss",
    "RecurrentBackbone",
    "RecurrentClassifier",
    "RecurrentConfig",
    "RecurrentLM",
    "RecurrentSeq2SeqBackbone",
    "RecurrentSeq2SeqConfig",
    "RecurrentSeq2SeqLM",
    "SentencePairPretrainingData",
    "Seq2SeqBackbone",
    "Seq2SeqConfig",
    "Seq2SeqLM",
    "SquaredErrorLoss",
    "TextClassificationData",
    "TextRegressionData",
    "TripletLoss",
    "__version__",
    "distribute",
    "from_keras_hub",
    "load",
    "load_tokenizer",
    "save_tokenizer",
    "to_keras_hub",
    "train_byte_level_bpe",
    "train_characters",
    "train_wordpiece",
]
