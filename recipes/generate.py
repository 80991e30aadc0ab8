"""Continues texts with a GPT or a recurrent language model, or chats with it.

KERAS_BACKEND=torch python recipes/generate.py --model runs/mine --prompt "Once upon a time" --temperature 0.8
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras

from kerasllm import GPTConfig, RecurrentConfig, cli
from kerasllm.cli.ranges import at_least, within
from kerasllm.data.sources.lines import text_lines
from kerasllm.errors import InputError
from kerasllm.files.atomic import check_writable, write_output
from kerasllm.generation.chat import talk
from kerasllm.generation.prompts import check_room
from kerasllm.generation.terminal import continue_visibly
from kerasllm.tasks import CausalLanguageModeling, pointing_to_recipe
from kerasllm.tasks.saved_model import open_model
from kerasllm.tokenizers.loading import find_chat_template


@dataclass
class Config:
    """Continues texts with a language model, or chats with it."""

    model: str
    """A run, a model directory or a hub id."""

    prompt: str | None = None
    """Text to continue; the continuation appears as it is generated."""

    file: str | None = None
    """File with one prompt per line."""

    output: str | None = None
    """With --file: a JSONL file for {"prompt", "text"}; standard output if null."""

    chat: bool = False
    """Talk to the model: each line is a message; an empty line or Ctrl-D ends the chat."""

    max_new_tokens: int | None = field(default=None, metadata=at_least(1))
    """Maximum tokens of a continuation; if null, 128 or as many as the model has positions for."""

    temperature: float | None = None
    """Divides the logits; above 1 is more varied, 0 is greedy, as is null without --top_k, --top_p and --min_p."""

    top_k: int | None = field(default=None, metadata=at_least(1))
    """Sample from the k likeliest tokens."""

    top_p: float | None = field(default=None, metadata=within(0, 1, above=True, below=False))
    """Sample from the likeliest tokens that together have probability p."""

    min_p: float | None = field(default=None, metadata=within(0, 1, above=True, below=False))
    """Sample from tokens with at least min_p times the probability of the likeliest one."""

    repetition_penalty: float = 1.0
    """Above 1, tokens that have occurred score lower."""

    num_beams: int = field(default=1, metadata=at_least(1))
    """Above 1, beam search with so many beams, for the likeliest text instead of the likeliest next token."""

    length_penalty: float = 1.0
    """With --num_beams: a text's score is log probability / length ** length_penalty; more favors longer texts."""

    stop: list[str] = field(default_factory=list)
    """Texts at which a continuation is cut off."""

    batch_size: int = field(default=8, metadata=at_least(1))
    """With --file: prompts per batch."""

    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Precision of the computation."""

    seed: int = field(default=0, metadata=within(0, 2**31))
    """Seed of the sampling."""


DRAWING = ("temperature", "top_k", "top_p", "min_p")
SETTINGS = (*DRAWING, "max_new_tokens", "repetition_penalty", "num_beams", "length_penalty", "stop", "seed")


def main(config: Config) -> int:
    """Reads the model and the prompts, and writes the continuations."""
    check(config)
    with pointing_to_recipe(config.model, "generate"):
        saved = CausalLanguageModeling.checked(open_model(config.model, (GPTConfig, RecurrentConfig)))
    tokenizer = saved.tokenizer
    prompts = read_prompts(config)
    check_room(prompts, tokenizer, config.max_new_tokens, saved.config.max_sequence_length)
    keras.config.set_dtype_policy(config.precision)
    model = CausalLanguageModeling.load(saved)
    settings = {name: getattr(config, name) for name in SETTINGS}
    if config.chat:
        template, place = find_chat_template(None, saved.directory)
        talk(model, tokenizer, template, settings, place=place)
    elif config.prompt is not None:
        continue_visibly(model, tokenizer, config.prompt, settings)
    else:
        continue_file(config, model, tokenizer, [text for _, text in prompts], settings)
    return 0


def check(config: Config) -> None:
    """Refuses settings that contradict each other, before anything is read."""
    if (config.prompt is not None) + (config.file is not None) + config.chat != 1:
        raise InputError("give one of --prompt, --file and --chat")
    drawing = [name for name in DRAWING if getattr(config, name) is not None]
    if config.num_beams > 1 and drawing:
        raise InputError(f"--num_beams searches and --{drawing[0]} draws: give one or the other")
    if config.output and not config.file:
        raise InputError("--output is for --file")
    if config.output:
        check_writable(Path(config.output))


def read_prompts(config: Config) -> list[tuple[str, str]]:
    """Returns the prompts, each with the place it is from; none for a chat."""
    if config.prompt is not None:
        return [("--prompt", config.prompt)]
    if config.file is None:
        return []
    lines = ((number, line.rstrip("\r\n")) for number, line in text_lines(config.file))
    prompts = [(f"{config.file}:{number}", line) for number, line in lines if line]
    if not prompts:
        raise InputError(f"{config.file}: holds no prompt")
    return prompts


def continue_file(config: Config, model: Any, tokenizer: Any, prompts: list[str], settings: dict) -> None:
    """Continues all prompts in batches; the results are written whole or not at all."""
    texts: list[str] = []
    for start in range(0, len(prompts), config.batch_size):
        batch = prompts[start : start + config.batch_size]
        # Rows are numbered across batches, so that a text does not depend on the size of the batches.
        texts += model.generate(batch, tokenizer=tokenizer, first_row=start, **settings)
    if not config.output:
        return print("\n\n".join(texts))
    pairs = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
    write_output(Path(config.output), "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs))
    print(f"written to {config.output}")


if __name__ == "__main__":
    cli.run(main, Config)
