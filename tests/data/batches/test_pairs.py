"""Texts that belong together: reading, encoding, and batches in which no text occurs twice if that can be."""

import numpy as np
import pytest

from kerasllm.data.batches.pairs import HeldOutGroups, PairBatches
from kerasllm.data.examples.pairs import encode_groups
from kerasllm.data.sources.pairs import read_groups
from kerasllm.errors import InputError
from kerasllm.tokenizers.wordpiece import train_wordpiece

WORDS = ["red", "green", "blue", "cold", "warm", "wet", "dry", "fast", "slow", "old", "new", "big"]


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece([" ".join(WORDS)] * 3, 80)


@pytest.fixture
def encoded(tokenizer, tmp_path):
    """23 pairs, of which several share their second text."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 9))) + f" {number}" for number in range(30)]
    lines = [f"{texts[number]}\t{texts[23 + number % 7]}\n" for number in range(23)]
    return encode_groups(tokenizer, read_groups(write(tmp_path / "p.tsv", "".join(lines)), "0,1"), 16)


def test_each_distinct_text_is_encoded_once(encoded):
    assert len(encoded) == 23 and len(encoded.texts) == 30
    assert encoded.members.shape == (23, 2) and encoded.scores is None


def test_an_epoch_has_each_pair_once_and_a_batch_no_text_twice(encoded):
    batches = PairBatches(encoded, batch_size=4, epochs=2, seed=3)
    assert (batches.steps, batches.steps_per_epoch, len(batches)) == (12, 6, 12)
    seen = []
    for epoch in range(2):
        for step in range(6):
            groups = batches._groups_of(epoch * 6 + step)
            groups = groups[groups >= 0]
            members = encoded.members[groups].reshape(-1)
            assert len(set(members.tolist())) == len(members)
            seen += groups.tolist()
    assert sorted(seen[:23]) == sorted(seen[23:]) == list(range(23)) and seen[:23] != seen[23:]


def test_labels_say_which_texts_belong_together(encoded):
    """Groups are numbered, roles are 0 and 1, and the tokens in a slot are those of its text."""
    batches = PairBatches(encoded, batch_size=4, seed=1)
    for step in range(batches.steps):
        inputs, labels, weights = batches[step]
        rows, slots = np.nonzero(labels[..., 1] >= 0)
        assert weights.sum() == (labels[..., 1] == 0).sum() == len(rows) / 2
        groups = batches._groups_of(step)
        groups = groups[groups >= 0]
        for row, slot in zip(rows, slots, strict=True):
            group, role = labels[row, slot, :2].astype(int)
            text = encoded.members[groups[group], role]
            own = inputs["token_ids"][row, inputs["sequence_ids"][row] == slot]
            start, end = encoded.texts.offsets[text : text + 2]
            np.testing.assert_array_equal(own, encoded.texts.token_ids[start:end])
        tokens = (inputs["sequence_ids"] >= 0).sum()
        assert tokens == batches.real_tokens(step)
        assert inputs["token_ids"].shape == (batches.rows_per_batch, batches.row_length)


def test_a_resumed_run_goes_on_with_the_same_batches(encoded):
    settings = {"batch_size": 2, "epochs": 2, "seed": 1, "gradient_accumulation": 2}
    whole, rest = PairBatches(encoded, **settings), PairBatches(encoded, start_step=5, **settings)
    assert len(whole) == 24 and len(rest) == 14
    for index in range(len(rest)):
        for one, other in zip(whole[10 + index], rest[index], strict=True):
            np.testing.assert_equal(one, other)
    weights = [whole[index][2].sum() for index in range(2)]
    assert sum(weights) == pytest.approx(2)


def test_batches_without_an_alternative_share_texts(tokenizer, tmp_path):
    """All pairs have the same first text: an epoch still has each of them."""
    lines = "".join(f"red\tblue {number}\n" for number in range(5))
    encoded = encode_groups(tokenizer, read_groups(write(tmp_path / "p.tsv", lines), "0,1"), 16)
    batches = PairBatches(encoded, batch_size=2)
    found = np.concatenate([batches._groups_of(step) for step in range(3)])
    assert sorted(found[found >= 0]) == [0, 1, 2, 3, 4]


def test_single_texts_are_their_own_pairs(tokenizer, tmp_path):
    groups = read_groups(write(tmp_path / "t.txt", "red\nblue\n"))
    assert groups.width == 1
    np.testing.assert_array_equal(encode_groups(tokenizer, groups, 8).members, [[0, 0], [1, 1]])


def test_triplets_and_scores(tokenizer, tmp_path):
    triplets = read_groups(write(tmp_path / "t.csv", "anchor,positive,negative\na,b,c\n"))
    assert triplets.texts == [("a", "b", "c")]
    graded = read_groups(write(tmp_path / "g.tsv", "a\tb\t0.5\nc\td\t3\n"), "0,1", 2)
    np.testing.assert_array_equal(graded.scores, np.float32([0.5, 3]))
    held_out = HeldOutGroups(encode_groups(tokenizer, graded, 8), batch_size=1)
    texts, labels = zip(*held_out.compared(), strict=True)
    assert sorted(label[0, 3] for label in labels) == [0.5, 3] and all(len(own) == 2 for own in texts)


def test_a_teachers_vectors_are_targets_of_all_texts(encoded):
    targets = np.arange(60, dtype=np.float32).reshape(30, 2)
    _, labels, weights = PairBatches(encoded, batch_size=4, targets=targets)[0]
    assert labels.shape == (*weights.shape, 2) and weights.sum() == 8
    assert set(map(tuple, labels[weights > 0])) <= set(map(tuple, targets))


@pytest.mark.parametrize(
    ("name", "content", "columns", "label", "message"),
    [
        ("a.tsv", "a\tb\na\n", "0,1", None, r"a\.tsv:2: has 1 field, column 1 \(text\) needs at least 2"),
        ("a.tsv", "a\tb\na\t \n", "0,1", None, r"a\.tsv:2: column '1' is empty; mend or remove the row"),
        ("a.tsv", "a\tb\tx\n", "0,1", "2", r"a\.tsv:1: the score is 'x', it must be a number"),
        ("a.tsv", "a\tb\tnan\n", "0,1", "2", "the score is 'nan'"),
        ("a.tsv", "a\tb\t1\nc\td\t1\n", "0,1", "2", "all pairs have the score 1"),
        ("a.tsv", "a\tb\t1\n", "0", "2", "text_columns must name two columns, not 1"),
        ("a.tsv", "a\tb\n", "0,0", None, "a column is named twice"),
        ("a.tsv", "a\tb\n", "0,x", None, "give all by index or all by name"),
        ("a.tsv", "left\tright\na\tb\n", None, None, "which columns belong together"),
        ("a.jsonl", '{"anchor": "a", "positive": null}\n', None, None, "'positive' holds None, not text"),
        ("a.csv", "anchor,positive\n", None, None, "holds no rows below its header"),
    ],
)
def test_damaged_pairs_are_refused(name, content, columns, label, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_groups(write(tmp_path / name, content), columns, label)
