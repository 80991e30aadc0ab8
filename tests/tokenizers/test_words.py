"""A tokenizer of the most frequent words."""

import pytest

from kerasllm import load_tokenizer, save_tokenizer
from kerasllm.errors import InputError
from kerasllm.tokenizers.words import train_words

TEXTS = ["the cat saw the dog.", "The dog saw a cat, the cat."]


def test_the_most_frequent_words_have_tokens(tmp_path):
    tokenizer = train_words(TEXTS, 6)
    assert tokenizer.get_vocab(with_added_tokens=True) == {
        "<unk>": 0,
        "cat": 1,
        "the": 2,
        ".": 3,
        "dog": 4,
        "<|endoftext|>": 5,
    }
    assert tokenizer.encode("the owl.").tokens == ["the", "<unk>", "."]
    assert tokenizer.decode([2, 1]) == "the cat"
    save_tokenizer(tokenizer, tmp_path)
    assert load_tokenizer(tmp_path).encode("the owl.").ids == [2, 0, 3]
    assert train_words(reversed(TEXTS), 6).to_str() == tokenizer.to_str()


def test_what_gives_no_vocabulary_is_refused():
    with pytest.raises(InputError, match="needs at least 3"):
        train_words(TEXTS, 2)
    with pytest.raises(InputError, match="holds no words"):
        train_words([" "], 10)
