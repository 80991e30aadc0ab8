"""Conversations: what is learnt of them, and what is refused."""

import datetime
import json
import warnings

import numpy as np
import pytest

from kerasllm.data.examples.conversations import encode_conversations
from kerasllm.data.sources.conversations import is_conversation_file, read_conversations
from kerasllm.errors import InputError, InputWarning
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.chat_template import DEFAULT_CHAT_TEMPLATE, render

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello there"},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Now we part."},
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(["Hello there, good day. User: Assistant: now we part."] * 3, 300)


def write(path, *records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def encoded(path, tokenizer, template, **settings):
    return encode_conversations(read_conversations(path), tokenizer, template, **settings)


def test_the_plain_template():
    text = render(TALK[:3], DEFAULT_CHAT_TEMPLATE, end="<|endoftext|>", add_generation_prompt=True)
    assert text == ("System: Be kind.\nUser: Hello there\nAssistant: Good day.<|endoftext|>\nAssistant:")


def test_only_what_the_assistant_says_is_learnt(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", {"messages": TALK}, {"prompt": "One, two", "completion": ", three"})
    talk, pair = encoded(path, tokenizer, DEFAULT_CHAT_TEMPLATE)
    learnt = tokenizer.decode(talk.token_ids[talk.learnt].tolist(), skip_special_tokens=False)
    assert learnt == " Good day.<|endoftext|> Now we part.<|endoftext|>"
    whole = tokenizer.decode(talk.token_ids.tolist(), skip_special_tokens=False)
    assert whole == render(TALK, DEFAULT_CHAT_TEMPLATE, end="<|endoftext|>")
    # Up to an answer the tokens are those of the prompt that generation starts from.
    start = int(np.argmax(talk.learnt))
    prompt = render(TALK[:2], DEFAULT_CHAT_TEMPLATE, end="<|endoftext|>", add_generation_prompt=True)
    assert talk.token_ids[:start].tolist() == tokenizer.encode(prompt, add_special_tokens=False).ids
    assert tokenizer.decode(pair.token_ids[~pair.learnt].tolist()) == "One, two"
    assert pair.learnt[-1] and pair.token_ids[-1] == tokenizer.token_to_id("<|endoftext|>")


def test_a_template_without_an_end_mark(tmp_path, tokenizer):
    """The end is learnt all the same, after the last turn, and said once; not where the model ends turns otherwise."""
    path = write(
        tmp_path / "a.jsonl", {"messages": TALK}, {"messages": TALK}, {"prompt": "a", "completion": "b"}
    )
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    with pytest.warns(InputWarning, match="no end mark") as said:
        talk = encoded(path, tokenizer, template, template_name="mine.jinja")[0]
    assert len(said) == 1 and said[0].filename == __file__
    assert str(said[0].message).startswith("mine.jinja: ") and "{{ eos_token }}" in str(said[0].message)
    learnt = tokenizer.decode(talk.token_ids[talk.learnt].tolist(), skip_special_tokens=False)
    assert learnt.endswith("Now we part.\n<|endoftext|>") and learnt.count("<|endoftext|>") == 1
    end = tokenizer.encode(".").ids[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        talk = encoded(path, tokenizer, template, end_token_id=end)[0]
    assert talk.token_ids[talk.learnt][-1] == end


def test_templates_as_transformers_takes_them():
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% if loop.index > 4 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}{{ strftime_now('%Y') }}"
    )
    year = datetime.datetime.now().year
    assert render(TALK, template, end="") == f"Hello there|Good day.|And now?|{year}"


def conversation(*roles):
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"messages": []}, "an empty conversation"),
        (conversation("user"), "no assistant's turn"),
        (conversation("assistant"), "message 1: role 'assistant' is out of order, 'user' is due"),
        (conversation("user", "user"), "message 2: role 'user' is out of order"),
        (conversation("user", "system"), "message 2: role 'system' is out of order"),
        (conversation("user", "bot"), "role 'bot' is not one of system, user, assistant"),
        ({"messages": [{"role": "user"}]}, "message 1: it must be an object with 'role' and 'content'"),
        ({"messages": [{"role": "user", "content": " "}]}, "message 1: content is ' '"),
        (
            {"messages": [*TALK[:2], {"role": "assistant", "content": "a<|endoftext|>b"}]},
            "contains <|endoftext|>",
        ),
        ({"prompt": "a", "completion": ""}, "'completion' is ''"),
        ({"prompt": "a"}, "give 'messages', or 'prompt' and 'completion'"),
        (["a"], "list where a JSON object belongs"),
    ],
)
def test_what_is_refused_is_named_with_its_line(record, fault, tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", {"messages": TALK}, record)
    with pytest.raises(InputError) as refused:
        encoded(path, tokenizer, DEFAULT_CHAT_TEMPLATE)
    assert str(refused.value).startswith(f"{path}:2: ") and fault in str(refused.value)
    assert "\n" not in str(refused.value)


def test_broken_files_and_templates(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps({"messages": TALK}).encode() + b"\n{\n")
    with pytest.raises(InputError, match=r"a.jsonl:2: not JSON"):
        encoded(path, tokenizer, DEFAULT_CHAT_TEMPLATE)
    path.write_bytes(b"\xff\n")
    with pytest.raises(InputError, match=r"a.jsonl:1: not UTF-8"):
        encoded(path, tokenizer, DEFAULT_CHAT_TEMPLATE)
    path.write_bytes(b"\n")
    with pytest.raises(InputError, match="holds no conversation"):
        encoded(path, tokenizer, DEFAULT_CHAT_TEMPLATE)
    write(path, {"messages": TALK})
    programs = (
        "{{ 1 / 0 }}",
        "{{ range(10 ** 9) | list }}",
        "{{ [1] | sum(start='a') }}",
        "{{ '(' * 5 % 2 }}",
    )
    for template in ("{% for %}", "{{ raise_exception('no') }}", "{{ ''.__class__.__mro__ }}", *programs):
        with pytest.raises(InputError, match="chat template"):
            encoded(path, tokenizer, template)
    with pytest.raises(InputError, match=r"a.jsonl:1: mine.jinja: the chat template cannot be used: no$"):
        encoded(path, tokenizer, "{{ raise_exception('no') }}", template_name="mine.jinja")
    with pytest.raises(InputError, match="changes what was said before"):
        encoded(path, tokenizer, "{{ messages | length }}")
    assert is_conversation_file(str(path))
    assert not is_conversation_file(str(write(path, {"text": "a"})))
