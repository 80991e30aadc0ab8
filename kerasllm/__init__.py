"""kerasllm: the whole training process of a language model in Keras 3.

Importing the package loads Keras and the one backend that `KERAS_BACKEND` names, and nothing heavier.
"""

import sys
from pathlib import Path

__version__ = "0.2.0"


def _is_command() -> bool:
    """Returns whether this process is `kerasllm` or `python -m kerasllm`, which loads Keras only for a recipe."""
    after = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
    module = sys.argv[:1] == ["-m"] and after[:1] == ["kerasllm"]
    return module or Path(sys.argv[0] if sys.argv else "").stem == "kerasllm"


if not _is_command():
    import kerasllm.backend  # first, as it reports in one line that the backend is not installed
    import kerasllm.checkpoints  # noqa: F401 - for `kerasllm.checkpoints.push_model`
    from kerasllm.losses import (
        CausalLanguageModelLoss,
        MaskedLanguageModelLoss,
        NextSentenceLoss,
        SquaredErrorLoss,
        TokenClassificationLoss,
    )
    from kerasllm.metrics import MaskedLanguageModelAccuracy, NextSentenceAccuracy, Perplexity
    from kerasllm.models import (
        BERT_SIZES,
        GPT_SIZES,
        SEQ2SEQ_SIZES,
        BertBackbone,
        BertClassifier,
        BertConfig,
        BertMaskedLM,
        BertPretraining,
        BertRegressor,
        BertTokenClassifier,
        GPTBackbone,
        GPTCausalLM,
        GPTConfig,
        Seq2SeqBackbone,
        Seq2SeqConfig,
        Seq2SeqLM,
    )
    from kerasllm.models.registry import from_keras_hub, to_keras_hub

__all__ = [
    "BERT_SIZES",
    "GPT_SIZES",
    "SEQ2SEQ_SIZES",
    "BertBackbone",
    "BertClassifier",
    "BertConfig",
    "BertMaskedLM",
    "BertPretraining",
    "BertRegressor",
    "BertTokenClassifier",
    "CausalLanguageModelLoss",
    "GPTBackbone",
    "GPTCausalLM",
    "GPTConfig",
    "MaskedLanguageModelAccuracy",
    "MaskedLanguageModelLoss",
    "NextSentenceAccuracy",
    "NextSentenceLoss",
    "Perplexity",
    "Seq2SeqBackbone",
    "Seq2SeqConfig",
    "Seq2SeqLM",
    "SquaredErrorLoss",
    "TokenClassificationLoss",
    "__version__",
    "from_keras_hub",
    "to_keras_hub",
]
