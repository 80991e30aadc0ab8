"""Printing of a continuation on the terminal while it is generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kerasllm.generation.texts import cut_at, prompt_and_addition, settled
from kerasllm.tokenizers.encoding import encode_from_beginning


class TerminalWriter:
    """A printer of a continuation, which holds back text that may still change or become a stop text.

    Args:
        tokenizer: the model's tokenizer.
        prompt: the ids of the prompt.
        stop: texts at which the continuation is cut off.
        before: a text that is printed before the first token, but not if the prompt is refused.
    """

    def __init__(
        self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str] = (), *, before: str = ""
    ) -> None:
        self.tokenizer, self.prompt, self.stop, self.before = tokenizer, prompt, stop, before
        self.tokens: list[int] = []
        self.shown = 0

    def __call__(self, row: int, tokens: list[int]) -> None:
        """Adds new tokens, and prints the text that can no longer change."""
        self.tokens += tokens
        text, is_cut = self._text()
        self._show(text if is_cut else settled(text, self.stop))

    def end(self) -> str:
        """Prints the rest and a line break, and returns the continuation."""
        text, _ = self._text()
        self._show(text)
        print(flush=True)
        return text

    def _text(self) -> tuple[str, bool]:
        """Returns the continuation so far, and whether a stop text has cut it off."""
        _, added = prompt_and_addition(self.tokenizer, self.prompt, self.tokens)
        cut = cut_at(added, self.stop)
        return (added, False) if cut is None else (cut, True)

    def _show(self, text: str) -> None:
        if len(text) > self.shown or self.before:
            print(self.before + text[self.shown :], end="", flush=True)
            self.before, self.shown = "", max(self.shown, len(text))


def continue_visibly(model: Any, tokenizer: Any, prompt: str, settings: Mapping[str, Any]) -> str:
    """Continues a text, prints it while it is generated, and returns the continuation.

    Args:
        model: a model with `generate`.
        tokenizer: the model's tokenizer.
        prompt: the text, which is printed before its continuation.
        settings: the settings of `generate`, including `stop`.
    """
    ids = encode_from_beginning(tokenizer, prompt)
    writer = TerminalWriter(tokenizer, ids, settings["stop"], before=prompt)
    model.generate(prompt, tokenizer=tokenizer, on_tokens=writer, **settings)
    return writer.end()
