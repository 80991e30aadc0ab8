"""Reading of tables from TSV, CSV, JSON Lines, Parquet and the hub, row by row with the place of each row.

A TSV is split only at its tabs: quotation marks belong to the text, and a reader that treated them as quoting would
silently skip large parts of such files. A CSV has the usual quoting.
"""

import csv
import difflib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kerasllm.data.sources.hub import HubDataset
from kerasllm.data.sources.lines import require_file, split_at_returns, text_lines
from kerasllm.errors import InputError
from kerasllm.tokenizers.cutting import without_surrogates

_FIELD_LIMIT = 1 << 24  # characters; an unclosed quotation mark makes the rest of the file one field


class Column(NamedTuple):
    """A column that is read.

    Args:
        name: the column's name, or its index from 0 in a file without header.
        purpose: "text" or "label", for messages.
    """

    name: str
    purpose: str


class Row(NamedTuple):
    """The values of one row.

    Args:
        line: the number, from 1, of the row's (first) line, or of the row if the format has no lines.
        values: the values in the order of the requested columns.
    """

    line: int
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Table:
    """A table that is open for one reading.

    Args:
        source: the table's name in messages.
        header: the names of the columns; None if the file has no header.
        read_rows: a function that yields the rows for given columns.
        first_fields: the fields of the first line, if the file has no header.
        class_names: the class names of columns with class ids, by column, if the format records them.
        has_lines: whether a row's number is a line number.
        can_lack_header: whether files of this format may have no header.
    """

    source: str
    header: tuple[str, ...] | None
    read_rows: Callable[[Sequence[Column]], Iterator[Row]]
    first_fields: tuple[str, ...] = ()
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    has_lines: bool = True
    can_lack_header: bool = False

    def place(self, line: int) -> str:
        """Returns a row's place for messages: `train.tsv:117`, or `train.parquet row 117`."""
        return f"{self.source}:{line}" if self.has_lines else f"{self.source} row {line}"

    def rows(self, columns: Sequence[Column]) -> Iterator[Row]:
        """Yields the rows with the values of these columns.

        Raises:
            InputError: there is no such column, or a row is broken.
        """
        for column in columns:
            self.require(column)
        return self.read_rows(columns)

    def require(self, column: Column) -> None:
        """Refuses a column that is not there, or is there twice.

        Raises:
            InputError: the message names the column and those that are there.
        """
        if self.header is None or self.header.count(column.name) == 1:
            return
        there = ", ".join(map(repr, self.header[:20])) + (", …" if len(self.header) > 20 else "")
        if column.name in self.header:
            raise InputError(f"{self.source}: the column {column.name!r} is there twice: {there}; rename one")
        lowered = {name.casefold().strip(): name for name in reversed(self.header)}
        nearest = difflib.get_close_matches(column.name.casefold().strip(), lowered, n=1)
        if nearest:
            mend = f"; did you mean {lowered[nearest[0]]!r}?"
        elif self.can_lack_header:
            mend = "; if the file has no header, give all columns by index, from 0."
        else:
            mend = "."
        raise InputError(
            f"{self.source}: no column {column.name!r} ({column.purpose}){mend} Its columns: {there}"
        )


def open_table(source: str, *, by_index: bool, split: str = "train") -> Table:
    """Opens a table in the format that its name indicates.

    Args:
        source: a file `.tsv`, `.csv`, `.jsonl`, `.ndjson`, `.json` (all of these also with `.gz`) or `.parquet`, or
            `hub:ID[/CONFIG][@REVISION][#SPLIT]`. Any other file is a TSV if its first line has a tab.
        by_index: whether columns are given by index, which means that a TSV or CSV has no header.
        split: the split of a dataset on the hub, if the source names none.

    Raises:
        InputError: the source cannot be read, is empty, or has none of these formats.
    """
    if source.startswith("hub:"):
        return _open_hub(source, split)
    name = source.lower()
    if name.endswith(".parquet"):
        return _open_parquet(source)
    name = name.removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return _open_json(source)
    if name.endswith(".csv"):
        return _open_delimited(source, _csv_records(source), by_index)
    records = _tsv_records(source)
    if not name.endswith(".tsv"):
        first = next(records, None)
        if first is not None and len(first[1]) < 2:
            raise InputError(
                f"{source}: no tab in its first line; tables are .tsv, .csv, .jsonl, .parquet or hub:ID "
                "(one text a line: .txt)"
            )
        records = itertools.chain([first] if first else [], records)
    return _open_delimited(source, records, by_index)


def _tsv_records(source: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the line number and the fields of each line of a TSV that is not blank."""
    num_tabs = None
    for number, line in text_lines(source):
        rows = [line.removesuffix("\n").removesuffix("\r")]
        if "\r" in rows[0]:
            # A lone carriage return ends a row if all rows between them are complete; otherwise it belongs to a text.
            parts = rows[0].split("\r")
            wanted = parts[0].count("\t") if num_tabs is None else num_tabs
            if wanted and all(part.count("\t") == wanted for part in parts if part):
                rows = parts
        for row in rows:
            if "\t" in row or (row and not row.isspace()):
                num_tabs = row.count("\t") if num_tabs is None else num_tabs
                yield number, row.split("\t")


def _csv_records(source: str) -> Iterator[tuple[int, list[str]]]:
    lines = (part for _, line in text_lines(source) for part in split_at_returns(line))
    reader = csv.reader(lines, strict=True)
    before = csv.field_size_limit(_FIELD_LIMIT)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{source}:{start}: not valid CSV: {error} (a quotation mark not closed or doubled?)"
        ) from error
    finally:
        csv.field_size_limit(before)


def _open_delimited(source: str, records: Iterator[tuple[int, list[str]]], by_index: bool) -> Table:
    first = next(records, None)
    if first is None:
        raise InputError(f"{source}: the file is empty")
    first_line, names = first
    if by_index:
        records = itertools.chain([first], records)
    elif len(names) == 1 and (other := next((sign for sign in ";|\t" if sign in names[0]), None)):
        raise InputError(
            f"{source}:{first_line}: one column only; is {other!r} the separator? .csv has ',', .tsv tabs"
        )
    width = len(names)
    header = list(map(_plain_name, names))

    def read_rows(columns: Sequence[Column]) -> Iterator[Row]:
        indexes = [int(column.name) if by_index else names.index(column.name) for column in columns]
        for line, fields in records:
            found = list(map(_plain_name, fields)) if not by_index and len(fields) == width else []
            # A text may be the name of a single column, in another case.
            if found and sorted(found) == sorted(header) and (width > 1 or fields == names):
                raise InputError(
                    f"{source}:{line}: repeats the header of line {first_line}; were files put one behind the other? "
                    "Remove the line"
                    + ("" if found == header else " (and see that the columns have the same order)")
                )
            if len(fields) > width and any(fields[width:]):
                raise InputError(
                    f"{source}:{line}: has {len(fields)} fields where line {first_line} has {width}; "
                    "a separator within a text?"
                )
            for column, index in zip(columns, indexes, strict=True):
                if index >= len(fields):
                    number = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
                    shown = f"{column.name if by_index else repr(column.name)} ({column.purpose})"
                    raise InputError(
                        f"{source}:{line}: has {number}, column {shown} needs at least {index + 1}"
                    )
            yield Row(line, tuple(fields[index] for index in indexes))

    return Table(
        source,
        header=None if by_index else tuple(names),
        read_rows=read_rows,
        first_fields=tuple(names) if by_index else (),
        can_lack_header=True,
    )


def _plain_name(name: str) -> str:
    """Returns a name, or a field of a row, as a header is looked for: without case, quotation marks and spaces."""
    return name.removeprefix("\ufeff").strip().strip('"').casefold()


def _json_records(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = ((number, part) for number, line in text_lines(source) for part in split_at_returns(line))
    for number, line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise InputError(
                f"{source}:{number}: not JSON: {reason}; each line must be one JSON object"
            ) from error
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise InputError(
                f'{source}:{number}: holds a {kind}; each line must be one JSON object, like {{"text": …}}'
            )
        yield number, record


def _open_json(source: str) -> Table:
    records = _json_records(source)
    first = next(records, None)
    if first is None:
        raise InputError(f"{source}: the file is empty")

    def read_rows(columns: Sequence[Column]) -> Iterator[Row]:
        for line, record in itertools.chain([first], records):
            for column in columns:
                if column.name not in record:
                    there = ", ".join(map(repr, record))
                    raise InputError(
                        f"{source}:{line}: no {column.name!r} ({column.purpose}), only {there or 'nothing'}"
                    )
            values = (record[column.name] for column in columns)
            yield Row(line, tuple(without_surrogates(v) if isinstance(v, str) else v for v in values))

    return Table(source, header=tuple(first[1]), read_rows=read_rows)


def _open_parquet(source: str) -> Table:
    import pyarrow
    import pyarrow.parquet

    path = require_file(source)
    try:
        schema = pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{source}: not a readable Parquet file: {error}") from error

    def read_rows(columns: Sequence[Column]) -> Iterator[Row]:
        names = [column.name for column in columns]
        number = 0
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1024, columns=names, use_threads=False):
                    values = [batch.column(name).to_pylist() for name in names]
                    for row in zip(*values, strict=True):
                        number += 1
                        yield Row(number, tuple(as_text(value, f"{source} row {number}") for value in row))
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{source}: broken behind row {number}: {error}") from error

    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    class_names = {name: names for name, feature in features.items() if (names := _class_names(feature))}
    return Table(source, tuple(schema.names), read_rows, class_names=class_names, has_lines=False)


def as_text(value: Any, place: str) -> Any:
    """Returns bytes as the text that they are, as some programs write texts without saying so; other values unchanged.

    Args:
        value: a value of a column.
        place: the file and the row, for messages.

    Raises:
        InputError: the bytes are not UTF-8.
    """
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: holds bytes that are no text in UTF-8 (at byte {error.start})") from error


def _class_names(feature: Any) -> tuple[str, ...]:
    """Returns the class names of a column of class ids, or of lists of them, as `datasets` describes it; else none."""
    if not isinstance(feature, dict):
        return ()
    if feature.get("_type") == "ClassLabel":
        return tuple(feature.get("names") or ())
    return _class_names(feature.get("feature"))


def _open_hub(source: str, split: str) -> Table:
    """Opens a dataset without streaming, so that a later run can read it from the library's cache, also offline."""
    import datasets

    description = source.removeprefix("hub:")
    wanted = HubDataset.parse(description if "#" in description else f"{description}#{split}", "text")
    failures = []
    for identifier, configuration in wanted.candidates:
        shown = identifier + (f" ({configuration})" if configuration else "")
        try:
            rows = datasets.load_dataset(
                identifier, configuration, split=wanted.split, revision=wanted.revision
            )
            break
        except Exception as error:  # the library raises many types of errors, also builtin ones
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            if isinstance(error, ValueError) and "split" in reason.lower():
                raise InputError(f"hub:{shown}: {reason}; name a split with #SPLIT") from error
            failures.append(f"hub:{shown}: {reason}")
    else:
        raise InputError("; ".join(failures))

    def read_rows(columns: Sequence[Column]) -> Iterator[Row]:
        names = [column.name for column in columns]
        for number, row in enumerate(rows.select_columns(list(dict.fromkeys(names))), 1):
            yield Row(number, tuple(as_text(row[name], f"{source} row {number}") for name in names))

    features = rows.features.to_dict()
    class_names = {name: names for name, feature in features.items() if (names := _class_names(feature))}
    name = source if "#" in source else f"{source}#{wanted.split}"
    return Table(name, tuple(rows.column_names), read_rows, class_names=class_names, has_lines=False)
