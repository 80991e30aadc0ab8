"""Writes texts that a model generates during training to samples.jsonl."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from kerasllm import processes
from kerasllm.errors import InputError
from kerasllm.files.atomic import write_atomically
from kerasllm.tokenizers.characters import character_ids
from kerasllm.tokenizers.encoding import encode_from_beginning
from kerasllm.tokenizers.special_tokens import end_of_text_id


class SampleLog:
    """A log of generated texts, with one line `{"step", "text"}` each.

    Call it with the model and the step. The texts are drawn at temperature 0.8 from the 200 likeliest tokens, with
    the step as seed.

    Args:
        path: the file; lines of later steps, written before an interruption, are dropped.
        tokenizer: the model's tokenizer.
        prompt: token ids that the texts begin with.
        max_new_tokens: new tokens per text; fewer if the model has too few positions.
    """

    def __init__(self, path: Path, tokenizer: Any, prompt: list[int], max_new_tokens: int) -> None:
        self.path, self.tokenizer, self.prompt = path, tokenizer, prompt
        self.max_new_tokens = max_new_tokens

    def __call__(self, model: Any, step: int) -> str:
        """Generates the text of a step, adds its line, whole or not at all, and returns the text."""
        room = model.config.max_sequence_length - len(self.prompt)
        settings = {"temperature": 0.8, "top_k": 200, "seed": step}
        ids = model.generate(self.prompt, max_new_tokens=min(self.max_new_tokens, room), **settings)
        text = self.tokenizer.decode(ids.tolist())
        if not processes.is_first():
            return text
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] < step]
        kept.append(json.dumps({"step": step, "text": text}, ensure_ascii=False))
        try:
            write_atomically(self.path, "\n".join(kept) + "\n")
        except InputError as error:
            print(f"{error}; training goes on without the sample of step {step}", file=sys.stderr)
        return text


def sample_prompt(tokenizer: Any, asked: str, max_new_tokens: int, positions: int) -> list[int]:
    """Returns the token ids that samples begin with; recipes call it before training, so that errors come early.

    Args:
        tokenizer: the model's tokenizer.
        asked: the text; if empty, the token that the tokenizer puts before a text, else a line break for a
            tokenizer of characters that has one, otherwise the token between documents.
        max_new_tokens: new tokens per sample; 0 for no samples.
        positions: number of the model's positions.

    Raises:
        InputError: a character is unknown, or no new token fits after the prompt.
    """
    if not max_new_tokens:
        return []
    ids = encode_from_beginning(tokenizer, asked, "--sample_prompt") or _default_prompt(tokenizer)
    if len(ids) + 1 > positions:
        raise InputError(
            f"--sample_prompt takes {len(ids)} of {positions} positions, which leaves none for --sample_tokens "
            f"{max_new_tokens}: shorten it, or set --sample_tokens 0"
        )
    return ids


def _default_prompt(tokenizer: Any) -> list[int]:
    characters = character_ids(json.loads(tokenizer.to_str())) or {}
    return [characters["\n"] if "\n" in characters else end_of_text_id(tokenizer)]
