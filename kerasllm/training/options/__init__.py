"""Groups of settings that recipes share; each setting is declared once, with its help, default and range.

A recipe's `Config` inherits the groups that it needs. On the command line their options have no prefix:
`--learning_rate`. A recipe changes the default of an inherited setting by declaring it again.
"""

from kerasllm.training.options.adapters import AdapterOptions, LowRankOptions
from kerasllm.training.options.bert import BertOptions, BertStartOptions
from kerasllm.training.options.corpus import CorpusOptions
from kerasllm.training.options.fine_tuning import FineTuningOptions
from kerasllm.training.options.gpt import GPTOptions, GPTStartOptions
from kerasllm.training.options.job import (
    BatchOptions,
    BatchSize,
    JobOptions,
    OptimizerOptions,
    RunOptions,
    TrainingOptions,
    ValidationOptions,
)
from kerasllm.training.options.labelled import LabelledOptions
from kerasllm.training.options.pairs import PairOptions
from kerasllm.training.options.parallel import ParallelOptions
from kerasllm.training.options.questions import QuestionOptions
from kerasllm.training.options.recurrent import RecurrentOptions, RecurrentStartOptions
from kerasllm.training.options.seq2seq import Seq2SeqOptions, Seq2SeqStartOptions
from kerasllm.training.options.tagged import TaggedOptions

__all__ = [
    "AdapterOptions",
    "BatchOptions",
    "BatchSize",
    "BertOptions",
    "BertStartOptions",
    "CorpusOptions",
    "FineTuningOptions",
    "GPTOptions",
    "GPTStartOptions",
    "JobOptions",
    "LabelledOptions",
    "LowRankOptions",
    "OptimizerOptions",
    "PairOptions",
    "ParallelOptions",
    "QuestionOptions",
    "RecurrentOptions",
    "RecurrentStartOptions",
    "RunOptions",
    "Seq2SeqOptions",
    "Seq2SeqStartOptions",
    "TaggedOptions",
    "TrainingOptions",
    "ValidationOptions",
]
