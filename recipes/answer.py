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
from kerasllm.tasks.base import load_whole
from kerasllm.tasks.reading import FoundAnswer, ReadingSettings, answers, chosen_threshold
from kerasllm.tasks.saved_model import open_model
from kerasllm.tokenizers.loading import load_wordpiece


@dataclass
class Config:
    """Answers questions from a text by a fine-tuned reader."""

    model: str
    """A run of finetune_qa, a model directory or a hub id."""

    context: str
    """Text file in which the answers are sought."""

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
    """Reads the model, the text and the questions, and gives the answers."""
    if not config.question and not config.file:
        raise InputError("give a --question, or a --file of questions")
    if config.output:
        check_writable(Path(config.output))
    questions = questions_of(config)
    context = "".join(line for _, line in text_lines(config.context))
    if not context.strip():
        raise InputError(f"{config.context}: holds no text")
    saved = open_model(config.model, BertConfig, load_wordpiece)
    if saved.model_class is not BertQuestionAnswering:
        raise InputError(
            f"{saved.directory}: is a {saved.model_class.__name__}, not a reader; finetune_qa trains one"
        )
    positions = saved.config.max_sequence_length
    length = min(384, positions) if config.sequence_length is None else config.sequence_length
    if length > positions:
        raise InputError(
            f"--sequence_length {length} is above the {positions} positions of {saved.directory}"
        )
    threshold = config.null_threshold
    settings = ReadingSettings(
        sequence_length=length,
        document_stride=length // 3 if config.document_stride is None else config.document_stride,
        max_answer_length=config.max_answer_length,
        n_best=config.n_best,
        batch_size=config.batch_size,
        null_threshold=chosen_threshold(saved.directory) if threshold is None else threshold,
    )
    model = load_whole(saved.model_class, saved.directory, {"answer_head"})
    found = answers(model, saved.tokenizer, questions, [[context]] * len(questions), settings)
    if config.output:
        rows = [row for question, own in zip(questions, found, strict=True) for row in rows_of(question, own)]
        write_output(Path(config.output), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(
            f"{len(rows)} answers to {len(questions)} questions written to {config.output}", file=sys.stderr
        )
    else:
        for question, own in zip(questions, found, strict=True):
            print(*lines_of(question, own), sep="\n")
    return 0


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


def rows_of(question: str, found: list[FoundAnswer]) -> list[dict[str, object]]:
    """Returns the answers to a question for JSON lines; start and end are null for "no answer"."""
    return [
        {
            "question": question,
            "answer": answer.text,
            "score": round(answer.probability, 4),
            "start": answer.start if answer.text else None,
            "end": answer.end if answer.text else None,
        }
        for answer in found
    ]


def lines_of(question: str, found: list[FoundAnswer]) -> list[str]:
    """Returns a question and its answers, with score and place, as a person reads them."""
    lines = [question]
    for answer in found:
        place = f"  characters {answer.start}-{answer.end}" if answer.text else ""
        lines.append(f"  {answer.probability:.4f}  {' '.join(answer.text.split()) or '(no answer)'}{place}")
    return lines if found else [question, "  (no answer)"]


if __name__ == "__main__":
    cli.run(main, Config)
