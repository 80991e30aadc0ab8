"""Byte-level BPE and Unigram of two sides: one tokenizer, or one for each with ids of one table."""

import itertools
import json

import pytest

from kerasllm.errors import InputError
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.parallel import (
    decode_text,
    target_tokenizer,
    train_joint_tokenizer,
    train_separate_tokenizers,
)
from kerasllm.tokenizers.saving import save_tokenizer

SOURCES = ["the red house sleeps", "the reader reads the red book"] * 3
TARGETS = ["das rote Haus schläft", "der Leser liest das rote Buch"] * 3


@pytest.mark.parametrize("kind", ["byte_level_bpe", "unigram"])
def test_each_side_is_divided_by_pieces_of_its_own(tmp_path, kind):
    trained = train_separate_tokenizers(SOURCES, TARGETS, 330, kind=kind, tags=[">>de<<"])
    save_tokenizer(trained, tmp_path)
    assert trained.get_vocab_size() <= 330
    for source in (trained, load_tokenizer(tmp_path)):
        target = target_tokenizer(source)
        assert target is not source and target.get_vocab() == source.get_vocab()
        assert source.token_to_id("<pad>") == source.get_vocab_size() - 1
        assert len(source.encode(SOURCES[0]).ids) < len(target.encode(SOURCES[0]).ids)
        assert len(target.encode(TARGETS[0]).ids) < len(source.encode(TARGETS[0]).ids)
        for tokenizer in (source, target):
            for text in (SOURCES[1], TARGETS[1]):
                assert decode_text(source, tokenizer.encode(text).ids) == text
        assert source.encode(">>de<< the").ids[0] == source.token_to_id(">>de<<")


def test_one_tokenizer_is_that_of_both_sides():
    tokenizer = train_joint_tokenizer(SOURCES + TARGETS, 300)
    assert target_tokenizer(tokenizer) is tokenizer


def test_too_small_a_vocabulary():
    with pytest.raises(InputError, match="vocabulary_size 200 is too small"):
        train_separate_tokenizers(SOURCES, TARGETS, 200)


def test_a_damaged_tokenizer_of_the_targets(tmp_path):
    save_tokenizer(train_separate_tokenizers(SOURCES, TARGETS, 330), tmp_path)
    (tmp_path / "target_tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"target_tokenizer\.json: not a tokenizer"):
        load_tokenizer(tmp_path)


def test_unigram_divides_into_the_likeliest_pieces(tmp_path):
    tokenizer = train_joint_tokenizer(SOURCES + TARGETS, 300, kind="unigram", tags=[">>de<<"])
    save_tokenizer(tokenizer, tmp_path)
    scores = dict(json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"])
    assert len(scores) == tokenizer.get_vocab_size() <= 300
    for word in ("Ġthe", "Ġreader", "Ġrote", "Ġschl"):
        best = max(
            sum(scores.get(piece, -1e9) for piece in pieces)
            for cuts in itertools.product([False, True], repeat=len(word) - 1)
            for pieces in [divided(word, cuts)]
        )
        found = tokenizer.encode(word.removeprefix("Ġ"), add_special_tokens=False).tokens
        assert sum(scores[piece] for piece in found) == pytest.approx(best)


def divided(word, cuts):
    places = [0, *(place for place, cut in enumerate(cuts, 1) if cut), len(word)]
    return [word[start:end] for start, end in itertools.pairwise(places)]


def test_unigram_holds_any_text_and_is_the_same_each_time():
    first, again = (train_joint_tokenizer(SOURCES + TARGETS, 400, kind="unigram") for _ in range(2))
    assert first.to_str() == again.to_str()
    for text in ("Ünïcode 語 😀", "a </s> <pad> b", "x" * 200):
        first.encode_special_tokens = True
        ids = first.encode(text).ids
        first.encode_special_tokens = False
        assert ids.count(first.token_to_id("</s>")) == 1
        assert first.decode(ids[:-1], skip_special_tokens=False).strip() == text


@pytest.mark.parametrize("size", [258, 259, 262])
def test_unigram_has_no_more_pieces_than_asked(size):
    """The trainer itself has no limit where the bytes' letters alone are as many as it may have."""
    texts = ["aaaaaaaa bbbbbbbb"] * 50
    assert train_joint_tokenizer(texts, 300, kind="unigram").get_vocab_size() > 262
    assert train_joint_tokenizer(texts, size, kind="unigram").get_vocab_size() <= size


def test_unigram_of_no_text():
    with pytest.raises(InputError, match="no characters"):
        train_joint_tokenizer([], 300, kind="unigram")
