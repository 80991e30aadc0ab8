"""Packing of several sequences into a row, without attention between them, so that little padding is needed.

A row's sequences are concatenated. The inputs tell them apart: `sequence_ids` (the number of the sequence within its
row; -1 for padding), `position_ids` (from 0 in each sequence) and `first_positions` (the column of each sequence's
first token, [CLS]). So a packed sequence gives the same outputs as it would alone.

Reference: Krell et al. 2021, https://arxiv.org/abs/2107.02027.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


def pack(lengths: Sequence[int] | np.ndarray, capacity: int, most: int | None = None) -> list[list[int]]:
    """Packs items into rows, the longest first, each into the fullest row that has room for it.

    Args:
        lengths: the lengths of the items, none above `capacity`.
        capacity: the length of a row.
        most: the most items in a row; None for no limit.

    Returns:
        The indices of the items in each row.

    Reference: Johnson et al. 1974, https://doi.org/10.1137/0203025 (best fit, decreasing).
    """
    lengths = np.asarray(lengths)
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # rows by the room that is left in them
    some = 0  # bit n is set if there are rows with room n
    sizes = lengths.tolist()
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = sizes[item]
        enough = some >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1  # the lowest bit that is set
            row = by_room[room].pop()
            if not by_room[room]:
                some ^= 1 << room
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(item)
        if most is None or len(rows[row]) < most:
            by_room[room - length].append(row)
            some |= 1 << (room - length)
    return rows


@dataclass(frozen=True, eq=False)
class Rows:
    """The items of each row.

    Args:
        items: int64 (items,), the indices of the items, row by row.
        offsets: int64 (rows + 1,), the positions in `items` where rows begin, and the end of the last one.
    """

    items: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Rows:
        """Returns rows made from one list of items per row."""
        return cls(np.concatenate([np.array(row, np.int64) for row in rows]), _bounds([len(r) for r in rows]))

    @classmethod
    def alone(cls, count: int) -> Rows:
        """Returns rows of one item each."""
        return cls(np.arange(count), np.arange(count + 1))

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.offsets) - 1

    @property
    def most(self) -> int:
        """The largest number of items in a row."""
        return int(np.diff(self.offsets).max())

    def take(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the items of some rows, one row after another, and the number of items in each."""
        counts = self.offsets[numbers + 1] - self.offsets[numbers]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.items[np.repeat(self.offsets[numbers], counts) + within], counts


@dataclass(frozen=True, eq=False)
class PackedRows:
    """The layout of sequences in rows.

    Args:
        lengths: int64 (sequences,), the lengths of the sequences, row by row.
        counts: int64 (rows,), the number of sequences in each row; 0 for a row of padding alone.
        row_length: number of columns.
        slots: the most sequences in a row.
    """

    lengths: np.ndarray
    counts: np.ndarray
    row_length: int
    slots: int

    def inputs(self, tokens: Mapping[str, np.ndarray], padding: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Returns rows of tokens, and the inputs that tell the sequences apart.

        Args:
            tokens: arrays (tokens,) of the sequences, one after another.
            padding: the padding value of each array, 0 by default.

        Returns:
            Each of `tokens`, `sequence_ids` and `position_ids`, int32 (rows, row_length), and
            `first_positions` int32 (rows, slots), 0 in empty slots.
        """
        starts = _bounds(self.lengths)  # positions of the sequences in the tokens
        rows_start = starts[_bounds(self.counts)]  # positions of the rows in the tokens
        own = {
            "sequence_ids": np.repeat(self._number, self.lengths),
            "position_ids": np.arange(starts[-1]) - np.repeat(starts[:-1], self.lengths),
        }
        rows = {
            name: self.by_token(values, -1 if name == "sequence_ids" else padding.get(name, 0))
            for name, values in ({**tokens} | own).items()
        }
        rows["first_positions"] = self.by_slot(starts[:-1] - np.repeat(rows_start[:-1], self.counts))
        return rows

    def by_token(self, values: np.ndarray, padding: int = 0) -> np.ndarray:
        """Returns the tokens' values (tokens,) in rows (rows, row_length), as int32 or float32."""
        fill = np.diff(_bounds(self.lengths)[_bounds(self.counts)])
        taken = np.arange(self.row_length) < fill[:, None]  # (rows, row_length), in the order of the tokens
        rows = np.full(
            taken.shape, padding, np.int32 if np.issubdtype(values.dtype, np.integer) else np.float32
        )
        rows[taken] = values
        return rows

    def by_slot(self, values: np.ndarray) -> np.ndarray:
        """Returns the sequences' values by slot (rows, slots, ...), 0 in empty ones, as int32 or float32."""
        kind = np.int32 if np.issubdtype(values.dtype, np.integer) else np.float32
        slots = np.zeros((len(self.counts), self.slots, *values.shape[1:]), kind)
        slots[np.repeat(np.arange(len(self.counts)), self.counts), self._number] = values
        return slots

    @property
    def _number(self) -> np.ndarray:
        """The number of each sequence within its row."""
        return np.arange(len(self.lengths)) - np.repeat(_bounds(self.counts)[:-1], self.counts)


def _bounds(sizes: np.ndarray | Sequence[int]) -> np.ndarray:
    """Returns the start of each of several consecutive ranges, given their sizes, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
