"""Chat templates: what they are given, by hand; tests/parity compares with transformers."""

import pytest
from tokenizers import Tokenizer, models

from kerasllm.errors import InputError
from kerasllm.tokenizers.chat_template import DEFAULT_CHAT_TEMPLATE, render
from kerasllm.tokenizers.special_tokens import remember_roles, template_tokens

ODD = "It's <b>3 > 2</b> & \uc548\ub155 \u00e9"


def test_json_is_plain():
    message = {"role": "user", "content": ODD}
    assert render([message], "{{ messages[0].content | tojson }}") == f'"{ODD}"'
    assert render([message], "{{ messages[0].content | tojson(ensure_ascii=true) }}").startswith(
        "\"It's <b>3 > 2</b> & \\uc548"
    )
    template = "{{ {'b': 1, 'a': [1]} | tojson(indent=2, separators=(',', ': '), sort_keys=true) }}"
    assert render([message], template) == '{\n  "a": [\n    1\n  ],\n  "b": 1\n}'


def test_variables_that_are_always_there():
    template = (
        "{{ [tools is none, documents is none, x is defined] }} {{ eos_token }}{{ pad_token }}{{ bos_token }}"
    )
    assert render([], template, end="</s>", beginning="<s>") == "[True, True, False] </s></s><s>"
    assert (
        render(
            [],
            "{{ tools[0].name }}{{ documents[0].text }}{{ x }}",
            tools=[{"name": "a"}],
            documents=[{"text": "b"}],
            x=1,
        )
        == "ab1"
    )


def test_fields_that_are_none_are_left_out():
    message = {"role": "assistant", "content": None, "reasoning": "why"}
    assert (
        render([message], "{{ messages[0].keys() | sort | join(' ') }}")
        == "reasoning reasoning_content role thinking"
    )


def test_the_plain_template_writes_calls():
    call = {"function": {"name": "f", "arguments": {"\u00e9": "<"}}}
    messages = [
        {"role": "assistant", "content": "Wait", "tool_calls": [call, call]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "tool_calls": [call]},
    ]
    line = '{"name": "f", "arguments": {"\u00e9": "<"}}'
    expected = f"Assistant: Wait\n{line}\n{line}</s>\nTool: 3\nAssistant: {line}</s>\n"
    assert render(messages, DEFAULT_CHAT_TEMPLATE, end="</s>") == expected


def test_special_tokens_by_name():
    vocabulary = {"</s>": 0, "<s>": 1, "<img>": 2, "<audio>": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<s>"))
    assert template_tokens(tokenizer) == {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    settings = {
        "eos_token": {"content": "</s>"},
        "bos_token": None,
        "image_token": "<img>",
        "add_bos_token": True,
    }
    remember_roles(
        tokenizer, settings | {"extra_special_tokens": {"audio_token": "<audio>", "no_token": "<no>"}}
    )
    found = template_tokens(tokenizer)
    assert found == {"eos_token": "</s>", "image_token": "<img>", "audio_token": "<audio>"}
    template = "{{ image_token }}{{ audio_token }}{% if bos_token is defined %}begin{% endif %}"
    assert render([], template, tokens=found) == "<img><audio>"


def test_a_clash_of_names_is_refused():
    with pytest.raises(InputError, match="the chat template cannot be used"):
        render([], "", tokens={"messages": "x"})
