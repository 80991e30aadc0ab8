"""A continuation on the terminal, while it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kerasllm.generation.texts import cut_at, prompt_and_addition, settled
from kerasllm.tokenizers.encoding import encode


class TerminalWriter:
    """Prints a continuation as it comes; what may yet change, or turn out to be a stop text, waits.

    Args:
        tokenizer: of the model.
        prompt: the ids that are continued.
        stop: texts at which the continuation is cut off.
        before: printed with the first token, so that a prompt that is refused is not.
    """

    def __init__(
        self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str] = (), *, before: str = ""
    ) -> None:
        self.tokenizer, self.prompt, self.stop, self.before = tokenizer, prompt, stop, before
        self.tokens: list[int] = []
        self.shown = 0

    def __call__(self, row: int, tokens: list[int]) -> None:
        """Takes new tokens."""
        self.tokens += tokens
        text, is_cut = self._text()
        self._show(text if is_cut else settled(text, self.stop))

    def end(self) -> str:
        """Prints what still waits, and a line break; returns the continuation."""
        text, _ = self._text()
        self._show(text)
        print(flush=True)
        return text

    def _text(self) -> tuple[str, bool]:
        """The continuation so far, and whether a stop text has cut it off."""
        _, added = prompt_and_addition(self.tokenizer, self.prompt, self.tokens)
        cut = cut_at(added, self.stop)
        return (added, False) if cut is None else (cut, True)

    def _show(self, text: str) -> None:
        if len(text) > self.shown or self.before:
            print(self.before + text[self.shown :], end="", flush=True)
            self.before, self.shown = "", max(self.shown, len(text))


def continue_visibly(model: Any, tokenizer: Any, prompt: str, settings: Mapping[str, Any]) -> str:
    """Continues a text on standard output, as its tokens come; returns what was added.

    Args:
        model: has `generate`.
        tokenizer: of the model.
        prompt: the text, which is shown before its continuation.
        settings: of `generate`, `stop` among them.
    """
    ids = encode(tokenizer, prompt, special_tokens=True)
    writer = TerminalWriter(tokenizer, ids, settings["stop"], before=prompt)
    model.generate(prompt, tokenizer=tokenizer, on_tokens=writer, **settings)
    return writer.end()
