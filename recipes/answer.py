"""Answers questions from a text by a fine-tuned reader.

KERAS_BACKEND=jax python recipes/answer.py --model runs/reader --context article.txt --question "Who won?"
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from kerasllm import BertConfig, BertQuestionAnswering, cli
from kerasllm.cli.ranges import at_least
from kerasllm.data.sources.lines import text_lines
from kerasllm.errors import InputError
from kerasllm.files.atomic import check_writable, write_output
from kerasllm.tasks import QuestionAnswering
from kerasllm.tasks.document_answers import (
    DocumentAnswer,
    document_answers,
    lines_of,
    open_retriever,
    row_of,
    text_answers,
)
from kerasllm.tasks.reading import ReadingSettings, reading_settings
from kerasllm.tasks.saved_model import SavedModel, open_model
from kerasllm.tokenizers.loading import load_wordpiece


@dataclass
class Config:
    """Answers questions from a text by a fine-tuned reader."""

    model: str
    """A run of finetune_qa, a model directory or a hub id."""

    context: str | None = None
    """Text file in which the answers are sought."""

    documents: str | None = None
    """Documents to search for passages: a directory of text files, or a file that retrieve.py reads."""

    retriever: str = "bm25"
    """With --documents: bm25, or an encoder (a run of finetune_embeddings, a model directory or a hub id)."""

    num_passages: int = field(default=10, metadata=at_least(1))
    """With --documents: passages that are read for a question."""

    question: list[str] = field(default_factory=list)
    """Questions; several allowed."""

    file: str | None = None
    """File of questions, one per line."""

    n_best: int = field(default=1, metadata=at_least(1))
    """Answers to each question."""

    max_answer_length: int = field(default=30, metadata=at_least(1))
    """Maximum tokens of an answer."""

    sequence_length: int | None = field(default=None, metadata=at_least(8))
    """Tokens of a window; 384 if null, or the model's positions if these are fewer."""

    document_stride: int | None = field(default=None, metadata=at_least(0))
    """Tokens that neighboring windows share; a third of a window if null."""

    null_threshold: float | None = None
    """Odds above which a question has no answer; if null, the run's own, and none if all its questions had answers."""

    batch_size: int = field(default=16, metadata=at_least(1))
    """Windows per batch."""

    output: str | None = None
    """File for the answers, one JSON object per line and answer; standard output if null."""


def main(config: Config) -> int:
    """Reads the model, the texts and the questions, and gives the answers."""
    check(config)
    questions = questions_of(config)
    saved = open_model(config.model, BertConfig, load_wordpiece)
    if saved.model_class is not BertQuestionAnswering:
        raise InputError(
            f"{saved.directory}: is a {saved.model_class.__name__}, not a reader; finetune_qa trains one"
        )
    sizes = {name: getattr(config, name) for name in ("max_answer_length", "n_best", "batch_size")}
    given = config.sequence_length, config.document_stride, config.null_threshold
    settings = reading_settings(saved.directory, saved.config.max_sequence_length, *given, **sizes)
    answered = zip(questions, found_in(config, saved, questions, settings), strict=True)
    found = [[row_of(question, answer) for answer in own] for question, own in answered]
    if config.output:
        rows = [row for own in found for row in own]
        write_output(Path(config.output), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(
            f"{len(rows)} answers to {len(questions)} questions written to {config.output}", file=sys.stderr
        )
    else:
        for question, own in zip(questions, found, strict=True):
            print(*lines_of(question, own), sep="\n")
    return 0


def check(config: Config) -> None:
    """Refuses settings that contradict each other, before anything is read."""
    if not config.question and not config.file:
        raise InputError("give a --question, or a --file of questions")
    if bool(config.context) == bool(config.documents):
        raise InputError("give either --context, a text to read, or --documents to search")
    if config.output:
        check_writable(Path(config.output))


def found_in(
    config: Config, saved: SavedModel, questions: list[str], settings: ReadingSettings
) -> list[list[DocumentAnswer]]:
    """Returns the answers to each question, in the one text or in the documents."""
    if config.documents:
        retriever = open_retriever(config.documents, config.retriever)
        model, count = QuestionAnswering.load(saved), config.num_passages
        return document_answers(
            retriever, model, saved.tokenizer, questions, num_passages=count, settings=settings
        )
    context = "".join(line for _, line in text_lines(config.context or ""))
    if not context.strip():
        raise InputError(f"{config.context}: holds no text")
    model = QuestionAnswering.load(saved)
    return text_answers(model, saved.tokenizer, questions, context, settings)


def questions_of(config: Config) -> list[str]:
    """Returns the questions from `--question` and `--file`."""
    if not all(map(str.strip, config.question)):
        raise InputError("--question: a question is empty; leave it out")
    questions = list(config.question)
    if config.file:
        questions += [line.strip() for _, line in text_lines(config.file) if line.strip()]
    if not questions:
        raise InputError(f"{config.file}: holds no questions")
    return questions


if __name__ == "__main__":
    cli.run(main, Config)
