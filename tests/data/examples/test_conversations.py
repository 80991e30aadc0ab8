"""Conversations: what is learnt of them, and what is refused."""

import datetime
import json
import warnings

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from kerasllm.data.examples.conversations import encode_conversations
from kerasllm.data.sources.conversations import is_conversation_file, read_conversations
from kerasllm.errors import InputError, InputWarning
from kerasllm.tokenizers.added_tokens import mark_processor
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


def parts(*found):
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, *found]}, TALK[2]]}


def conversation(*roles):
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"messages": []}, "an empty conversation"),
        ({"messages": '[{"role": "user"}]'}, "they must be a list of objects"),
        (conversation("user", "function_call"), "write a call as 'tool_calls' of an assistant's message"),
        (conversation("user", "observation"), "give the result of a call the role 'tool'"),
        (parts({"type": "text", "text": None}), "message 1: content: a part's text is None, it must be text"),
        ({"prompt": "a", "completion": "b", "label": False}, "'label' false marks a bad completion"),
        (conversation("user"), "no assistant's turn"),
        (
            conversation("user", "bot"),
            "message 2: role 'bot' is not one of system, developer, user, assistant",
        ),
        (conversation("user", {"a": 1}), "message 2: role {'a': 1} is not one of"),
        ({"messages": [{"role": "user"}]}, "message 1: it must be an object with 'role' and 'content'"),
        ({"messages": [{"role": "user", "content": 5}]}, "message 1: content is 5, it must be text"),
        ({"messages": [{"role": "assistant", "content": None}]}, "message 1: it must be an object with"),
        (
            parts({"type": "image_url", "image_url": {}}),
            "message 1: content: a part is of type 'image_url'; only text",
        ),
        ({"messages": [*TALK[:2], TALK[2] | {"weight": 0}]}, "every assistant's turn has weight 0"),
        ({"messages": [*TALK[:2], TALK[2] | {"weight": 2}]}, "message 3: 'weight' is 2, it must be 0 or 1"),
        (
            {"messages": [TALK[2] | {"function_call": {}}]},
            "message 1: 'function_call' is the old form of a call; write",
        ),
        ({"messages": TALK[:3], "tools": "{"}, "'tools' is '{', which is not JSON"),
        ({"messages": TALK[:3], "tools": [5]}, "'tools' is [5], it must be a list of objects"),
        (
            {"messages": [TALK[1] | {"tool_calls": [{}]}]},
            "message 1: 'tool_calls' is [{}], it must be an assistant's",
        ),
        (
            {"messages": [*TALK[:2], {"role": "assistant", "content": "a<|endoftext|>b"}]},
            "contains <|endoftext|>",
        ),
        ({"prompt": "a", "completion": TALK[2:3]}, "must both be text, or both lists of messages"),
        ({"prompt": "a"}, "give 'messages', or 'prompt' and 'completion'"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "'chosen' and 'rejected' are preferences, which are not",
        ),
        (
            {"question": "a", "answer": "b"},
            "'question' and 'answer' look like a question and its answer; name them",
        ),
        ({"dialogue": ["a", "b"]}, "name it 'messages', a list of {'role', 'content'}"),
        ({"instruction": "a", "output": 5}, "'output' is 5, it must be text"),
        (
            {"instruction": "a", "output": "b", "history": ["c"]},
            "'history' is ['c'], it must be a list of pairs",
        ),
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
    assert is_conversation_file(str(write(path, {"chosen": TALK, "rejected": TALK})))


ASKED, ANSWERED = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}
CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "\u5317\u4eac"}}}
END = "<|endoftext|>"


@pytest.mark.parametrize(
    ("record", "learned"),
    [
        ({"prompt": [ASKED, ANSWERED, ASKED], "completion": [ANSWERED]}, [" Good day."]),
        (parts({"type": "text", "text": "y"}), [" Good day."]),
        (
            {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good."}]},
            [" Good."],
        ),
        ({"system": "Be kind.", "conversations": [ASKED, ANSWERED]}, [" Good day."]),
        ({"instruction": "Hello", "input": "", "output": "Good.", "text": "no"}, [" Good."]),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, [" d", " b"]),
        (
            {
                "messages": [
                    ASKED,
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "content": "noon"},
                    ANSWERED,
                ],
            },
            [' {"name": "clock", "arguments": {"zone": "\u5317\u4eac"}}', " Good day."],
        ),
        ({"messages": [ANSWERED, ASKED, ANSWERED]}, [" Good day.", " Good day."]),
        ({"messages": [ASKED, ASKED, ANSWERED, ANSWERED]}, [" Good day.", " Good day."]),
        ({"messages": [ASKED, ANSWERED | {"training": False}, ASKED, ANSWERED]}, [" Good day."]),
        ({"messages": [ASKED, ANSWERED, ASKED]}, [" Good day."]),
        (
            {"messages": [ASKED, ANSWERED, {"role": "system", "content": "Brief!"}, ASKED, ANSWERED]},
            [" Good day."] * 2,
        ),
        ({"messages": [{"role": "developer", "content": "Brief!"}, ASKED, ANSWERED]}, [" Good day."]),
        (
            {"messages": [ASKED, ANSWERED | {"weight": 0}, ASKED, {"role": "assistant", "content": "Now."}]},
            [" Now."],
        ),
        (
            {
                "messages": [
                    ASKED,
                    {"role": "assistant", "content": "Now."},
                    ASKED,
                    ANSWERED | {"train": False},
                ]
            },
            [" Now."],
        ),
    ],
)
def test_the_forms_of_others_are_taken(record, learned, tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", record)
    (talk,) = encoded(path, tokenizer, DEFAULT_CHAT_TEMPLATE)
    text = tokenizer.decode(talk.token_ids[talk.learnt].tolist(), skip_special_tokens=False)
    assert text == "".join(f"{turn}{END}" for turn in learned)
    assert is_conversation_file(str(path))
    (tmp_path / "a.json").write_text(json.dumps([record, record], indent=1))
    again = encoded(tmp_path / "a.json", tokenizer, DEFAULT_CHAT_TEMPLATE)
    assert is_conversation_file(str(tmp_path / "a.json")) and len(again) == 2
    np.testing.assert_array_equal(again[1].token_ids, talk.token_ids)


def test_an_empty_completion_is_learned_as_an_end(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", *[{"prompt": "Hello", "completion": ""}] * 2)
    with pytest.warns(InputWarning, match=r"a.jsonl:1: 'completion': an empty answer") as told:
        pair = encoded(path, tokenizer, DEFAULT_CHAT_TEMPLATE)[0]
    assert len(told) == 1 and told[0].filename == __file__
    assert pair.learnt.tolist() == [False] * (len(pair.learnt) - 1) + [True]


def test_what_a_template_leaves_out_is_told(tmp_path, tokenizer):
    template = (
        "{% for m in messages if m.role in ('user', 'assistant') %}{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    path = write(tmp_path / "a.jsonl", {"messages": [ASKED, called]})
    with pytest.raises(InputError, match=r"a.jsonl:1: message 2: the chat template writes no tool calls"):
        encoded(path, tokenizer, template)
    write(path, {"messages": [{"role": "developer", "content": "Brief!"}, ASKED, ANSWERED]})
    with pytest.raises(
        InputError, match=r"message 1: the chat template leaves out the role 'developer'; name the"
    ):
        encoded(path, tokenizer, template)
    write(path, {"messages": [ASKED, ANSWERED], "tools": [CALL]})
    with pytest.warns(InputWarning, match="does not show the 'tools'"):
        encoded(path, tokenizer, template)
    shown = "{{ tools[0].function.name }}|{{ thinking }}" + template
    write(
        path,
        {"messages": [ASKED, ANSWERED], "tools": json.dumps([CALL]), "chat_template_kwargs": {"thinking": 1}},
    )
    (talk,) = encoded(path, tokenizer, shown)
    assert tokenizer.decode(talk.token_ids.tolist()).startswith("clock|1Hello")
    write(path, {"messages": [ANSWERED]})
    with pytest.raises(
        InputError, match="the chat template cannot begin with an assistant's turn; begin with a user"
    ):
        encoded(path, tokenizer, "{{ messages[0].content.upper() }}")


def test_a_template_that_shortens_earlier_turns(tmp_path, tokenizer):
    """As Qwen's, which shows the thoughts of the last turn alone: the end token tells where a turn ends."""
    template = (
        "{% for m in messages %}{{ m.role }}:{% if loop.last and m.role == 'assistant' %}(hm){% endif %}"
        "{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    path = write(tmp_path / "a.jsonl", {"messages": [ASKED, ANSWERED, ASKED, ANSWERED]})
    (talk,) = encoded(path, tokenizer, template)
    text = tokenizer.decode(talk.token_ids[talk.learnt].tolist(), skip_special_tokens=False)
    assert text == f"Good day.{END}(hm)Good day.{END}"


def metaspace(scheme):
    """A tokenizer as SentencePiece's, which puts a space before a text, in one of two ways."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    if scheme == "normalizer":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(
        ["<|user|>\n<|assistant|>\nHello there Good day. And now? Now we part."] * 6, trainer
    )
    return tokenizer


@pytest.mark.parametrize("scheme", ["normalizer", "first", "always"])
def test_the_tokens_are_those_of_the_whole_text(scheme, tmp_path):
    template = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    tokenizer = metaspace(scheme)
    path = write(tmp_path / "a.jsonl", {"messages": TALK[1:]})
    (talk,) = encoded(path, tokenizer, template)
    text = render(TALK[1:], template, end="</s>")
    assert talk.token_ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    prompt = render(TALK[1:4], template, end="</s>", add_generation_prompt=True)
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    assert talk.token_ids[: len(ids)].tolist() == ids and talk.learnt[len(ids)]
    learned = [tokenizer.id_to_token(number) for number in talk.token_ids[talk.learnt]]
    assert "".join(learned) == "Good\u2581day.</s>Now\u2581we\u2581part.</s>"


def test_trimmed_offsets_leave_nothing_out(tmp_path):
    """Llama 3's post-processor trims white space from the offsets, so that a token of nothing else has no extent."""
    tokenizer = train_byte_level_bpe(["Good  day. \n\n  "] * 3, 280)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    template = (
        "{% for m in messages %}{{ m.role }}\n\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}assistant\n\n{% endif %}"
    )
    path = write(
        tmp_path / "a.jsonl", {"messages": [ASKED, {"role": "assistant", "content": "  Good \n\n day. \n\n"}]}
    )
    with pytest.warns(InputWarning, match="no end mark"):
        (talk,) = encoded(path, tokenizer, template)
    learned = tokenizer.decode(talk.token_ids[talk.learnt].tolist(), skip_special_tokens=False)
    assert learned == f"  Good \n\n day. \n\n{END}"


def test_a_completion_begins_as_a_text(tmp_path, tokenizer):
    beginning = tokenizer.token_to_id("<|endoftext|>")
    plain = encoded(write(tmp_path / "a.jsonl", {"prompt": "One, ", "completion": "two"}), tokenizer, "")[0]
    with_beginning = Tokenizer.from_str(tokenizer.to_str())
    with_beginning.post_processor = mark_processor((END, beginning), (END, beginning))
    begun = encoded(tmp_path / "a.jsonl", with_beginning, "")[0]
    assert begun.token_ids.tolist() == [beginning, *plain.token_ids.tolist()]
    assert begun.learnt.tolist() == [False, *plain.learnt.tolist()]
    assert plain.token_ids.tolist()[:-1] == tokenizer.encode("One, two").ids
