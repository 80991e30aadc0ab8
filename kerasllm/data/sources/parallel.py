"""Reading of pairs of texts for text-to-text tasks, such as translation: two aligned files, or a table."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from kerasllm.data.sources.labelled import read_texts
from kerasllm.data.sources.lines import text_lines
from kerasllm.errors import InputError

TAG = re.compile(r">>[A-Za-z][\w-]*<<(?=\s|$)")
"""The tag of a language, as Marian models have it, before a source."""

_TABLES = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")


@dataclass(frozen=True, eq=False)
class ParallelTexts:
    """Pairs of a source text and a target text.

    Args:
        sources: the source texts, without white space around them.
        targets: the target texts, likewise.
        place: where the pairs come from, for messages.
        left_out: number of pairs that were left out, by reason.
    """

    sources: list[str]
    targets: list[str]
    place: str
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.sources)

    @property
    def tags(self) -> set[str]:
        """The tags of languages, such as `>>de<<`, with which sources begin."""
        return {match[0] for match in map(TAG.match, self.sources) if match}

    def beginning_with(self, *tags: str) -> ParallelTexts:
        """Returns the pairs with tags, if there are any, before each source."""
        if not tags:
            return self
        return replace(self, sources=[" ".join([*tags, source]) for source in self.sources])


def read_parallel(
    files: Sequence[str], text_columns: str | None = None, *, split: str = "train", keep_empty: bool = False
) -> ParallelTexts:
    """Reads pairs of texts.

    Args:
        files: two text files, also `.gz`, whose lines belong together; or one table (.tsv, .csv, .jsonl, .parquet or
            hub:ID) with two text columns.
        text_columns: the two columns of a table, as in "en,de" or "0,1".
        split: the split of a dataset on the hub, if its name gives none.
        keep_empty: whether pairs with an empty side are kept, as in test data; otherwise they are left out and
            counted.

    Raises:
        InputError: a file cannot be read, the two have different numbers of lines, or there are no pairs; the message
            names file and line.
    """
    place = " ".join(files)
    if len(files) == 2:
        pairs = list(_aligned(*files))
    elif len(files) == 1:
        if not _is_table(files[0]):
            raise InputError(
                f"{files[0]}: one text file has no targets: give two files, source and target, or a table with "
                "two text columns (.tsv, .csv, .jsonl, .parquet, hub:ID)"
            )
        if text_columns is None:
            raise InputError(f"{files[0]}: give its two text columns: --text_columns source,target, or 0,1")
        table = _table_texts(files[0], text_columns, split)
        pairs = [(one.strip(), other.strip()) for one, other in table]
    else:
        raise InputError(f"{place}: {len(files)} files where two belong, source and target, or one table")
    kept = pairs if keep_empty else [(source, target) for source, target in pairs if source and target]
    empty = len(pairs) - len(kept)
    if not kept:
        raise InputError(f"{place}: holds no pair of texts")
    return ParallelTexts(
        [source for source, _ in kept],
        [target for _, target in kept],
        place,
        {"with an empty side": empty} if empty else {},
    )


def _is_table(source: str) -> bool:
    return source.startswith("hub:") or source.lower().removesuffix(".gz").endswith(_TABLES)


def _aligned(source: str, target: str) -> Iterator[tuple[str, str]]:
    """Yields the lines of two files, without white space around them."""
    for number, lines in enumerate(itertools.zip_longest(text_lines(source), text_lines(target)), 1):
        if None in lines:
            shorter, longer = (source, target) if lines[0] is None else (target, source)
            raise InputError(
                f"{shorter}: ends after line {number - 1}, {longer} goes on: the files must have the same number of "
                "lines, in the same order"
            )
        yield lines[0][1].strip(), lines[1][1].strip()


def _table_texts(source: str, text_columns: str, split: str) -> Iterator[tuple[str, str]]:
    """Yields the two texts of each row of a table."""
    for number, texts in enumerate(read_texts(source, text_columns, split=split).texts, 1):
        if len(texts) != 2:
            raise InputError(f"{source}: row {number} has {len(texts)} texts: give two columns, as in 0,1")
        yield texts[0], texts[1]
