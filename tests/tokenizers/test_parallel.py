"""Byte-level BPE of two sides: one tokenizer, or one for each with ids of one table."""

import pytest

from kerasllm.errors import InputError
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.parallel import decode_text, target_tokenizer, train_parallel_bpe, train_separate_bpe
from kerasllm.tokenizers.saving import save_tokenizer

SOURCES = ["the red house sleeps", "the reader reads the red book"] * 3
TARGETS = ["das rote Haus schläft", "der Leser liest das rote Buch"] * 3


def test_each_side_is_divided_by_merges_of_its_own(tmp_path):
    trained = train_separate_bpe(SOURCES, TARGETS, 330, tags=[">>de<<"])
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
    tokenizer = train_parallel_bpe(SOURCES + TARGETS, 300)
    assert target_tokenizer(tokenizer) is tokenizer


def test_too_small_a_vocabulary():
    with pytest.raises(InputError, match="vocabulary_size 200 is too small"):
        train_separate_bpe(SOURCES, TARGETS, 200)


def test_a_damaged_tokenizer_of_the_targets(tmp_path):
    save_tokenizer(train_separate_bpe(SOURCES, TARGETS, 330), tmp_path)
    (tmp_path / "target_tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"target_tokenizer\.json: not a tokenizer"):
        load_tokenizer(tmp_path)
