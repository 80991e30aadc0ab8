"""Measures the perplexity of a GPT on a text, with a sliding window.

It is given per token, and per byte and character, so that models with different tokenizers can be compared.

KERAS_BACKEND=jax python recipes/evaluate.py --model runs/mine --corpus held_out.txt --stride 128
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import keras

from kerasllm import GPTCausalLM, cli
from kerasllm.checkpoints import resolve_directory
from kerasllm.cli.ranges import at_least
from kerasllm.data.batches.sliding_windows import SlidingBatches
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache.stream import tokenize_stream
from kerasllm.errors import InputError, naming
from kerasllm.files.atomic import check_writable, write_output
from kerasllm.tasks import CausalLanguageModeling, pointing_to_recipe
from kerasllm.tokenizers.added_tokens import added_ids
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.training.options import GPTOptions


@dataclass
class Config:
    """Measures the perplexity of a GPT on a text."""

    model: str
    """A run, a model directory or a hub id."""

    corpus: list[str]
    """Text files or directories, .jsonl, .parquet, hub:ID of a data set; several allowed."""

    text_column: str = "text"
    """Field that holds the text in .jsonl, .parquet and hub data sets."""

    context_length: int | None = field(default=None, metadata=at_least(1))
    """Tokens per window; all of the model's positions if null."""

    stride: int | None = field(default=None, metadata=at_least(1))
    """Tokens between window starts; only the last so many of a window are scored; half a window if null."""

    batch_size: int = field(default=16, metadata=at_least(1))
    """Windows per batch."""

    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Precision of the computation."""

    processes: int | None = field(default=None, metadata=at_least(1))
    """Processes that tokenize; one per core if null."""

    output: str | None = None
    """JSON file to write the figures to."""

    limit: int | None = field(default=None, metadata=at_least(1))
    """Maximum number of batches; all if null."""


def main(config: Config) -> int:
    """Reads the model and the text, and prints the figures."""
    if config.output:
        check_writable(Path(config.output))
    directory = resolve_directory(config.model)
    with pointing_to_recipe(config.model, "generate"):  # which uses the same models
        tokenizer = load_tokenizer(directory)
        shape = GPTOptions().check_with(
            config.model, vocabulary_size=vocabulary_size(tokenizer), sequence_length=config.context_length
        )
    length = config.context_length or shape.max_sequence_length
    stride = config.stride or max(length // 2, 1)
    if stride > length:
        raise InputError(f"--stride {stride} is above the window of {length} tokens: lower it")
    corpus = Corpus(config.corpus, config.text_column)
    stream = tokenize_stream(corpus, tokenizer, processes=config.processes)
    with naming(f"--corpus {' '.join(config.corpus)}"):
        batches = SlidingBatches(
            stream,
            context_length=length,
            stride=stride,
            batch_size=config.batch_size,
            begin_id=next(reversed(added_ids(tokenizer)[0]), None),
            limit=config.limit,
        )
    keras.config.set_dtype_policy(config.precision)
    model = GPTCausalLM.from_pretrained(directory)
    task = CausalLanguageModeling()
    task.compile(model)
    print(f"scoring {len(batches):,} batches of windows …", flush=True)
    figures = task.evaluate(model, batches)
    tokens, nats = figures["tokens"], figures["loss"] * figures["tokens"]
    if config.limit is None:
        num_bytes = num_characters = 0
        for piece in corpus.raw_pieces():
            num_bytes += len(piece.text.encode("utf-8", "replace"))
            num_characters += len(piece.text)
        figures |= {
            "bytes": num_bytes,
            "characters": num_characters,
            "bits_per_byte": nats / math.log(2) / num_bytes,
            "perplexity_per_byte": math.exp(nats / num_bytes),
            "perplexity_per_character": math.exp(nats / num_characters),
        }
    figures |= {"tokens": int(tokens), "context_length": length, "stride": stride}
    for name, value in figures.items():
        print(
            f"{name.replace('_', ' ')}: {value:,.4f}"
            if isinstance(value, float)
            else f"{name.replace('_', ' ')}: {value:,}"
        )
    if config.output:
        write_output(Path(config.output), json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    cli.run(main, Config)
