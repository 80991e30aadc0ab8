"""Judges answers from documents by SQuAD's rule: passages are retrieved for each question, and an answer is read.

KERAS_BACKEND=jax python recipes/evaluate_answers.py --model runs/reader --documents docs/ --file questions.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from kerasllm import BertConfig, BertQuestionAnswering, cli
from kerasllm.cli.ranges import at_least
from kerasllm.data.sources.squad import read_questions
from kerasllm.errors import InputError
from kerasllm.files.atomic import check_writable, write_output
from kerasllm.tasks import QuestionAnswering
from kerasllm.tasks.document_answers import open_retriever
from kerasllm.tasks.document_figures import document_answer_figures
from kerasllm.tasks.reading import reading_settings
from kerasllm.tasks.retrieval import Retriever
from kerasllm.tasks.saved_model import open_model
from kerasllm.tokenizers.loading import load_wordpiece
from kerasllm.training.callbacks.progress import in_words


@dataclass
class Config:
    """Judges answers from documents, beside those from each question's own context."""

    model: str
    """A run of finetune_qa, a model directory or a hub id."""

    file: str
    """Questions with reference answers: a .json file as SQuAD has it, .jsonl, .parquet or hub:ID."""

    documents: str | None = None
    """Documents to search for passages: a directory of text files, or a file that retrieve.py reads."""

    retriever: str = "bm25"
    """With --documents: bm25, or an encoder (a run of finetune_embeddings, a model directory or a hub id)."""

    index: list[str] = field(default_factory=list)
    """Directories of indexes that retrieve.py built, instead of --documents; the results of several are fused."""

    num_passages: int = field(default=10, metadata=at_least(1))
    """Passages that are read for a question."""

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

    figures: str | None = None
    """JSON file for the figures."""


def main(config: Config) -> int:
    """Reads the questions, the documents and the model, and prints the figures."""
    if bool(config.documents) == bool(config.index):
        raise InputError("give either --documents or --index")
    if config.figures:
        check_writable(Path(config.figures))
    data = read_questions(config.file, split="validation")
    saved = open_model(config.model, BertConfig, load_wordpiece)
    if saved.model_class is not BertQuestionAnswering:
        raise InputError(
            f"{saved.directory}: is a {saved.model_class.__name__}, not a reader; finetune_qa trains one"
        )
    sizes = {name: getattr(config, name) for name in ("max_answer_length", "batch_size")}
    given = config.sequence_length, config.document_stride, config.null_threshold
    settings = reading_settings(saved.directory, saved.config.max_sequence_length, *given, **sizes)
    if config.documents:
        retriever = open_retriever(config.documents, config.retriever)
    else:
        retriever = Retriever(config.index)
    model, count = QuestionAnswering.load(saved), config.num_passages
    figures = document_answer_figures(
        retriever, model, saved.tokenizer, data, num_passages=count, settings=settings
    )
    print(f"from the documents: {in_words(figures)}")
    print(f"with the right passage given: {in_words(figures['given'])}")
    if config.figures:
        write_output(Path(config.figures), json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    cli.run(main, Config)
