"""Division of records: whole groups, each stratum's share, and the same for the same seed."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerasllm.data.sources.splitting import split_records, text_key
from kerasllm.errors import InputError

FRACTIONS = {"validation": 0.2, "test": 0.1}


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2)), min_size=80, max_size=300), st.integers(0, 9)
)
def test_each_record_is_in_one_part_and_each_group_too(records, seed):
    groups, strata = zip(*records, strict=True)
    try:
        parts = split_records(groups, FRACTIONS, seed, strata)
    except InputError:
        assert len(set(groups)) < 20
        return
    assert list(parts) == ["train", "validation", "test"]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(records)))
    found = [{groups[record] for record in part} for part in parts.values()]
    assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]
    assert all((np.diff(part) > 0).all() for part in parts.values())
    again = split_records(groups, FRACTIONS, seed, strata)
    assert all((again[name] == parts[name]).all() for name in parts)


@pytest.mark.parametrize("sizes", [[500, 500], [900, 90, 10], [15] * 60])
def test_each_part_has_its_share_of_each_stratum(sizes):
    strata = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes)).tolist()
    parts = split_records(range(len(strata)), FRACTIONS, 4, strata)
    for name, share in FRACTIONS.items():
        assert len(parts[name]) == pytest.approx(share * len(strata), abs=1)
        counts = Counter(strata[record] for record in parts[name])
        assert all(abs(counts[stratum] - share * size) <= 1 for stratum, size in enumerate(sizes))
    other = split_records(range(len(strata)), FRACTIONS, 5, strata)
    assert set(other["test"].tolist()) != set(parts["test"].tolist())


def test_a_class_of_one_example_is_trained_on():
    strata = ["rare"] + ["frequent"] * 20
    for seed in range(10):
        assert 0 in split_records(range(21), {"test": 0.9}, seed, strata)["train"]


def test_records_of_the_same_texts_are_one_group():
    assert text_key("Good  film ") == text_key("good film") != text_key("good films")
    assert text_key("one", "two") == text_key("Two", "one") != text_key("one two")


@pytest.mark.parametrize(
    ("fractions", "groups", "part"),
    [
        ({"test": 1.0}, range(9), "below 1"),
        ({"validation": 0.5, "test": 0.5}, range(9), "below 1"),
        ({"validation": 0.01}, range(9), "is none"),
        ({"test": 0.4}, [1] * 9, "of 1 different records is none"),
    ],
)
def test_what_cannot_be_divided(fractions, groups, part):
    with pytest.raises(InputError, match=part):
        split_records(list(groups), fractions, 0)
