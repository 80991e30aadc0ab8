"""Continues texts with a GPT, or chats.

KERAS_BACKEND=torch python recipes/generate.py --model runs/mine --prompt "Once upon a time" --temperature 0.8
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras

from kerasllm import GPTCausalLM, GPTConfig, cli
from kerasllm.checkpoints import read_settings, resolve_directory
from kerasllm.data.chat_template import DEFAULT_CHAT_TEMPLATE, render
from kerasllm.data.end_of_text import end_of_text_id, marks
from kerasllm.data.text_lines import text_lines
from kerasllm.data.tokenizers import encode, load_tokenizer, read_chat_template, vocabulary_size
from kerasllm.errors import InputError
from kerasllm.training.atomic_files import check_writable, write_output
from kerasllm.training.setting_ranges import check_ranges


@dataclass
class Config:
    """Continues texts with a GPT, or chats."""

    model: str
    """A run, model directory or hub id."""

    prompt: str | None = None
    """A text to continue; its continuation appears as it is made."""

    file: str | None = None
    """A file with a prompt a line."""

    output: str | None = None
    """With --file: a JSONL file for {"prompt", "text"}; to the terminal if null."""

    chat: bool = False
    """Talk to the model: a line is a message, an empty line or Ctrl-D ends."""

    max_new_tokens: int | None = None
    """Tokens of a continuation at most; 128, or as many as the model has positions left for, if null."""

    temperature: float | None = None
    """Divides the scores; below 1 more likely, above 1 more varied, 0 or null (and no top_k, top_p, min_p) greedy."""

    top_k: int | None = None
    """Draw from the k likeliest tokens."""

    top_p: float | None = None
    """Draw from the likeliest tokens that together have probability p."""

    min_p: float | None = None
    """Draw from tokens with at least min_p times the probability of the likeliest."""

    repetition_penalty: float = 1.0
    """Above 1, tokens that occurred score lower."""

    num_beams: int = 1
    """Above 1, keep the best of so many beginnings side by side: the likeliest text, not the likeliest next token."""

    length_penalty: float = 1.0
    """With --num_beams: a text scores its log probability / length ** length_penalty; larger favours longer ones."""

    stop: list[str] = field(default_factory=list)
    """Texts at which a continuation is cut off."""

    batch_size: int = 8
    """With --file: prompts at a time."""

    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Of the computation."""

    seed: int = 0
    """Of the draws."""


def main(config: Config) -> int:
    """Model and prompts → continuations."""
    check(config)
    directory = resolve_directory(config.model)
    shape, _ = read_settings(directory, GPTConfig)
    tokenizer = load_tokenizer(directory)
    if vocabulary_size(tokenizer) > shape.vocabulary_size:
        raise InputError(
            f"{directory}: the tokenizer has {vocabulary_size(tokenizer)} tokens, the model "
            f"{shape.vocabulary_size}: they do not belong together; copy the model anew"
        )
    lines = [(number, text.rstrip("\r\n")) for number, text in text_lines(config.file)] if config.file else []
    lines = [(number, text) for number, text in lines if text]
    if config.file and not lines:
        raise InputError(f"{config.file}: holds no prompt")
    if config.prompt is not None:
        encode(tokenizer, config.prompt, "--prompt")  # names a character that is unknown
    for number, text in lines:
        encode(tokenizer, text, f"{config.file}:{number}")
    keras.config.set_dtype_policy(config.precision)
    model = GPTCausalLM.from_pretrained(directory)
    settings = {
        name: getattr(config, name)
        for name in (
            *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
            *("num_beams", "length_penalty", "stop", "seed"),
        )
    }
    if config.chat:
        chat(model, tokenizer, read_chat_template(directory) or DEFAULT_CHAT_TEMPLATE, settings)
    elif config.prompt is not None:
        writer = TerminalWriter(tokenizer, config.prompt)
        model.generate(config.prompt, tokenizer=tokenizer, on_tokens=writer, **settings)
        writer.end()
    else:
        continue_file(config, model, tokenizer, [text for _, text in lines], settings)
    return 0


def check(config: Config) -> None:
    """The settings, before anything is read."""
    if (config.prompt is not None) + (config.file is not None) + config.chat != 1:
        raise InputError("give one of --prompt, --file and --chat")
    if config.output and not config.file:
        raise InputError("--output is for --file")
    check_ranges(config)
    for name in ("top_p", "min_p"):
        value = getattr(config, name)
        if value is not None and not 0 < value <= 1:
            raise InputError(f"--{name} is {value}, it must lie in (0, 1]")
    drawing = [
        name for name in ("temperature", "top_k", "top_p", "min_p") if getattr(config, name) is not None
    ]
    if config.num_beams > 1 and drawing:
        raise InputError(f"--num_beams searches and --{drawing[0]} draws: give one or the other")
    if config.output:
        check_writable(Path(config.output))


def continue_file(
    config: Config, model: GPTCausalLM, tokenizer: Any, prompts: list[str], settings: dict[str, Any]
) -> None:
    """All prompts, some at a time; the results are written whole or not at all."""
    texts: list[str] = []
    for start in range(0, len(prompts), config.batch_size):
        texts += model.generate(prompts[start : start + config.batch_size], tokenizer=tokenizer, **settings)
    if not config.output:
        print("\n\n".join(texts))
        return
    lines = [
        json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    write_output(Path(config.output), "\n".join(lines) + "\n")
    print(f"written to {config.output}")


class TerminalWriter:
    """Prints tokens as they come; a character whose bytes are not all there yet waits for them."""

    def __init__(self, tokenizer: Any, before: str = "") -> None:
        self.tokenizer = tokenizer
        self.before = before  # printed with the first token: a prompt that is refused is not
        self.tokens: list[int] = []
        self.shown = 0

    def __call__(self, row: int, tokens: list[int]) -> None:
        """Takes new tokens."""
        self.tokens += tokens
        text = self.before + self.tokenizer.decode(self.tokens)
        if not text.endswith("\ufffd"):
            print(text[self.shown :], end="", flush=True)
            self.shown = len(text)

    def end(self) -> str:
        """Prints what still waits, and a line break; returns the whole text."""
        text = self.tokenizer.decode(self.tokens)
        print((self.before + text)[self.shown :], flush=True)
        return text


def chat(model: GPTCausalLM, tokenizer: Any, template: str, settings: dict[str, Any]) -> None:
    """Reads a line, answers, remembers both; the oldest turns go when the window is full."""
    end, beginning = marks(tokenizer) or ("", "")
    stops = [end_of_text_id(tokenizer)]
    positions = model.config.max_sequence_length
    settings["max_new_tokens"] = settings["max_new_tokens"] or min(128, positions // 2)
    room = positions - settings["max_new_tokens"]
    messages: list[dict[str, str]] = []
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if not line.strip():
            return
        messages.append({"role": "user", "content": line})
        while True:
            text = render(messages, template, end=end, beginning=beginning, add_generation_prompt=True)
            ids = encode(tokenizer, text, "your message", special_tokens=True)
            if len(ids) <= room:
                break
            if len(messages) < 3:
                raise InputError(
                    f"a message of {len(ids)} tokens and --max_new_tokens {settings['max_new_tokens']} do not fit "
                    f"into {model.config.max_sequence_length} positions: shorten one of them"
                )
            messages = messages[2:]
            print("(the oldest turn is forgotten: the window is full)", file=sys.stderr)
        writer = TerminalWriter(tokenizer)
        model.generate(ids, tokenizer=tokenizer, on_tokens=writer, stop_token_ids=stops, **settings)
        messages.append({"role": "assistant", "content": writer.end().strip() or "…"})


if __name__ == "__main__":
    cli.run(main, Config)
