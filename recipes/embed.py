"""Turns texts into vectors with an encoder: a run, a model of sentence-transformers, or any BERT.

KERAS_BACKEND=jax python recipes/embed.py --model runs/encoder --file texts.txt --output vectors.npy
"""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import keras
import numpy as np

from kerasllm import cli
from kerasllm.cli.ranges import at_least
from kerasllm.data.sources.labelled import read_texts
from kerasllm.errors import InputError
from kerasllm.files.atomic import check_writable, write_output
from kerasllm.tasks.sentence_encoder import SentenceEncoder


@dataclass
class Config:
    """Turns texts into vectors."""

    model: str
    """A run, a model directory (also of sentence-transformers) or a hub id."""

    text: list[str] = field(default_factory=list)
    """Texts."""

    file: str | None = None
    """File of texts: .txt with one per line, or .tsv, .csv, .jsonl, .parquet with --text_columns."""

    text_columns: str | None = None
    """Column of --file that holds the texts: its name, or its number from 0 if the file has no header."""

    output: str | None = None
    """.npy file, float32 (texts, dim), or .jsonl file for the vectors; lines of JSON on standard output if null."""

    prompt: str | None = None
    """Name of the model's prompt to put before each text, such as query; the model's default if null."""

    dim: int | None = field(default=None, metadata=at_least(1))
    """Keep only the first so many numbers of each vector, normalized anew, for models with Matryoshka dimensions."""

    sequence_length: int | None = field(default=None, metadata=at_least(3))
    """Tokens to which longer texts are cut; what the model is made for if null."""

    batch_size: int = field(default=64, metadata=at_least(1))
    """Texts per batch."""

    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Precision of the computation."""


def main(config: Config) -> int:
    """Reads the model and the texts, and writes the vectors."""
    check(config)
    texts = texts_of(config)
    keras.config.set_dtype_policy(config.precision)
    encoder = SentenceEncoder.open(config.model)
    if config.dim and config.dim > encoder.model.dim:
        raise InputError(f"--dim {config.dim}: the vectors have {encoder.model.dim} numbers")
    start = time.perf_counter()
    vectors = encoder.encode(
        texts, config.prompt, sequence_length=config.sequence_length, batch_size=config.batch_size
    )
    seconds = time.perf_counter() - start
    if config.dim:
        vectors = vectors[:, : config.dim]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(lengths, 1e-12) if encoder.model.normalize else vectors
    write(config, texts, vectors)
    cut = f", {encoder.num_truncated:,} of them cut" if encoder.num_truncated else ""
    print(
        f"{len(texts):,} texts{cut}, vectors of {vectors.shape[1]}: {seconds:.1f} s, "
        f"{len(texts) / seconds:,.0f} texts/s",
        file=sys.stderr,
    )
    return 0


def check(config: Config) -> None:
    """Refuses settings that contradict each other, before anything is read."""
    if bool(config.text) == bool(config.file):
        raise InputError("give either --text or --file")
    if config.text_columns and not config.file:
        raise InputError("--text_columns is for --file")
    if not all(map(str.strip, config.text)):
        raise InputError("--text: a text is empty; leave it out")
    if config.output:
        if not config.output.endswith((".npy", ".jsonl")):
            raise InputError(f"--output {config.output}: vectors are written to .npy or .jsonl files")
        check_writable(Path(config.output))


def texts_of(config: Config) -> list[str]:
    """Returns the texts from `--text` or `--file`."""
    if not config.file:
        return config.text
    rows = read_texts(config.file, config.text_columns).texts
    if len(rows[0]) > 1:
        raise InputError(
            f"--text_columns {config.text_columns}: vectors are of single texts: name one column"
        )
    return [text for (text,) in rows]


def write(config: Config, texts: list[str], vectors: np.ndarray) -> None:
    """Writes the vectors to `--output` or standard output."""
    if config.output and config.output.endswith(".npy"):
        content = io.BytesIO()
        np.save(content, vectors, allow_pickle=False)
        write_output(Path(config.output), content.getvalue())
        return
    rows = (
        json.dumps(
            {"text": text, "vector": [round(number, 6) for number in vector.tolist()]}, ensure_ascii=False
        )
        for text, vector in zip(texts, vectors, strict=True)
    )
    if config.output:
        write_output(Path(config.output), "".join(row + "\n" for row in rows))
    else:
        print(*rows, sep="\n")


if __name__ == "__main__":
    cli.run(main, Config)
