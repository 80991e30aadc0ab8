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
from kerasllm.checkpoints import resolve_directory
from kerasllm.cli.ranges import check_ranges
from kerasllm.data.sources.lines import text_lines
from kerasllm.errors import InputError
from kerasllm.files.atomic import check_writable, write_output
from kerasllm.generation.terminal import TerminalWriter
from kerasllm.models.registry import read_settings
from kerasllm.tokenizers.chat_template import DEFAULT_CHAT_TEMPLATE, render
from kerasllm.tokenizers.loading import encode, load_tokenizer, read_chat_template, vocabulary_size
from kerasllm.tokenizers.special_tokens import end_of_text_id, marks


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
    prompts = read_prompts(config)
    for place, text in prompts:
        tokens = max(len(encode(tokenizer, text, place, special_tokens=True)), 1)
        check_room(config, place, tokens, shape.max_sequence_length)
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
        template = read_chat_template(directory)
        chat(
            model,
            tokenizer,
            template or DEFAULT_CHAT_TEMPLATE,
            settings,
            place=str(directory) if template else "",
        )
    elif config.prompt is not None:
        ids = encode(tokenizer, config.prompt, special_tokens=True)
        writer = TerminalWriter(tokenizer, ids, config.stop, before=config.prompt)
        model.generate(config.prompt, tokenizer=tokenizer, on_tokens=writer, **settings)
        writer.end()
    else:
        continue_file(config, model, tokenizer, [text for _, text in prompts], settings)
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


def read_prompts(config: Config) -> list[tuple[str, str]]:
    """The prompts, each with its place; none where the model is to chat."""
    if config.prompt is not None:
        return [("--prompt", config.prompt)]
    if config.file is None:
        return []
    lines = [(number, text.rstrip("\r\n")) for number, text in text_lines(config.file)]
    prompts = [(f"{config.file}:{number}", text) for number, text in lines if text]
    if not prompts:
        raise InputError(f"{config.file}: holds no prompt")
    return prompts


def check_room(config: Config, place: str, tokens: int, positions: int) -> None:
    """Refuses a prompt that leaves no room for its continuation, before any work is done on others."""
    asked = config.max_new_tokens
    if tokens + (asked or 1) > positions:
        room = f"--max_new_tokens {asked}" if asked else "one new token"
        raise InputError(
            f"{place}: a prompt of {tokens} tokens and {room} do not fit into the model's {positions} positions: "
            f"shorten {'one of them' if asked else 'it'}"
        )


def continue_file(
    config: Config, model: GPTCausalLM, tokenizer: Any, prompts: list[str], settings: dict[str, Any]
) -> None:
    """All prompts, some at a time; the results are written whole or not at all."""
    texts: list[str] = []
    for start in range(0, len(prompts), config.batch_size):
        batch = prompts[start : start + config.batch_size]
        # Rows are numbered through, so that a text does not depend on the size of the batches.
        texts += model.generate(batch, tokenizer=tokenizer, first_row=start, **settings)
    if not config.output:
        print("\n\n".join(texts))
        return
    lines = [
        json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    write_output(Path(config.output), "\n".join(lines) + "\n")
    print(f"written to {config.output}")


class NotTaken(InputError):
    """A message that the model cannot take; the next one may do."""


class Chat:
    """A conversation: what was said, as the model is to see it.

    Args:
        tokenizer: of the model.
        template: a chat template in Hugging Face's form.
        room: tokens that what was said may take; the oldest turns go beyond it.
        place: where the template is from, for messages.
    """

    def __init__(self, tokenizer: Any, template: str, room: int, place: str) -> None:
        self.tokenizer, self.template, self.room, self.place = tokenizer, template, room, place
        self.end, self.beginning = marks(tokenizer) or ("", "")
        self.messages: list[dict[str, str]] = []

    def ask(self, line: str) -> list[int]:
        """The conversation up to the answer that is due, as tokens.

        Raises:
            NotTaken: a character is unknown, or the message alone takes too much room.
            InputError: the template is broken, or the tokenizer does not know the template's own words.
        """
        try:
            encode(self.tokenizer, line, "your message", special_tokens=True)
        except InputError as error:
            raise NotTaken(str(error)) from error
        asked = [*self.messages, {"role": "user", "content": line}]
        while True:
            ids = self._encoded(asked)
            if len(ids) <= self.room:
                break
            if len(asked) < 3:
                raise NotTaken(
                    f"your message makes {len(ids)} tokens, there is room for {self.room}: shorten it, or lower "
                    "--max_new_tokens"
                )
            asked = asked[2:]
            print("(the oldest turn is forgotten: the window is full)", file=sys.stderr)
        self.messages = asked
        return ids

    def answer(self, text: str) -> None:
        """Remembers an answer; where there is none, the question is forgotten too, as turns alternate."""
        if text.strip():
            self.messages.append({"role": "assistant", "content": text.strip()})
        else:
            self.messages.pop()
            print("(an empty answer: this turn is forgotten)", file=sys.stderr)

    def _encoded(self, messages: list[dict[str, str]]) -> list[int]:
        text = render(
            messages,
            self.template,
            end=self.end,
            beginning=self.beginning,
            add_generation_prompt=True,
            place=self.place,
        )
        place = f"{self.place}: the chat template" if self.place else "the chat template"
        return encode(self.tokenizer, text, place, special_tokens=True)


def chat(model: GPTCausalLM, tokenizer: Any, template: str, settings: dict[str, Any], *, place: str) -> None:
    """Reads a line, answers, remembers both."""
    stops = list(dict.fromkeys([end_of_text_id(tokenizer), *model.config.end_token_ids]))
    positions = model.config.max_sequence_length
    settings["max_new_tokens"] = settings["max_new_tokens"] or min(128, positions // 2)
    room = positions - settings["max_new_tokens"]
    if room < 1:
        raise InputError(
            f"--max_new_tokens {settings['max_new_tokens']} leaves no room for a message in the model's {positions} "
            "positions: lower it"
        )
    talk = Chat(tokenizer, template, room, place)
    while (line := next_message()) is not None:
        try:
            ids = talk.ask(line)
        except NotTaken as error:
            print(f"error: {error}", file=sys.stderr)  # a slip of the fingers does not end the conversation
            continue
        writer = TerminalWriter(tokenizer, ids, settings["stop"])
        model.generate(ids, tokenizer=tokenizer, on_tokens=writer, stop_token_ids=stops, **settings)
        talk.answer(writer.end())


def next_message() -> str | None:
    """A line from the terminal; None at the end, or where it is empty."""
    try:
        line = input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise InputError(
            f"your message: not UTF-8 at byte {error.start}; set the terminal to UTF-8, or convert what is piped in "
            "with iconv -t UTF-8"
        ) from error
    return line if line.strip() else None


if __name__ == "__main__":
    cli.run(main, Config)
