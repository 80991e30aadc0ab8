"""Words as tokens: the place of each first token, windows, and words in raw text."""

import itertools

import numpy as np
import pytest

from kerasllm.data.batches.tagged import PackedTaggingBatches, TaggingBatches
from kerasllm.data.examples.tagged import encode_raw_words, encode_words
from kerasllm.errors import InputError
from kerasllm.tokenizers.wordpiece import bert_tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c", "##d", "é", "中", ",", "x"]
TOKENIZER = bert_tokenizer({piece: index for index, piece in enumerate(PIECES)}, {"do_lower_case": False})


def judged(encoded):
    """For each window its pieces, and the words that are judged with the pieces at their places."""
    offsets, windows = encoded.windows.offsets, []
    for start, end in itertools.pairwise(offsets):
        pieces = [PIECES[index] for index in encoded.windows.token_ids[start:end]]
        words = encoded.words[start:end]
        windows.append((" ".join(pieces), {int(w): pieces[i] for i, w in enumerate(words) if w >= 0}))
    return windows


def test_first_tokens_and_words_without_a_token():
    encoded = encode_words(TOKENIZER, [("acd", "\x01", "bc"), ("zz",)], 16)
    assert judged(encoded) == [
        ("[CLS] a ##c ##d b ##c [SEP]", {0: "a", 2: "b"}),
        ("[CLS] [UNK] [SEP]", {3: "[UNK]"}),
    ]
    assert (encoded.num_lost, encoded.num_cut, encoded.num_words.tolist()) == (1, 0, [3, 1])


@pytest.mark.parametrize("length", [4, 5, 7, 12])
def test_every_word_is_judged_once_whatever_the_window(length):
    random = np.random.default_rng(length)
    sentences = [
        ["a" + "c" * int(random.integers(0, 6)) for _ in range(int(random.integers(1, 30)))]
        for _ in range(20)
    ]
    encoded = encode_words(TOKENIZER, sentences, length)
    found = np.sort(encoded.words[encoded.words >= 0])
    np.testing.assert_array_equal(found, np.arange(sum(map(len, sentences))))
    assert encoded.windows.lengths.max() <= length
    at = encoded.windows.token_ids[encoded.words >= 0]
    assert set(at.tolist()) == {PIECES.index("a")}
    assert encoded.num_lost == 0


def test_windows_give_each_word_the_most_context():
    encoded = encode_words(TOKENIZER, [["a", "b", "x"] * 4], 8, stride=4)
    first, second, *_ = judged(encoded)
    assert first[0] == "[CLS] a b x a b x [SEP]" and list(first[1]) == [0, 1, 2, 3]
    assert second[0] == "[CLS] x a b x a b [SEP]" and list(second[1]) == [4, 5]
    with pytest.raises(InputError, match="leaves no room"):
        encode_words(TOKENIZER, [["a"]], 2)
    with pytest.raises(InputError, match="stride is 6"):
        encode_words(TOKENIZER, [["a"]], 8, stride=6)


def test_words_of_raw_text_have_their_places_in_characters():
    texts = ["acd, 😀中é", ""]
    found = encode_raw_words(TOKENIZER, texts, 16)
    words = [
        [text[start:end] for start, end in bounds] for text, bounds in zip(texts, found.bounds, strict=True)
    ]
    assert words == [["acd", ",", "😀", "中", "é"], []]
    assert found.encoded.num_words.tolist() == [5, 0]


def test_a_truncating_tokenizer_cuts_nothing():
    from tokenizers import Tokenizer

    cutting = Tokenizer.from_str(TOKENIZER.to_str())
    cutting.enable_truncation(4)
    cutting.enable_padding(length=9)
    assert judged(encode_words(cutting, [["a"] * 10], 16)) == judged(
        encode_words(TOKENIZER, [["a"] * 10], 16)
    )


def test_packed_and_padded_batches_hold_the_same_labels():
    random = np.random.default_rng(0)
    sentences = [["ac", "b", "x"] * int(random.integers(1, 4)) for _ in range(10)]
    encoded = encode_words(TOKENIZER, sentences, 32)
    labels = random.integers(0, 5, encoded.num_words.sum()).astype("int32")

    def content(batches):
        found = []
        for step in range(batches.steps):
            inputs, tags, weights = batches[step]
            assert tags.shape == weights.shape == inputs["token_ids"].shape
            found += list(zip(inputs["token_ids"][weights > 0], tags[weights > 0], strict=True))
        return sorted(found)

    settings = {"batch_size": 4, "epochs": 2}
    padded, packed = (kind(encoded, labels, **settings) for kind in (TaggingBatches, PackedTaggingBatches))
    first = encoded.windows.token_ids[encoded.words >= 0]
    assert content(padded) == content(packed) == sorted(2 * list(zip(first, labels, strict=True)))
    assert "first_positions" not in packed[0][0]
    again = TaggingBatches(encoded, labels, **settings, start_step=1)[0]
    np.testing.assert_array_equal(padded[1][1], again[1])
    with pytest.raises(ValueError, match="labels of shape"):
        TaggingBatches(encoded, labels[:-1], batch_size=4)
