"""Tokenizes text ahead of a training, in parts on many machines if need be, and joins the parts into one.

kerasllm tokenize_corpus --corpus texts --shard 0/8 --tokenizer runs/mine --output parts/0
kerasllm tokenize_corpus --merge parts/0 parts/1 --output tokens
KERAS_BACKEND=jax kerasllm pretrain_gpt --corpus tokens --tokenizer tokens --output runs/next
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kerasllm import cli
from kerasllm.cli.ranges import at_least
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.sources.tokenized import read_meta
from kerasllm.data.token_cache.parts import merge_parts, write_part
from kerasllm.errors import InputError
from kerasllm.tokenizers.loading import load_tokenizer


@dataclass
class Config:
    """Tokenizes text into a directory that pretraining takes as its --corpus, or joins several."""

    output: str
    """Directory for the tokens, with their tokenizer."""

    corpus: list[str] = field(default_factory=list)
    """Text files or directories, .jsonl, .parquet, hub:ID of a data set, or python-docs; several allowed."""

    tokenizer: str | None = None
    """The tokenizer: a file, a directory or a run."""

    merge: list[str] = field(default_factory=list)
    """Directories of tokens to join in this order, in place of --corpus."""

    reading: Literal["verbatim", "sentences"] = "verbatim"
    """verbatim for GPT and recurrent models, sentences for BERT."""

    shard: str | None = None
    """Which share of the corpus to tokenize, as 0/8 to 7/8: whole files, or rows of a data set of the hub."""

    text_column: str = "text"
    """Field that holds the text in .jsonl, .parquet and hub data sets."""

    processes: int | None = field(default=None, metadata=at_least(1))
    """Processes that tokenize; one per core if null."""


def main(config: Config) -> int:
    """Writes the directory, and prints how many tokens it holds."""
    began = time.perf_counter()
    if bool(config.corpus) == bool(config.merge):
        raise InputError("give either --corpus, to tokenize text, or --merge, to join what is tokenized")
    if config.merge:
        if config.shard or config.tokenizer:
            raise InputError("--shard and --tokenizer are for --corpus; joined parts keep their tokenizer")
        count = merge_parts(config.merge, config.output)
    else:
        if config.tokenizer is None:
            raise InputError("--corpus needs --tokenizer, so that all parts have the same one")
        count = write_part(
            Corpus(config.corpus, config.text_column, share(config.shard)),
            load_tokenizer(config.tokenizer),
            config.output,
            reading=config.reading,
            processes=config.processes,
        )
    print(f"{count:,} tokens in {config.output}, made in {time.perf_counter() - began:.1f} s")
    reading = read_meta(Path(config.output))["reading"]  # of joined parts it is theirs
    recipe = "pretrain_gpt" if reading == "verbatim" else "pretrain_bert"
    print(f"to use them: kerasllm {recipe} --corpus {config.output} --tokenizer {config.output} --output RUN")
    return 0


def share(text: str | None) -> tuple[int, int] | None:
    """Returns the number and the count of a share that is written as 3/8."""
    if text is None:
        return None
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise InputError(f"--shard {text!r}: write a number from 0 and a count, such as 0/8 to 7/8")
    return int(number), int(count)


if __name__ == "__main__":
    cli.run(main, Config)
