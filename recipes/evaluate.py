"""Measures the perplexity of a language model on a text, with a sliding window.

A recurrent model carries its state through the text, unless a window is asked for.

It is given per token, and per byte and character, so that models with different tokenizers can be compared.

KERAS_BACKEND=jax python recipes/evaluate.py --model runs/mine --corpus held_out.txt --stride 128
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras

from kerasllm import GPTConfig, RecurrentConfig, cli
from kerasllm.cli.ranges import at_least
from kerasllm.data.batches.lanes import LaneEvaluationBatches
from kerasllm.data.batches.sliding_windows import SlidingBatches
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache.stream import tokenize_stream
from kerasllm.errors import InputError, naming
from kerasllm.files.atomic import check_writable, write_output
from kerasllm.models.registry import check_checkpoint
from kerasllm.tasks import CausalLanguageModeling, pointing_to_recipe
from kerasllm.tasks.saved_model import open_model
from kerasllm.tokenizers.added_tokens import added_ids
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.training.options import GPTOptions


@dataclass
class Config:
    """Measures the perplexity of a language model on a text."""

    model: str
    """A run, a model directory or a hub id."""

    corpus: list[str]
    """Text files or directories, .jsonl, .parquet, hub:ID of a data set; several allowed."""

    text_column: str = "text"
    """Field that holds the text in .jsonl, .parquet and hub data sets."""

    context_length: int | None = field(default=None, metadata=at_least(1))
    """Tokens per window; if null, all of the model's positions, and no windows for a recurrent model."""

    stride: int | None = field(default=None, metadata=at_least(1))
    """Tokens between window starts; only the last so many of a window are scored; half a window if null."""

    batch_size: int = field(default=16, metadata=at_least(1))
    """Windows per batch; of a recurrent model, parts of the text that are read side by side."""

    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Precision of the computation."""

    processes: int | None = field(default=None, metadata=at_least(1))
    """Processes that tokenize; one per core if null."""

    output: str | None = None
    """JSON file to write the figures to."""

    limit: int | None = field(default=None, metadata=at_least(1))
    """Maximum number of batches; all if null."""


FAMILIES = (GPTConfig, RecurrentConfig)
PART = 128  # tokens that a recurrent model reads at a time


def main(config: Config) -> int:
    """Reads the model and the text, and prints the figures; those of a byte unless tokens stand for unknown words."""
    if config.output:
        check_writable(Path(config.output))
    with pointing_to_recipe(config.model, "generate", "evaluate"):  # which uses the same models
        saved = CausalLanguageModeling.checked(open_model(config.model, FAMILIES))
        if isinstance(saved.config, RecurrentConfig):
            check_checkpoint(config.model)
        else:
            size = vocabulary_size(saved.tokenizer)
            GPTOptions().check_with(config.model, vocabulary_size=size, sequence_length=config.context_length)
    carries = isinstance(saved.config, RecurrentConfig) and config.context_length is None
    if carries and config.stride:
        raise InputError("--stride is for windows: give a recurrent model --context_length, too")
    length = config.context_length or (PART if carries else saved.config.max_sequence_length)
    stride = length if carries else config.stride or max(length // 2, 1)
    if stride > length:
        raise InputError(f"--stride {stride} is above the window of {length} tokens: lower it")
    corpus = Corpus(config.corpus, config.text_column)
    stream = tokenize_stream(corpus, saved.tokenizer, processes=config.processes)
    shape: dict[str, Any] = {"context_length": length, "batch_size": config.batch_size, "limit": config.limit}
    with naming(f"--corpus {' '.join(config.corpus)}"):
        if carries:
            batches: Any = LaneEvaluationBatches(stream, texts_alone=True, **shape)
        else:
            begin = next(reversed(added_ids(saved.tokenizer)[0]), None)
            batches = SlidingBatches(stream, stride=stride, begin_id=begin, **shape)
    keras.config.set_dtype_policy(config.precision)
    task = CausalLanguageModeling()
    model = task.load(saved)
    if carries:
        model.carry_state(evaluation_rows=config.batch_size)
    task.compile(model)
    print(f"scoring {len(batches):,} batches of {'a text' if carries else 'windows'} …", flush=True)
    figures = task.evaluate(model, batches)
    tokens, nats = figures["tokens"], figures["loss"] * figures["tokens"]
    unknown = saved.tokenizer.token_to_id(getattr(saved.tokenizer.model, "unk_token", None) or "")
    if unknown not in (None, stream.end_id) and (count := int((stream.tokens == unknown).sum())):
        figures["unknown_tokens"] = count  # stand for any words, so that nothing can be told of bytes
    elif config.limit is None:
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
    figures |= {"lanes": config.batch_size} if carries else {}
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
