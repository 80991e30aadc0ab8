"""Tokenizers of any kind: where they are found, what is written beside them, and what they are asked."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from kerasllm.errors import InputError, InputWarning
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.characters import train_characters
from kerasllm.tokenizers.encoding import encode, vocabulary_size
from kerasllm.tokenizers.loading import load_tokenizer, load_wordpiece, read_chat_template
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.special_tokens import end_of_text_id
from kerasllm.tokenizers.wordpiece import train_wordpiece

TEXTS = ["the quick brown fox jumps over the lazy dog"] * 3
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
KINDS = {
    "wordpiece": lambda: train_wordpiece(TEXTS, 100),
    "bpe": lambda: train_byte_level_bpe(TEXTS, 280),
    "characters": lambda: train_characters(TEXTS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_from_each_place(kind, tmp_path):
    tokenizer = KINDS[kind]()
    save_tokenizer(tokenizer, tmp_path / "run" / "model", max_length=64)
    for path in ("run", "run/model", "run/model/tokenizer.json"):
        assert load_tokenizer(tmp_path / path).to_str() == tokenizer.to_str()
    assert sorted(file.name for file in (tmp_path / "run" / "model").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    settings = json.loads((tmp_path / "run" / "model" / "tokenizer_config.json").read_text())
    mark = "<|endoftext|>"
    roles = {name: settings.get(f"{name}_token") for name in ("pad", "bos", "eos", "mask")}
    assert settings["model_max_length"] == 64
    if kind == "wordpiece":
        assert roles == {"pad": "[PAD]", "bos": None, "eos": None, "mask": "[MASK]"}
        assert load_wordpiece(tmp_path / "run").to_str() == tokenizer.to_str()
    else:
        assert roles == {"pad": mark, "bos": mark, "eos": mark, "mask": None}
        with pytest.raises(InputError, match=r"model/tokenizer.json: the vocabulary lacks \[PAD\]"):
            load_wordpiece(tmp_path / "run")


def test_chat_templates(tmp_path):
    tokenizer = KINDS["bpe"]()
    save_tokenizer(tokenizer, tmp_path / "plain", max_length=8)
    assert read_chat_template(tmp_path / "plain") is None
    save_tokenizer(tokenizer, tmp_path / "chat", max_length=8, chat_template=TEMPLATE)
    assert read_chat_template(tmp_path / "chat") == TEMPLATE
    assert read_chat_template(tmp_path / "chat" / "tokenizer.json") == TEMPLATE
    config = tmp_path / "chat" / "tokenizer_config.json"
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    config.write_text(json.dumps({"chat_template": several}))
    assert read_chat_template(tmp_path / "chat") == "yes"
    config.write_text(json.dumps({"chat_template": 5}))
    with pytest.raises(InputError, match=r"tokenizer_config.json: chat_template is int, not text"):
        read_chat_template(tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text("its own file")
    assert read_chat_template(tmp_path / "chat") == "its own file"
    (tmp_path / "chat" / "chat_template.jinja").write_bytes(b"a\xff")
    with pytest.raises(InputError, match=r"chat_template.jinja: not UTF-8 at byte 1"):
        read_chat_template(tmp_path / "chat")


def test_a_loaded_tokenizer_keeps_its_template(tmp_path):
    """And the others that lie beside it under a name, in either form."""
    save_tokenizer(KINDS["bpe"](), tmp_path, max_length=8, chat_template=TEMPLATE)
    save_tokenizer(load_tokenizer(tmp_path), tmp_path / "again", max_length=8)
    assert read_chat_template(tmp_path / "again") == TEMPLATE
    save_tokenizer(load_tokenizer(tmp_path), tmp_path / "other", max_length=8, chat_template="x")
    assert read_chat_template(tmp_path / "other") == "x"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    assert read_chat_template(tmp_path) == TEMPLATE
    save_tokenizer(load_tokenizer(tmp_path), tmp_path / "both", max_length=8)
    settings = json.loads((tmp_path / "both" / "tokenizer_config.json").read_text())
    both = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "with tools"}]
    assert settings["chat_template"] == both and read_chat_template(tmp_path / "both") == TEMPLATE
    save_tokenizer(load_tokenizer(tmp_path / "both"), tmp_path / "both", max_length=8)
    assert json.loads((tmp_path / "both" / "tokenizer_config.json").read_text()) == settings
    settings["chat_template"] = both[1:]
    (tmp_path / "both" / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="has the chat templates tool_use, and none of the name 'default'"):
        read_chat_template(tmp_path / "both")


def test_a_tokenizer_saved_again_loses_its_old_template(tmp_path):
    tokenizer = KINDS["characters"]()
    save_tokenizer(tokenizer, tmp_path, max_length=8, chat_template=TEMPLATE)
    save_tokenizer(tokenizer, tmp_path, max_length=8)
    assert read_chat_template(tmp_path) is None


@pytest.mark.parametrize(
    ("vocabulary", "end"),
    [
        ({"a": 0, "<|endoftext|>": 7, "</s>": 2}, 7),
        ({"<|begin_of_text|>": 0, "<|end_of_text|>": 1}, 1),
        ({"<s>": 1, "</s>": 2}, 2),
    ],
)
def test_marks_of_other_families(vocabulary, end, tmp_path):
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "a"))
    assert end_of_text_id(tokenizer) == end
    assert vocabulary_size(tokenizer) == max(vocabulary.values()) + 1  # ids may have gaps
    save_tokenizer(tokenizer, tmp_path, max_length=8)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert vocabulary[settings["eos_token"]] == end
    assert vocabulary[settings["bos_token"]] == (end if "a" in vocabulary else min(vocabulary.values()))


def test_a_vocabulary_without_a_mark_is_refused():
    with pytest.raises(InputError, match=r"no mark for the end of a text \(<\|endoftext\|>"):
        end_of_text_id(train_wordpiece(TEXTS, 100))
    assert vocabulary_size(Tokenizer(models.BPE())) == 0


def test_encoding_sees_tokens_that_were_added_since():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert encode(tokenizer, "a b c") == [0, 1, 2]
    tokenizer.add_tokens(["c"])
    assert encode(tokenizer, "a b c") == [0, 1, 3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{broken", "tokenizer.json: not a tokenizer"),
        ("tokenizer.json", "[]", "tokenizer.json: not a tokenizer"),
        ("vocab.txt", "[PAD]\n[UNK]\nthe\nthe\n", "vocab.txt:4: piece 'the' occurs twice"),
        ("other.bin", "x", "holds neither tokenizer.json nor vocab.txt"),
    ],
)
def test_faults_of_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("prefix", "merges"), [("a", [["The", "é"]]), ("é", ["T éh"]), ("##", ["T h"])])
def test_merges_without_their_prefix_are_refused(tmp_path, prefix, merges):
    """The library ends the process where it cuts the prefix out of the middle of a letter."""
    content = json.loads(KINDS["bpe"]().to_str())
    content["model"] |= {"continuing_subword_prefix": prefix, "merges": merges}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"tokenizer\.json: the merge .* must begin with it"):
        load_tokenizer(tmp_path)


def test_a_panic_of_the_library_is_a_refusal(tmp_path, monkeypatch):
    """What isn't even an `Exception`."""

    class PanicException(BaseException):
        pass

    class Panicking:
        @staticmethod
        def from_str(text):
            raise PanicException("index out of bounds")

    KINDS["bpe"]().save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr("kerasllm.tokenizers.loading.Tokenizer", Panicking)
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer.*out of bounds"):
        load_tokenizer(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing.json: no such tokenizer; give a tokenizer.json"):
        load_tokenizer(tmp_path / "nothing.json")


def test_a_full_disk_leaves_the_old_tokenizer(tmp_path, monkeypatch):
    import os

    tokenizer = KINDS["characters"]()
    save_tokenizer(tokenizer, tmp_path, max_length=8)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        save_tokenizer(train_characters(["other"]), tmp_path, max_length=9)
    assert load_tokenizer(tmp_path).to_str() == tokenizer.to_str()
    assert len(list(tmp_path.iterdir())) == 2


def test_special_tokens_are_those_of_the_settings(tmp_path):
    """Not those of a list, which a chat model's vocabulary may have too; they are written again."""
    vocabulary = {"<pad>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "<|endoftext|>": 3, "<unk>": 4}
    Tokenizer(models.WordLevel(vocabulary, "<unk>")).save(str(tmp_path / "tokenizer.json"))
    roles = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    settings = roles | {"pad_token": {"content": "<pad>"}, "mask_token": "not there", "padding_side": "left"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.warns(
        InputWarning, match="mask_token is 'not there', which is not in the vocabulary"
    ) as told:
        tokenizer = load_tokenizer(tmp_path)
    assert len(told) == 1
    assert end_of_text_id(tokenizer) == 2
    save_tokenizer(tokenizer, tmp_path / "again", max_length=8)
    written = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert {name: value for name, value in written.items() if name.endswith("_token")} == roles
    assert written["padding_side"] == "left"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenize_chinese_chars": []}, r"tokenize_chinese_chars is \[\], it must be true or false"),
        ({"do_lower_case": "no"}, "do_lower_case is 'no'"),
    ],
)
def test_settings_of_a_wordpiece_that_are_none(settings, message, tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=message):
        load_tokenizer(tmp_path)


def test_half_a_surrogate_pair_is_told_with_a_mend():
    with pytest.raises(InputError, match=r"a.txt:1: holds half of a surrogate pair \(U\+D800\).*take it out"):
        encode(train_characters(["ab"]), "a\ud800", "a.txt:1")
