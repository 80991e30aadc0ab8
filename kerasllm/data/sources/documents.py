"""Reading of documents and queries for retrieval.

A file is in SMART's form (`.I`, `.T`, `.W`, as of Cranfield), in TREC's (`<DOC>`, `<top>`), JSON Lines of `id`, `text`
and `title`, or a TSV of id, text and, optionally, title. A directory of text files is cut into overlapping passages,
each of which knows its file and place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kerasllm.data.sources.lines import text_lines
from kerasllm.errors import InputError, short
from kerasllm.files.hashes import file_hash
from kerasllm.tokenizers.cutting import without_surrogates

_TEXT_SUFFIXES = (".txt", ".md", ".rst", ".text")
_SMART_FIELD = re.compile(r"\.([A-Z])(?:\s+(.*))?")
_IDS, _TEXTS = ("id", "_id", "docno", "query_id", "qid"), ("text", "contents", "body", "query", "question")
_WORD = re.compile(r"\S+")
_SPACE = re.compile(r"\s")


@dataclass(frozen=True)
class Passage:
    """A document, a passage of one, or a query.

    Args:
        id: the name, unique in its collection.
        text: the text, which begins with the title if there is one.
        file: the file of a passage that was cut from one, otherwise empty.
        start: the place of its first character in that file.
        end: the place after its last character.
    """

    id: str
    text: str
    file: str = ""
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class Cutting:
    """How files of text are cut into passages.

    Args:
        words: the most words of a passage.
        overlap: words that neighboring passages share.
    """

    words: int = 150
    overlap: int = 30


def read_documents(source: str | Path, cutting: Cutting | None = None) -> list[Passage]:
    """Reads a collection of documents.

    Args:
        source: a file, or a directory of text files.
        cutting: how the text files of a directory are cut.

    Raises:
        InputError: there is no such file, it is damaged, or two documents have the same id.
    """
    path = Path(source)
    if not path.is_dir():
        return _unique(str(source), _records(str(source)))
    passages: list[Passage] = []
    for file in text_files(path):
        name = file.relative_to(path).as_posix()
        text = "".join(line for _, line in text_lines(str(file)))
        passages += cut_passages(text, name, cutting or Cutting())
    if not passages:
        raise InputError(f"{source}: holds no text in files {', '.join(_TEXT_SUFFIXES)}")
    return passages


def read_queries(source: str | Path) -> list[Passage]:
    """Reads queries; those of a file in SMART's form are numbered by position, from 1, as its judgements number them.

    Args:
        source: a file as for `read_documents`, or a TREC file of topics (`<top>`), of which the title counts.

    Raises:
        InputError: as for `read_documents`, or a query is empty.
    """
    found = _records(str(source), by_position=True)
    queries = _unique(str(source), found)
    for query in queries:
        if not query.text.strip():
            raise InputError(f"{source}: query {query.id!r} is empty: remove it")
    return queries


def text_files(directory: Path) -> list[Path]:
    """Returns the text files in a directory and the directories in it, sorted, without hidden ones."""
    return sorted(
        path
        for path in directory.rglob("*")
        if path.suffix.lower() in _TEXT_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )


def cut_passages(text: str, file: str, cutting: Cutting) -> Iterator[Passage]:
    """Yields the overlapping passages of a text; its last passage is as long as the others.

    Args:
        text: the text.
        file: the name of its file; a passage's id is that and a number, "guide.txt#3", with "%20" for a space, as ids
            in files of results end at one.
        cutting: how it is cut.

    Raises:
        InputError: the overlap is not smaller than a passage.
    """
    if not 0 <= cutting.overlap < cutting.words:
        raise InputError(
            f"the overlap of passages is {cutting.overlap} words, it must be below the {cutting.words} of a passage"
        )
    words = [found.span() for found in _WORD.finditer(text)]
    name = _SPACE.sub(lambda found: quote(found.group()), file)
    start = number = 0
    while words:
        number += 1
        if start + cutting.words >= len(words):
            start = max(0, len(words) - cutting.words)
        last = min(start + cutting.words, len(words)) - 1
        first, end = words[start][0], words[last][1]
        yield Passage(f"{name}#{number}", text[first:end], file, first, end)
        if last == len(words) - 1:
            return
        start += cutting.words - cutting.overlap


def fingerprint(source: str | Path) -> dict[str, str]:
    """Returns the SHA-256 of each file of a collection, by its path within the directory, or by its name.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    path = Path(source)
    files = text_files(path) if path.is_dir() else [path]
    return {
        file.relative_to(path).as_posix() if path.is_dir() else file.name: file_hash(file) for file in files
    }


def _unique(source: str, found: Iterator[tuple[int, Passage]]) -> list[Passage]:
    """Returns the passages, after checking that there are some and that their ids differ."""
    lines: dict[str, int] = {}
    passages = []
    for line, passage in found:
        before = lines.setdefault(passage.id, line)
        if before != line or any(c.isspace() for c in passage.id) or not passage.id:
            fault = f"is that of line {before}, too" if before != line else "is empty or has a space"
            raise InputError(
                f"{source}:{line}: the id {short(passage.id)} {fault}; ids must differ, without spaces"
            )
        passages.append(passage)
    if not passages:
        raise InputError(f"{source}: holds no documents")
    return passages


def _records(source: str, by_position: bool = False) -> Iterator[tuple[int, Passage]]:
    """Yields the line and the content of each record of a file."""
    name = source.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson", ".json")):
        yield from _json_records(source)
        return
    lines = text_lines(source)
    for number, line in lines:
        if not line.strip():
            continue
        if line.startswith(".I"):
            yield from _smart_records(source, by_position)
        elif line.lstrip().lower().startswith(("<doc>", "<top>")):
            yield from _trec_records(source)
        elif "\t" in line:
            yield from _tsv_records(source)
        else:
            raise InputError(
                f"{source}:{number}: begins with {short(line.strip())}; documents and queries are JSON Lines "
                "(.jsonl), lines of id, tab and text, or in SMART's or TREC's form"
            )
        return


def _joined(title: str, text: str) -> str:
    """Returns a text with its title before it, unless it begins with it."""
    return text if not title or text.startswith(title) else f"{title}\n{text}".rstrip()


def _json_records(source: str) -> Iterator[tuple[int, Passage]]:
    for number, line in text_lines(source):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source}:{number}: not JSON: {getattr(error, 'msg', error)}") from error
        if not isinstance(record, dict):
            raise InputError(f"{source}:{number}: holds {short(record)}, it must be an object of id and text")
        name = _field(record, _IDS, f"{source}:{number}", "id")
        text = _field(record, _TEXTS, f"{source}:{number}", "text")
        title = record.get("title") or ""
        if isinstance(name, bool) or not isinstance(name, str | int) or not isinstance(text, str):
            raise InputError(f"{source}:{number}: id and text are {short(name)} and {short(text)}, not texts")
        title = title if isinstance(title, str) else str(title)
        yield number, Passage(without_surrogates(str(name)), without_surrogates(_joined(title, text)))


def _field(record: dict[str, Any], names: tuple[str, ...], place: str, purpose: str) -> Any:
    for name in names:
        if name in record:
            return record[name]
    raise InputError(
        f"{place}: no {purpose} ({', '.join(names)}), only {', '.join(map(repr, record)) or 'nothing'}"
    )


def _tsv_records(source: str) -> Iterator[tuple[int, Passage]]:
    for number, line in text_lines(source):
        if not line.strip():
            continue
        fields = line.rstrip("\r\n").split("\t")
        if number == 1 and fields[0].strip().lower() in _IDS:
            continue  # a header
        if not 2 <= len(fields) <= 3:
            raise InputError(
                f"{source}:{number}: has {len(fields)} fields, it must have id, text and perhaps title"
            )
        title = fields[2].strip() if len(fields) == 3 else ""
        yield number, Passage(fields[0].strip(), _joined(title, fields[1].strip()))


def _smart_records(source: str, by_position: bool) -> Iterator[tuple[int, Passage]]:
    """Yields the records of SMART's form: `.I 1`, then fields that begin with a line such as `.T` or `.W`."""
    fields: dict[str, list[str]] = {}
    start = count = 0
    own = field = ""

    def record() -> Passage:
        joined = {name: " ".join(" ".join(lines).split()) for name, lines in fields.items()}
        return Passage(str(count) if by_position else own, _joined(joined.get("T", ""), joined.get("W", "")))

    for number, line in text_lines(source):
        found = _SMART_FIELD.fullmatch(line.rstrip())
        if found and found[1] == "I":
            if count:
                yield start, record()
            own, start, count, fields, field = (found[2] or "").strip(), number, count + 1, {}, ""
        elif found and not found[2]:
            field = found[1]
            fields.setdefault(field, [])
        elif field:
            fields[field].append(line)
        elif line.strip():
            raise InputError(f"{source}:{number}: text before a field such as .W: {short(line.strip())}")
    if count:
        yield start, record()


_TREC_RECORD = re.compile(r"<(doc|top)>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_TREC_ID = re.compile(r"<docno>\s*(.*?)\s*</docno>|<num>\s*(?:number:)?\s*(\S+)", re.IGNORECASE | re.DOTALL)
_TREC_TITLE = re.compile(r"<title>\s*(?:topic:)?\s*(.*?)\s*(?=<|\Z)", re.IGNORECASE | re.DOTALL)
_TREC_TEXT = re.compile(r"<text>(.*?)</text>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^<>]*>")


def _trec_records(source: str) -> Iterator[tuple[int, Passage]]:
    """Yields the records of TREC's form: `<DOC>` with `<DOCNO>` and `<TEXT>`, or `<top>` with `<num>` and `<title>`."""
    whole = "".join(line for _, line in text_lines(source))
    line, before = 1, 0
    for found in _TREC_RECORD.finditer(whole):
        line += whole.count("\n", before, found.start())
        before = found.start()
        name = _TREC_ID.search(found[2])
        if not name:
            raise InputError(f"{source}:{line}: a record without <DOCNO> or <num>")
        title = _TREC_TITLE.search(found[2])
        texts = [" ".join(_TAG.sub(" ", text).split()) for text in _TREC_TEXT.findall(found[2])]
        shown = " ".join(title[1].split()) if title else ""
        yield line, Passage(name[1] or name[2] or "", _joined(shown, " ".join(texts)))
    if _TREC_RECORD.sub("", whole).strip():
        raise InputError(f"{source}: a <DOC> or <top> does not end; the file is damaged")
