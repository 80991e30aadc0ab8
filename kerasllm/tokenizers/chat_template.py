"""Chat templates in Hugging Face's form: Jinja templates that turn messages into a text."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from kerasllm.errors import InputError

_REASONING = ("reasoning_content", "thinking", "reasoning")

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + (message['content'] or '') }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '\n' if message['content'] or not loop.first }}{{ (call['function'] or call) | tojson }}"
    "{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""A template of lines `User: …` and `Assistant: …`, plain words that any tokenizer can encode.

A call of a tool is a line of JSON. The definitions of tools are not shown.
"""


def render(
    messages: Sequence[Mapping[str, Any]],
    template: str,
    *,
    end: str | None = None,
    beginning: str | None = None,
    tokens: Mapping[str, str] | None = None,
    tools: Any = None,
    documents: Any = None,
    add_generation_prompt: bool = False,
    place: str = "",
    **variables: Any,
) -> str:
    """Returns the text of a conversation, which is that of `transformers`' `apply_chat_template`.

    The template runs in Jinja's immutable sandbox: it can neither reach Python's internals nor change what it
    is given. As in `transformers` it may use `break` and `continue`, the tag `generation` (whose content is
    rendered like the rest), `raise_exception`, `strftime_now` for the date, and `tojson`, which writes plain JSON.
    A field of a message that is None is left out.

    Args:
        messages: the messages, each with `role` and `content`, and whatever else the template reads.
        template: the chat template in Hugging Face's form.
        end: the mark that ends a turn, the template's `eos_token`, and also its `pad_token`, as it is saved.
        beginning: the template's `bos_token`; the default is `end`.
        tokens: the special tokens by name, as `template_tokens` returns them, instead of the two marks.
        tools: the definitions of the tools that the assistant may call, or None.
        documents: the documents that the assistant may quote, or None.
        add_generation_prompt: whether the beginning of an assistant's turn follows the messages.
        place: where messages and template come from, for error messages.
        variables: further variables of the template, such as `enable_thinking`.

    Raises:
        InputError: the template is broken, or refuses the messages (`raise_exception`).
    """
    if tokens is None:
        tokens = {} if end is None else {"bos_token": beginning or end, "eos_token": end, "pad_token": end}
    try:
        return _compiled(template).render(
            messages=list(map(_message, messages)),
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            **(dict(tokens) | variables),
        )
    except Exception as error:  # a template may raise any error, a division by zero for example
        before = f"{place}: " if place else ""
        words = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{before}the chat template cannot be used: {words}") from error


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a message as templates get it: without fields that are None, its reasoning under both usual names."""
    found = {name: value for name, value in message.items() if value is not None}
    reasoning = next((found[name] for name in _REASONING if name in found), None)
    return found if reasoning is None else {"thinking": reasoning, **found, "reasoning_content": reasoning}


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_tag(), "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Returns plain JSON; Jinja's own filter escapes letters and what HTML would read as tags."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


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
