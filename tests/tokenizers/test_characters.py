"""Characters as tokens: dense ids, exact return of the text, unknown characters told by name and place."""

import json
from functools import partial

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from kerasllm.data.token_cache.tokenization import UnknownCharacter, VerbatimTokenizer, plain_tokenizer
from kerasllm.errors import InputError
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.characters import character_ids, train_characters
from kerasllm.tokenizers.encoding import encode, vocabulary_size
from kerasllm.tokenizers.known_characters import KnownCharacters
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.special_tokens import end_of_text_id
from kerasllm.tokenizers.wordpiece import train_wordpiece

TEXT = "To be, or not\tto be:\n\n  that\u00a0is \u00e9\u0301 \U0001f600\U0001f469\u200d\U0001f680 \x85\u2028 \x00 ]^-\\"


def test_ids_are_dense_and_by_code_point():
    tokenizer = train_characters(iter(["ba", "c\n", ""]))
    assert tokenizer.get_vocab() == {"\n": 0, "a": 1, "b": 2, "c": 3, "<|endoftext|>": 4}
    assert end_of_text_id(tokenizer) == 4 and vocabulary_size(tokenizer) == 5
    assert encode(tokenizer, "cab\n") == [3, 1, 2, 0]


def test_tinyshakespeare_has_65_characters(shared_data):
    text = (shared_data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    tokenizer = train_characters([text])
    assert vocabulary_size(tokenizer) == 66
    letters = sorted(set(text))
    assert encode(tokenizer, text[:500]) == [letters.index(letter) for letter in text[:500]]


@settings(deadline=None, max_examples=150)
@given(st.text(st.sampled_from(sorted(set(TEXT))), max_size=60) | st.text(min_size=1, max_size=40))
def test_any_text_comes_back_from_a_saved_tokenizer(text):
    tokenizer = train_characters([text, TEXT])
    loaded = type(tokenizer).from_str(tokenizer.to_str())
    ids = encode(loaded, text)
    assert len(ids) == len(text) and loaded.decode(ids, skip_special_tokens=False) == text
    assert ids == plain_tokenizer(tokenizer.to_str()).encode(text, add_special_tokens=False).ids
    if text:
        tokens, lengths, *_ = VerbatimTokenizer(tokenizer.to_str(), "uint16").tokenize([text, "", TEXT])
        assert tokens.tolist() == ids + encode(loaded, TEXT)
        assert lengths.tolist() == [len(text), 0, len(TEXT)]


def test_saved_and_loaded(tmp_path):
    tokenizer = train_characters([TEXT])
    save_tokenizer(tokenizer, tmp_path, max_length=8)
    loaded = load_tokenizer(tmp_path)
    assert loaded.to_str() == tokenizer.to_str()
    assert loaded.decode(loaded.encode(TEXT).ids) == TEXT


def test_unknown_characters_are_named_with_their_place():
    tokenizer = train_characters(["abc"])
    with pytest.raises(InputError, match=r"^prompts.txt:3: .* not know the character '\\n' \(U\+000A\)"):
        encode(tokenizer, "ab\nc", "prompts.txt:3")
    with pytest.raises(
        InputError, match=r"^the tokenizer does not know the character '\U0001f600' \(U\+1F600\)"
    ):
        encode(tokenizer, "\U0001f600")
    with pytest.raises(InputError, match="'<'"):
        encode(tokenizer, "a<|endoftext|>")
    assert encode(tokenizer, "a<|endoftext|>b", special_tokens=True) == [0, 3, 1]
    with pytest.raises(InputError, match=r"'\\x00'"):
        encode(tokenizer, "a<|endoftext|>\0", special_tokens=True)
    with pytest.raises(UnknownCharacter) as caught:
        VerbatimTokenizer(tokenizer.to_str(), "uint8").tokenize(["ab", "cad"])
    assert (caught.value.piece, caught.value.position) == (1, 2)


@settings(deadline=None, max_examples=200)
@given(
    st.text(st.sampled_from("ab]^\\-"), min_size=1),
    st.text(st.sampled_from("ab]^\\-c\0\n\u00e9"), max_size=20),
)
def test_the_first_unknown_is_the_first_unknown(known, text):
    characters = KnownCharacters(json.loads(train_characters([known]).to_str()))
    unknown = [position for position, letter in enumerate(text) if letter not in known]
    assert characters.first_unknown(text) == (unknown[0] if unknown else None)
    spread = "<|endoftext|>".join(text)
    found = characters.first_unknown(spread, skip_special=True)
    assert found == (unknown[0] * 14 if unknown else None)


def test_other_tokenizers_are_not_taken_for_characters():
    assert character_ids(json.loads(Tokenizer(models.WordLevel({"a": 0}, "a")).to_str())) is None
    table = character_ids(json.loads(train_characters(["ab"]).to_str()))
    assert table == {"a": 0, "b": 1}
    assert np.iinfo("uint8").max >= max(table.values())


def test_texts_without_characters_are_refused():
    with pytest.raises(InputError, match="no characters"):
        train_characters(["", ""])


@pytest.mark.parametrize(
    "train",
    [
        train_characters,
        *(partial(train, vocabulary_size=300) for train in (train_byte_level_bpe, train_wordpiece)),
    ],
)
def test_what_is_no_list_of_texts_is_refused(train):
    with pytest.raises(InputError, match="texts is 'a text', it must be a list of texts"):
        train("a text")
    with pytest.raises(InputError, match=r"texts\[1\] is None \(NoneType\)"):
        train(["a text", None])
    expected = train(["a text", "more"] * 3).get_vocab()
    assert train(pandas.DataFrame({"text": ["a text", "more"] * 3})).get_vocab() == expected
    with pytest.raises(InputError, match=r"texts\[0\] is \['a', 'b'\] \(list\), it must be a text"):
        train(pandas.DataFrame({"text": ["a"], "other": ["b"]}))


def test_a_tokenizer_is_saved_alone(tmp_path):
    save_tokenizer(train_characters(["abc"]), tmp_path)
    assert load_tokenizer(tmp_path).encode("cab").ids == [2, 0, 1]
