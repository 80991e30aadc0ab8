"""Pairs of texts: files, filters, and batches in which each pair is there once an epoch."""

import json

import numpy as np
import pytest

from kerasllm.data.batches.translation import TranslationBatches
from kerasllm.data.examples.parallel import EncodedPairs, PairFilter, encode_pairs, encode_side
from kerasllm.data.sources.parallel import ParallelTexts, read_parallel
from kerasllm.errors import InputError
from kerasllm.tokenizers.parallel import decode_text, train_joint_tokenizer

PAD, END = 99, 0


def encoded(count=60, seed=0):
    """Pairs whose first source token is unlike any other pair's."""
    random = np.random.default_rng(seed)
    sides = []
    for _ in range(2):
        lengths = random.integers(2, 20, count)
        ids = [np.append(random.integers(1, 30, length - 1), END) for length in lengths]
        sides.append(ids)
    for number, ids in enumerate(sides[0]):
        ids[0] = 30 + number
    flat = [
        (np.concatenate(ids).astype("int32"), np.concatenate([[0], np.cumsum([len(i) for i in ids])]))
        for ids in sides
    ]
    return EncodedPairs(*flat[0], *flat[1], PAD, {}, 0), sides


def pairs_of(batch):
    """The source and the target of each row that counts."""
    inputs, labels, weights = batch
    for source, mask, decoder, target, weight in zip(
        inputs["encoder_token_ids"],
        inputs["encoder_padding_mask"],
        inputs["decoder_token_ids"],
        labels,
        weights,
        strict=True,
    ):
        if weight.any():
            real = int((weight > 0).sum())
            assert (source[mask == 0] == PAD).all() and (weight[real:] == 0).all()
            assert decoder[0] == PAD and (decoder[1:real] == target[: real - 1]).all()
            yield tuple(source[mask > 0].tolist()), tuple(target[:real].tolist())


def test_each_pair_is_there_once_an_epoch_in_few_shapes():
    data, sides = encoded()
    batches = TranslationBatches(data, batch_tokens=64, seed=3)
    found = [pair for index in range(len(batches)) for pair in pairs_of(batches[index])]
    assert sorted(found) == sorted(
        zip(*(map(tuple, map(np.ndarray.tolist, ids)) for ids in sides), strict=True)
    )
    shapes = {batches[index][0]["encoder_token_ids"].shape for index in range(len(batches))}
    assert len(shapes) == len(batches.buckets) == batches.shapes <= 8
    assert all(bucket.rows * max(bucket[:2]) <= 64 + 20 for bucket in batches.buckets)
    assert sum(batches.real_tokens(step) for step in range(len(batches))) == len(data.source_ids) + len(
        data.target_ids
    )


def test_a_batch_is_a_function_of_seed_and_step():
    data, _ = encoded()
    whole = TranslationBatches(data, batch_tokens=64, steps=40, seed=3)
    later = TranslationBatches(data, batch_tokens=64, steps=40, seed=3, start_step=25)
    for index in (0, 14):
        for one, other in zip(whole[25 + index], later[index], strict=True):
            np.testing.assert_equal(one, other)
    other = TranslationBatches(data, batch_tokens=64, steps=40, seed=4)
    assert any(not np.array_equal(whole[i][1], other[i][1]) for i in range(3))


def test_weights_of_a_step_are_normalized_over_its_batches():
    data, _ = encoded()
    batches = TranslationBatches(data, batch_tokens=64, steps=4, gradient_accumulation=3)
    for step in range(4):
        total = sum(float(batches[3 * step + part][2].sum()) for part in range(3))
        assert total == pytest.approx(3.0)


def test_filters_are_counted_and_held_out_texts_are_cut():
    texts = ParallelTexts(["a b c d", "a " * 40, "a " * 20], ["c d", "b", "b " * 20], "here")
    tokenizer = train_joint_tokenizer(["a b c d"] * 3, 265, tags=[">>x<<"])
    ids = {"end_id": 0, "pad_id": tokenizer.get_vocab_size() - 1}
    assert tokenizer.id_to_token(ids["pad_id"]) == "<pad>" and tokenizer.id_to_token(0) == "</s>"
    found = encode_pairs(texts, tokenizer, **ids, rule=PairFilter(64, max_ratio=3))
    assert len(found) == 2 and found.left_out == {"with one side more than 3 times as long": 1}
    found = encode_pairs(texts, tokenizer, **ids, rule=PairFilter(10))
    assert len(found) == 1 and found.left_out == {"of more than 10 tokens": 2}
    with pytest.raises(InputError, match="no pair is left, 3 of more than 2 tokens: raise --max_length, or"):
        encode_pairs(texts, tokenizer, **ids, rule=PairFilter(2))
    found = encode_pairs(texts, tokenizer, **ids, rule=PairFilter(10, cut=True))
    assert len(found) == 3 and found.num_cut == 3 and found.source_lengths.max() == 10
    assert (found.source_ids[found.source_offsets[1:] - 1] == 0).all()
    with pytest.raises(InputError, match="here: the source of pair 2 has 42 tokens, the longest may have 10"):
        encode_pairs(texts, tokenizer, **ids, rule=PairFilter(10, strict=True))
    both = ParallelTexts(["a " * 20], ["b " * 40], "here")
    with pytest.raises(InputError, match="the source of pair 1 has 22 tokens"):
        encode_pairs(both, tokenizer, **ids, rule=PairFilter(10, strict=True))
    whole = tokenizer.encode(">>x<< é b").ids
    assert whole[-1] == 0 and decode_text(tokenizer, whole) == "é b"


def test_names_of_special_tokens_in_a_text_are_text():
    tokenizer = train_joint_tokenizer(["a b </s>"] * 3, 265, tags=[">>x<<"])
    tag, end = map(tokenizer.token_to_id, (">>x<<", "</s>"))
    for text in ("a </s> b <pad> >>x<<", "</s>", "b"):
        plain, tagged = (ids.tolist() for ids in encode_side([text, f">>x<< {text}"], tokenizer, end))
        assert decode_text(tokenizer, plain[:-1]) == decode_text(tokenizer, tagged[1:-1]) == text
        assert tagged == [tag, *plain] and plain.count(end) == 1


def test_files(tmp_path):
    source, target, table = tmp_path / "a.en", tmp_path / "a.de", tmp_path / "a.tsv"
    source.write_text(" one \ntwo\n\n", encoding="utf-8")
    target.write_text("eins\nzwei\ndrei\n", encoding="utf-8")
    found = read_parallel([str(source), str(target)])
    assert (found.sources, found.targets) == (["one", "two"], ["eins", "zwei"])
    assert found.left_out == {"with an empty side": 1}
    assert read_parallel([str(source), str(target)], keep_empty=True).sources == ["one", "two", ""]
    table.write_text("one\teins\ntwo\tzwei\n", encoding="utf-8")
    assert read_parallel([str(table)], "1,0").sources == ["eins", "zwei"]
    (tmp_path / "hub").mkdir()
    for split, count in (("train", 3), ("validation", 2), ("test", 1)):
        rows = "".join(json.dumps({"en": f"{split} {i}", "de": "x"}) + "\n" for i in range(count))
        (tmp_path / "hub" / f"{split}.jsonl").write_text(rows)
    for split, count in (("train", 3), ("validation", 2)):
        assert read_parallel([f"hub:{tmp_path / 'hub'}"], "en,de", split=split).sources == [
            f"{split} {i}" for i in range(count)
        ]
    tagged = ParallelTexts(
        [">>de<< one", ">>zh_Hans<< two", ">> <<three", "four >>fr<< x", ">>it<<x"], [""] * 5, ""
    )
    assert tagged.tags == {">>de<<", ">>zh_Hans<<"}
    target.write_text("eins\nzwei\n", encoding="utf-8")
    for files, columns, message in [
        ([source, target], None, "a.de: ends after line 2, .*a.en goes on"),
        ([source], None, "one text file has no targets"),
        ([table], None, "give its two text columns"),
        ([table], "0", "row 1 has 1 texts"),
        ([source, target, table], None, "3 files where two belong"),
        ([source, tmp_path / "b.de"], None, "b.de"),
    ]:
        with pytest.raises(InputError, match=message):
            read_parallel([str(file) for file in files], columns)
