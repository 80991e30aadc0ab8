"""Fine-tunes a BERT to answer questions by a span of a text.

KERAS_BACKEND=jax python recipes/finetune_qa.py --init runs/mine --train train.json --validation dev.json \
    --output runs/reader
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from kerasllm import BertQuestionAnswering, cli
from kerasllm.cli.ranges import at_least
from kerasllm.cli.settings import in_group
from kerasllm.data.batches.questions import JudgedBatches, QuestionBatches
from kerasllm.data.examples.questions import EncodedQuestions, encode_questions
from kerasllm.data.sources.squad import Questions
from kerasllm.errors import InputError, naming
from kerasllm.tasks import QuestionAnswering
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.training.job import Job, is_finished, train
from kerasllm.training.options import (
    BatchSize,
    BertStartOptions,
    LowRankOptions,
    QuestionOptions,
    TrainingOptions,
)
from kerasllm.training.run.card import part_sizes


@dataclass(kw_only=True)
class Config(QuestionOptions, BertStartOptions, LowRankOptions, TrainingOptions):
    """Fine-tunes a BERT on questions with answers in a text, and writes a run directory."""

    group = "data"

    sequence_length: int = 384
    document_stride: int = field(default=128, metadata=at_least(0))
    """Tokens that neighboring windows of a long context share."""

    max_answer_length: int = field(default=30, metadata=at_least(1))
    """Maximum tokens of an answer, in prediction."""

    n_best: int = field(default=20, metadata=at_least(1))
    """Answers to each question in nbest_predictions.json."""

    vocabulary_size: int = 8192
    epochs: int = 3
    batch_size: BatchSize = 16
    learning_rate: float = 1e-4
    monitor: Literal["loss", "exact_match", "f1"] = field(default="loss", metadata=in_group("validation"))
    """Validation figure that --restore_best and --patience use."""


def main(config: Config) -> int:
    """Goes from questions to a tokenizer, windows and batches, and trains."""
    if is_finished(config):
        return 0
    config.check_parts()
    config.check_validation()
    config.check_adapters(config.init)
    config.check_start()
    if config.document_stride >= config.sequence_length - 3:
        raise InputError(
            f"--document_stride {config.document_stride} leaves no room in --sequence_length {config.sequence_length}"
        )
    parts = config.read(config.seed)
    training = parts["train"]
    tokenizer = config.find_tokenizer([*training.contexts, *training.questions])
    encoded = {name: encode(config, tokenizer, name, part) for name, part in parts.items()}
    report(parts, encoded)

    def make_model() -> BertQuestionAnswering:
        size = vocabulary_size(tokenizer)
        return config.make_bert(BertQuestionAnswering, size, seed=config.seed, **config.adapters)

    def make_job() -> Job:
        make_batches = partial(QuestionBatches, encoded["train"], **config.for_batches)

        batches = make_batches()
        held_out = {
            name: JudgedBatches(
                encoded[name], part, chooses_threshold=name == "validation", batch_size=config.batch_size
            )
            for name, part in parts.items()
            if name != "train"
        }
        may_lack_answer = any(part.has_unanswerable for part in parts.values())
        return Job(
            task=QuestionAnswering(
                may_lack_answer, max_answer_length=config.max_answer_length, n_best=config.n_best
            ),
            make_model=make_model,
            batches=batches,
            make_batches=make_batches,
            tokenizer=tokenizer,
            held_out=held_out,
            monitor=config.monitor,
            recorded={"data": part_sizes(parts), "may_lack_answer": may_lack_answer, "steps": batches.steps},
        )

    return train(config, make_job)


def encode(config: Config, tokenizer: Any, name: str, part: Questions) -> EncodedQuestions:
    """Returns the windows of a part of the data."""
    with naming(f"--{name} {part.source}"):
        return encode_questions(
            tokenizer,
            part.questions,
            part.contexts,
            part.context_of,
            config.sequence_length,
            stride=config.document_stride,
            spans=part.spans,
            skip_unknown=name == "train",
        )


def report(parts: dict[str, Questions], encoded: dict[str, EncodedQuestions]) -> None:
    """Prints a line about each part of the data, and what is unusual in it."""
    for name, part in parts.items():
        questions = encoded[name]
        without = int((questions.spans[:, 0] == 0).sum())
        line = f"{name}: {len(part):,} questions, {len(questions.windows):,} windows, {without:,} without the answer"
        if questions.num_cut:
            line += f", {questions.num_cut:,} questions cut"
        if questions.num_lost:
            line += f", {questions.num_lost:,} questions left out"
        print("\n".join([line, *(f"{name}: {note}" for note in part.notes)]), flush=True)


if __name__ == "__main__":
    cli.run(main, Config)
