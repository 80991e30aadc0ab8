"""Datasets of the Hugging Face hub, or of a local directory of data files, streamed by `datasets`.

An id of two parts may be `owner/name` or, for the oldest datasets, `name/config`. Only the hub knows which, so both
are tried in this order.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerasllm.errors import InputError

_ID = re.compile(r"[\w.-]+(/[\w.-]+){1,2}(@[\w./-]+)?(#[\w.\[\]:%+-]+)?")
_FILE_SUFFIX = re.compile(
    r"\.(txt|md|jsonl|ndjson|json|parquet|csv|tsv|gz|zip|xml|html)([@#]|$)", re.IGNORECASE
)


def looks_like_hub_id(source: str) -> bool:
    """Returns whether a source that is no existing path looks like a dataset id `owner/name`, not like a file."""
    return (
        _ID.fullmatch(source) is not None
        and not source.startswith((".", "~", "/"))
        and _FILE_SUFFIX.search(source) is None
    )


@dataclass(frozen=True)
class HubDataset:
    """One split of a dataset.

    Args:
        candidates: pairs of a path or id and a configuration, which are tried in this order.
        revision: the branch, tag or commit; None for the newest.
        split: the name of the split.
        text_column: the column that holds the text.
        shard: a number from 0 and a count of shares, of which only that one is read; None for all rows.
    """

    candidates: tuple[tuple[str, str | None], ...]
    revision: str | None
    split: str
    text_column: str
    shard: tuple[int, int] | None = None

    @classmethod
    def parse(cls, description: str, text_column: str) -> "HubDataset":
        """Returns the dataset for `ID[/CONFIG][@REVISION][#SPLIT]`, where ID may also be a local directory.

        Raises:
            InputError: the description has another form.
        """
        rest, _, split = description.partition("#")
        if rest and Path(rest).expanduser().is_dir():
            return cls(((str(Path(rest).expanduser()), None),), None, split or "train", text_column)
        rest, _, revision = rest.partition("@")
        parts = rest.split("/")
        if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"[\w.-]+", part) for part in parts):
            raise InputError(
                f"hub:{description}: not a dataset; write hub:OWNER/NAME[/CONFIG][@REVISION][#SPLIT] "
                "or hub:DIRECTORY of an existing directory"
            )
        if len(parts) == 1:
            candidates: tuple[tuple[str, str | None], ...] = ((parts[0], None),)
        elif len(parts) == 2:
            candidates = ((rest, None), (parts[0], parts[1]))
        else:
            candidates = (("/".join(parts[:2]), parts[2]),)
        return cls(candidates, revision or None, split or "train", text_column)

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yields the text of each row and, for messages, the row's place.

        Raises:
            InputError: the dataset, its split or its column does not exist, or the hub cannot be reached.
        """
        rows, identifier = self._open()
        for number, row in enumerate(_guarded(rows, identifier), 1):
            if self.text_column not in row:
                raise InputError(
                    f"{identifier}: no column {self.text_column!r}; the columns are {sorted(row)}; "
                    "set text_column"
                )
            text = row[self.text_column]
            if text is not None and not isinstance(text, str):
                raise InputError(
                    f"{identifier}: column {self.text_column!r} holds {type(text).__name__}, not text"
                )
            if text:
                yield text, f"{identifier}: row {number}"

    def fingerprint(self) -> str:
        """Returns the SHA-256 (hex) of a local directory's files, or of id, configuration, split and commit."""
        path = Path(self.candidates[0][0])
        share = () if self.shard is None else (self.shard,)
        digest = hashlib.sha256(repr((self.split, self.text_column, *share)).encode())
        if path.is_dir():
            for file in sorted(file for file in path.rglob("*") if file.is_file()):
                with file.open("rb") as opened:
                    content = hashlib.file_digest(opened, "sha256").hexdigest()
                digest.update(f"{file.relative_to(path).as_posix()}\0{content}\0".encode())
        else:
            digest.update(repr((self.candidates, self.revision, self._commit())).encode())
        return digest.hexdigest()

    def _open(self) -> tuple[Any, str]:
        """Returns the streamed rows of the first candidate that loads, and its name for messages."""
        import datasets

        failures = []
        for identifier, configuration in self.candidates:
            shown = f"hub:{identifier}" + (f" ({configuration})" if configuration else "")
            try:
                rows = datasets.load_dataset(
                    identifier, configuration, split=self.split, revision=self.revision, streaming=True
                )
            except Exception as error:  # the library raises many types of errors, also builtin ones
                reason = str(error).strip().split("\n")[0] or type(error).__name__
                if isinstance(error, ValueError) and "split" in reason.lower():
                    raise InputError(f"{shown}: {reason}; name a split with #SPLIT") from error
                failures.append(f"{shown}: {reason}")
            else:
                return self._own_rows(rows), shown
        raise InputError("; ".join(failures) + " (a dataset id, or a path that does not exist?)")

    def _own_rows(self, rows: Any) -> Any:
        """Returns the rows of this share: whole files where they can be dealt out evenly, else every so many rows."""
        if self.shard is None:
            return rows
        from datasets.distributed import split_dataset_by_node

        number, count = self.shard
        return split_dataset_by_node(rows, rank=number, world_size=count)

    def _commit(self) -> str | None:
        """Returns the dataset's commit on the hub, or None if the hub does not answer."""
        import huggingface_hub

        for identifier, _ in self.candidates:
            try:
                return (
                    huggingface_hub.HfApi().dataset_info(identifier, revision=self.revision, timeout=10).sha
                )
            except Exception:  # offline, private or renamed: the requested revision has to suffice
                continue
        return None


def _guarded(rows: Any, identifier: str) -> Iterator[dict[str, Any]]:
    """Yields the rows, and turns failures of the network or of a data file into an `InputError`."""
    iterator = iter(rows)
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # an error of the library, of pyarrow or of the network
            raise InputError(f"{identifier}: reading stopped: {type(error).__name__}: {error}") from error
        yield row
