"""Byte-level BPE: GPT-2's own ids, a trained vocabulary, files and every message about them."""

import json
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kerasllm.data
from kerasllm.errors import InputError
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.encoding import encode, vocabulary_size
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.special_tokens import end_of_text_id

TEXTS = ["the cat sat on the mat, the cat's hat\n\n\tin  the  rain; 3.5 gr\u00fc\u00dfe \U0001f600 "] * 4


@cache
def trained():
    return train_byte_level_bpe(TEXTS, 300)


@pytest.fixture
def tokenizer():
    return trained()


def test_gpt2s_own_files(shared_data):
    tokenizer = load_tokenizer(shared_data / "gpt2_vocab")
    ids = [15496, 995, 11, 428, 318, 402, 11571, 12, 17, 13]
    assert tokenizer.encode("Hello world, this is GPT-2.").ids == ids
    assert encode(tokenizer, "Hello world, this is GPT-2.") == ids
    assert vocabulary_size(tokenizer) == 50257 and end_of_text_id(tokenizer) == 50256
    assert tokenizer.decode(ids) == "Hello world, this is GPT-2."
    for name in ("gpt2_vocab.json", "gpt2_merges.txt"):
        assert load_tokenizer(shared_data / "gpt2_vocab" / name).encode("Hello world").ids == ids[:2]


def test_the_bytes_have_gpt2s_ids_and_the_mark_the_last(tokenizer, shared_data):
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert end_of_text_id(tokenizer) == len(vocabulary) - 1
    theirs = json.loads((shared_data / "gpt2_vocab" / "gpt2_vocab.json").read_text(encoding="utf-8"))
    assert {token for token, number in vocabulary.items() if number < 256} == {
        token for token, number in theirs.items() if number < 256
    }
    assert all(vocabulary[token] == number for token, number in theirs.items() if number < 256)


def test_merges_are_the_most_frequent_pairs():
    """ "ug" occurs seven times; then "h" and "ug" four times, " " and "hug" three times, all others less."""
    tokenizer = train_byte_level_bpe(["hug hug hug hug", " pug\npug bun\tug"], 260)
    assert [tokenizer.id_to_token(number) for number in range(256, 260)] == [
        "ug",
        "hug",
        "\u0120hug",
        "<|endoftext|>",
    ]


ANY = st.text(max_size=40) | st.text(
    st.sampled_from("ab \n\t'st\u00e9\u6f22\U0001f600<|endoftext|>"), max_size=40
)


@settings(deadline=None, max_examples=150)
@given(ANY)
def test_any_text_comes_back(text):
    tokenizer = trained()
    assert tokenizer.decode(encode(tokenizer, text), skip_special_tokens=False) == text


def test_the_mark_in_a_text_is_text_unless_asked_for(tokenizer):
    mark = end_of_text_id(tokenizer)
    assert mark not in encode(tokenizer, "a<|endoftext|>b")
    assert encode(tokenizer, "a<|endoftext|>b", special_tokens=True).count(mark) == 1
    assert tokenizer.encode("a<|endoftext|>b").ids.count(mark) == 1  # encode leaves the tokenizer as it was


@pytest.mark.parametrize("size", [257, 258, 270, 1000])
def test_vocabulary_is_never_larger_than_asked(size):
    tokenizer = train_byte_level_bpe(TEXTS, size)
    assert vocabulary_size(tokenizer) <= size
    assert size == 1000 or vocabulary_size(tokenizer) == size


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(InputError, match=r"vocabulary_size 256 is too small.* 257 tokens"):
        train_byte_level_bpe(TEXTS, 256)
    with pytest.raises(InputError, match="no characters"):
        train_byte_level_bpe(iter(["", ""]), 300)


def test_long_texts_in_one_or_many_parts_give_one_vocabulary():
    words = " ".join(f"word{number % 97} and\nmore" for number in range(20_000))
    lines = words.replace("\n", " \n").split(" \n")
    parts = [lines[0], *("\n" + line for line in lines[1:])]
    assert "".join(parts) == words
    assert train_byte_level_bpe([words], 350).to_str() == train_byte_level_bpe(parts, 350).to_str()


def test_training_is_the_same_in_every_process():
    code = textwrap.dedent("""
        import sys, types, hashlib, random
        package = types.ModuleType("kerasllm"); package.__path__ = [sys.argv[1]]
        sys.modules["kerasllm"] = package
        from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
        draw = random.Random(5)
        words = ["".join(draw.choices("abcdefghij\\u00e9", k=draw.randint(1, 8))) for _ in range(5000)]
        texts = [" ".join(words[start : start + 50]) for start in range(0, 5000, 50)]
        print(hashlib.sha256(train_byte_level_bpe(texts, 900).to_str().encode()).hexdigest())
    """)
    package = str(Path(kerasllm.data.__file__).parents[1])
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, package], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }
    assert len(digests) == 1


def write_pair(directory, vocabulary, merges):
    (directory / "vocab.json").write_text(
        vocabulary if isinstance(vocabulary, str) else json.dumps(vocabulary), encoding="utf-8"
    )
    (directory / "merges.txt").write_bytes(merges.encode() if isinstance(merges, str) else merges)


SMALL = {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}


def test_a_small_pair_of_files(tmp_path):
    write_pair(tmp_path, SMALL, "#version: 0.2\r\na b\r\n")
    for path in (tmp_path, tmp_path / "vocab.json", tmp_path / "merges.txt"):
        tokenizer = load_tokenizer(path)
        assert tokenizer.encode("abba<|endoftext|>").ids == [2, 1, 0, 3]
    with pytest.raises(
        InputError, match=r"p.txt:3: the tokenizer does not know the character 'c' \(U\+0063\)"
    ):
        encode(tokenizer, "abc", "p.txt:3")  # which the library would leave out without a word
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true, "eos_token": "ab"}')
    write_pair(tmp_path, SMALL | {"\u0120": 4}, "a b\n")
    assert load_tokenizer(tmp_path).encode("ba").ids == [4, 1, 0]
    save_tokenizer(load_tokenizer(tmp_path), tmp_path / "saved", max_length=5)
    assert load_tokenizer(tmp_path / "saved").to_str() == load_tokenizer(tmp_path).to_str()


@pytest.mark.parametrize(
    ("vocabulary", "merges", "message"),
    [
        (SMALL, "a b\na\n", r"merges.txt:2: 'a' is not a merge; each line is two tokens and one space"),
        (SMALL, "#version: 0.2\na  b\n", r"merges.txt:2: 'a  b' is not a merge"),
        (SMALL, "a b\nb c\n", r"merges.txt:2: the merge 'b c' needs the token 'c', which vocab.json lacks"),
        (SMALL, "b a\n", r"merges.txt:1: the merge 'b a' needs the token 'ba', which vocab.json lacks"),
        (SMALL, b"a b\n\xff", r"merges.txt: not UTF-8 at byte 4"),
        ("{", "a b\n", r"vocab.json: not JSON"),
        ("[]", "a b\n", r"vocab.json: holds no JSON object"),
        ({"a": "0"}, "", r"vocab.json: token 'a' has the id '0', which is not a whole number"),
        ({"a": -1}, "", r"vocab.json: token 'a' has the id -1"),
        ({"a": 1, "b": 1}, "", r"vocab.json: tokens 'a' and 'b' have the same id 1"),
    ],
)
def test_faults_of_files_are_named(tmp_path, vocabulary, merges, message):
    write_pair(tmp_path, vocabulary, merges)
    with pytest.raises(InputError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_one_file_of_the_two_is_not_enough(tmp_path):
    write_pair(tmp_path, SMALL, "a b\n")
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(InputError, match=r"vocab.json: merges.txt is not beside it"):
        load_tokenizer(tmp_path / "vocab.json")
    with pytest.raises(
        InputError, match=r"neither tokenizer.json nor vocab.txt nor vocab.json and merges.txt"
    ):
        load_tokenizer(tmp_path)
