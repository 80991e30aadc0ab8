"""Words of GPT-2's expression, looked up, against the library's own splitting and its own ids."""

import json
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from kerasllm.data.token_cache.known_words import KnownWords, word_splitter
from kerasllm.data.token_cache.tokenization import plain_tokenizer
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.wordpiece import train_wordpiece

TEXT = (
    "It's the naïve cat's 3rd mat,   and we've\n\n  12 of them...\tI'll say  so: 漢字 ¿no? <|endoftext|>\r\n'd"
    * 3
)
# Letters, digits, marks and white space, in ASCII and beyond; what Python and GPT-2 do not both call white space.
ODD = st.text(
    st.sampled_from(
        "abstdmrevl'  \n\t\r\x0b\x1c\x1f\x85\xa0\u2003\u2028\u3000\u180e\u200b09²Ⅻ٣.!¿-_~éß漢\u0301😀\x00"
    ),
    max_size=30,
)


@pytest.fixture(scope="module")
def tokenizer():
    """Merges of spaces and of marks, so that a word cut elsewhere has other tokens."""
    return plain_tokenizer(train_byte_level_bpe([TEXT, " " * 50, "\n" * 50, "!!..''" * 20], 340).to_str())


def assert_same(tokenizer, texts):
    known = KnownWords(tokenizer, "uint16")
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    for _ in range(2):  # words that are new, then words that are known
        tokens, lengths = known.encode(texts)
        assert lengths.tolist() == list(map(len, expected))
        assert tokens.tolist() == [number for ids in expected for number in ids]


@settings(deadline=None, max_examples=200)
@given(st.lists(ODD | st.text(max_size=20), min_size=1, max_size=4))
@example(
    ["", "a  b", " \n é", "a\x1cb \x1c'", "x \xa0 y", "abcé 'sé", "é'", " '", "  '", "\u3000\u3000a", "a \n"]
)
def test_words_are_whole_words_of_the_library(tokenizer, texts):
    split = word_splitter(json.loads(tokenizer.to_str()))
    for text, words in zip(texts, split(texts), strict=True):
        assert "".join(words) == text and "" not in words
        ends = {end for _, (_, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)}
        place = 0
        for word in words:
            place += len(word)
            assert place in ends, (text, words)
    assert_same(tokenizer, texts)


def test_every_character_beside_words_and_spaces(tokenizer):
    codes = [
        *range(0x400),
        *range(0x1680, 0x2070),
        *range(0x3000, 0x3010),
        *range(0x400, sys.maxunicode, 997),
    ]
    letters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    assert_same(
        tokenizer, [f"a {letter} b{letter}1 {letter}  {letter}'s\n{letter}\n\n" for letter in letters]
    )


def test_real_text_in_ascii_is_split_as_the_library_does(tokenizer):
    text = TEXT.encode("ascii", "ignore").decode()
    words = [text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    assert word_splitter(json.loads(tokenizer.to_str()))([text]) == [words]


def with_part(tokenizer, name, value):
    copy = Tokenizer.from_str(tokenizer.to_str())
    setattr(copy, name, value)
    return copy


def test_other_pipelines_go_through_the_library(tokenizer):
    spaced = with_part(tokenizer, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True))
    whole = with_part(
        tokenizer, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    )
    lower = with_part(tokenizer, "normalizer", normalizers.Lowercase())
    extended = Tokenizer.from_str(tokenizer.to_str())
    extended.add_tokens([AddedToken("cat's 3rd")])
    dropping = json.loads(tokenizer.to_str())
    dropping["model"]["dropout"] = 0.5
    assert word_splitter(dropping) is None
    for other in (spaced, whole, lower, extended):
        other = plain_tokenizer(other.to_str())
        assert word_splitter(json.loads(other.to_str())) is None
        assert_same(other, [TEXT, " a", ""])


def test_a_word_without_tokens_leaves_no_number_behind():
    without_unknown = json.loads(train_wordpiece(["ab ba"], 20).to_str())
    del without_unknown["model"]["vocab"]["[UNK]"]
    without_unknown["added_tokens"] = []
    known = KnownWords(plain_tokenizer(json.dumps(without_unknown)), "uint16")
    assert known.split is not None
    for text in ("ab xyz", "ba xyz"):
        with pytest.raises(Exception, match="UNK"):
            known.encode([text])
    tokens, lengths = known.encode(["ab ba", "ba"])
    expected = [known._tokenizer.encode(text, add_special_tokens=False).ids for text in ("ab ba", "ba")]
    assert tokens.tolist() == [*expected[0], *expected[1]] and lengths.tolist() == list(map(len, expected))
