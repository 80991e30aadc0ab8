"""Chat templates in Hugging Face's form: Jinja templates that turn messages into a text."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Sequence
from typing import Any, NoReturn

from kerasllm.errors import InputError

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""A template of lines `User: …` and `Assistant: …`, plain words that any tokenizer can encode."""


def render(
    messages: Sequence[dict[str, str]],
    template: str,
    *,
    end: str,
    beginning: str | None = None,
    add_generation_prompt: bool = False,
    place: str = "",
) -> str:
    """Returns the text of a conversation.

    The template runs in Jinja's immutable sandbox: it can neither reach Python's internals nor change what it
    is given. As in `transformers` it may use `break` and `continue`, the tag `generation` (whose content is
    rendered like the rest), and `strftime_now` for the date.

    Args:
        messages: the messages, each with `role` and `content`.
        template: the chat template in Hugging Face's form.
        end: the mark that ends a turn, the template's `eos_token`.
        beginning: the template's `bos_token`; the default is `end`.
        add_generation_prompt: whether the beginning of an assistant's turn follows the messages.
        place: where messages and template come from, for error messages.

    Raises:
        InputError: the template is broken, or refuses the messages (`raise_exception`).
    """
    try:
        return _compiled(template).render(
            messages=list(messages),
            add_generation_prompt=add_generation_prompt,
            bos_token=beginning or end,
            eos_token=end,
        )
    except Exception as error:  # a template may raise any error, a division by zero for example
        before = f"{place}: " if place else ""
        words = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{before}the chat template cannot be used: {words}") from error


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_tag(), "jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment.from_string(template)


def _generation_tag() -> Any:
    """Returns a Jinja extension for `{% generation %}…{% endgeneration %}`, which renders the content."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(
                parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
            )

    Generation.tags = {"generation"}
    return Generation


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
