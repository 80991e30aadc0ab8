"""Uses a trained run: classifies or tags lines of text, predicts numbers, or fills in [MASK].

KERAS_BACKEND=jax python recipes/predict.py --model runs/mine --text "The capital of France is [MASK]."
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kerasllm import cli, load
from kerasllm.cli.ranges import at_least
from kerasllm.data.sources.conll import read_conll
from kerasllm.data.sources.labelled import read_texts
from kerasllm.errors import InputError, counted
from kerasllm.files.atomic import check_writable, write_output
from kerasllm.tasks.tagging import conll_lines


@dataclass
class Config:
    """Classifies or tags texts with a fine-tuned run, or fills in [MASK] with a pretrained one."""

    model: str
    """A run, a model directory or a hub id."""

    text: list[str] = field(default_factory=list)
    """Texts; the two texts of a pair are separated by a tab."""

    file: str | None = None
    """File of texts: .txt with one per line, or .tsv, .csv, .jsonl, .parquet with --text_columns; for a tagger also
    .conll, whose words are tagged as they are divided there."""

    text_columns: str | None = None
    """Columns of --file that hold the texts, as in fine-tuning; the column of the words in .conll, 0 if null."""

    output: str | None = None
    """File for the predictions, one JSON object per line; standard output if null."""

    format: Literal["conll"] | None = None
    """conll: a word and its tag a line, from a tagger; if null, a table on standard output, JSON in a file."""

    top_k: int = field(default=5, metadata=at_least(1))
    """Number of candidates for each [MASK]."""

    batch_size: int = field(default=64, metadata=at_least(1))
    """Texts per batch."""

    sequence_length: int | None = field(default=None, metadata=at_least(4))
    """Tokens to which longer texts are cut; the model's positions if null."""


def main(config: Config) -> int:
    """Reads the model and the texts, and writes the predictions."""
    check(config)
    predictor = load(config.model)
    positions, length = predictor.model.config.max_sequence_length, config.sequence_length
    if length is not None and length > positions:
        raise InputError(f"--sequence_length {length} is above the {positions} positions of {config.model}")
    divided = (config.file or "").lower().removesuffix(".gz").endswith(".conll")
    texts = sentences_of(config) if divided else texts_of(config)
    task = predictor.task
    if task.name != "masked_lm" and any("[MASK]" in part for text in texts for part in text):
        print(
            f"note: {config.model} is for {task.name.replace('_', ' ')} and fills in no [MASK]: a pretrained BERT "
            "does, such as a run of pretrain_bert",
            file=sys.stderr,
        )
    if config.format and task.name != "tagging":
        raise InputError(
            f"--format conll is for taggers: {config.model} is for {task.name.replace('_', ' ')}"
        )
    predictions = predictor.predict(
        texts,
        batch_size=config.batch_size,
        sequence_length=length,
        probabilities=True,
        top_k=config.top_k,
        is_split_into_words=divided,
    )
    rows = [task.record(text, found) for text, found in zip(texts, predictions, strict=True)]
    if config.format:
        lines = [
            line
            for row in rows
            for line in conll_lines(predictor.tokenizer, row, is_split_into_words=divided)
        ]
    elif config.output:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    else:
        lines = [line for row in rows for line in task.show(row)]
    if config.output:
        write_output(Path(config.output), "".join(f"{line}\n" for line in lines))
        print(f"{counted(len(rows), 'prediction')} written to {config.output}", file=sys.stderr)
    else:
        print(*lines, sep="\n")
    return 0


def check(config: Config) -> None:
    """Refuses settings that contradict each other, before anything is read."""
    if bool(config.text) == bool(config.file):
        raise InputError("give either --text or --file")
    if config.text_columns and not config.file:
        raise InputError("--text_columns is for --file; of a pair in --text, separate both by a tab")
    if config.output:
        check_writable(Path(config.output))


def sentences_of(config: Config) -> list[tuple[str, ...]]:
    """Returns the sentences of a `--file` in CoNLL's form, with a space between two words."""
    if not (config.text_columns or "0").isdigit():
        raise InputError(
            f"--text_columns is {config.text_columns}: the column of words in .conll is a number, from 0"
        )
    sentences = read_conll(config.file or "", int(config.text_columns or 0), label_column=None)
    return [(" ".join(line.word.replace(" ", "\u00a0") for line in sentence),) for sentence in sentences]


def texts_of(config: Config) -> list[tuple[str, ...]]:
    """Returns the texts and pairs of texts from `--text` or `--file`."""
    if not all(map(str.strip, config.text)):
        raise InputError("--text: a text is empty; leave it out")
    texts = [tuple(text.split("\t")) for text in config.text]
    if config.file:
        texts = read_texts(config.file, config.text_columns).texts
    if any(len(text) > 2 for text in texts):
        raise InputError("a text has more than one tab: give one text, or a pair separated by one tab")
    return texts


if __name__ == "__main__":
    cli.run(main, Config)
