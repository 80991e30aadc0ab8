"""Division of records into parts for training, validation and test."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from kerasllm.data.random_streams import SPLITTING, random_stream
from kerasllm.errors import InputError

TRAIN = "train"


def text_key(*texts: str) -> tuple[str, ...]:
    """Returns a key that is the same for records of the same texts, whatever their order, case and spaces.

    Args:
        texts: the texts of one record.
    """
    return tuple(sorted(" ".join(text.casefold().split()) for text in texts))


def split_records(
    groups: Sequence[Hashable],
    fractions: Mapping[str, float],
    seed: int,
    strata: Sequence[Hashable] | None = None,
) -> dict[str, np.ndarray]:
    """Returns the records of each part, as a pure function of the records and the seed.

    Records of one group get into one part, so that no record is in training that is also judged by. Each part has
    about its share of each stratum, as in stratified sampling: what rounding takes from one stratum is given to the
    next. Each stratum keeps a group for training.

    Args:
        groups: the group of each record, such as `text_key` of its texts.
        fractions: the share of the records by part, "validation" and "test" for example; parts of 0 are left out.
        seed: seed of the random choice.
        strata: the stratum of each record, such as its label; by default all records are one stratum. A group whose
            records differ belongs to the most frequent one.

    Returns:
        int64 indices of records by part, ascending, first those of "train", which has the rest.

    Raises:
        InputError: a fraction is out of range, or a part would be empty.
    """
    wanted = {name: share for name, share in fractions.items() if share}
    if any(share < 0 for share in wanted.values()) or sum(wanted.values()) >= 1:
        given = " and ".join(f"{name}_fraction {share}" for name, share in wanted.items())
        raise InputError(f"{given} leave nothing to train on: their sum must be below 1")
    members: dict[Hashable, list[int]] = defaultdict(list)
    for record, group in enumerate(groups):
        members[group].append(record)
    by_stratum: dict[Hashable, list[list[int]]] = defaultdict(list)
    for records in members.values():
        stratum = Counter(strata[record] for record in records).most_common(1)[0][0] if strata else None
        by_stratum[stratum].append(records)
    draw = random_stream(seed, SPLITTING, 0)
    chosen: dict[str, list[int]] = {TRAIN: [], **{name: [] for name in wanted}}
    owed = dict.fromkeys(wanted, 0.0)
    for stratum in sorted(by_stratum, key=repr):
        whole = by_stratum[stratum]
        left = [whole[place] for place in draw.permutation(len(whole))]
        size = sum(map(len, whole))
        for name, share in wanted.items():
            owed[name] += share * size
            while len(left) > 1 and len(left[-1]) < 2 * owed[name]:  # which comes nearer to what is owed
                owed[name] -= len(left[-1])
                chosen[name] += left.pop()
        chosen[TRAIN] += [record for records in left for record in records]
    for name, records in chosen.items():
        if not records:
            least = math.ceil(1 / wanted.get(name, 1))
            raise InputError(
                f"{name}_fraction {wanted.get(name)} of {len(members):,} different records is none; give more data "
                f"(at least {least}), a larger fraction, or a file of its own"
            )
    return {name: np.array(sorted(records), np.int64) for name, records in chosen.items()}
