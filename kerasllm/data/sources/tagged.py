"""Reading of sentences with a tag for each word, for named entities, parts of speech and the like.

Four forms are read: CoNLL columns; records of `tokens` and tags in JSONL, Parquet or on the hub; and records of `text`
with character spans, whose words are found by the tokenizer later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard

import numpy as np

from kerasllm.data.sources.conll import read_conll
from kerasllm.data.sources.tables import Column, Table, open_table
from kerasllm.data.sources.tag_schemes import (
    OUTSIDE,
    Scheme,
    count_illegal,
    from_bilou,
    is_iob1,
    scheme_of,
    to_bioes,
    to_iob2,
)
from kerasllm.errors import InputError, short

TagScheme = Literal["auto", "IOB2", "BIOES", "none"]
Splitter = Callable[[str], list[tuple[int, int]]]
"""A function that returns the bounds of the words in a text, as (start, end) in characters."""

_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "tags", "labels", "pos_tags")
_SPANS = ("spans", "entities", "label", "labels")
_TABLES = (".jsonl", ".ndjson", ".json", ".parquet")


@dataclass(frozen=True, eq=False)
class TaggedSentences:
    """Sentences as words, each with a tag.

    Args:
        words: the words of each sentence.
        labels: int32 (all words,), indexes into `label_names`, sentence by sentence.
        label_names: the names of the tags.
        scheme: the scheme of the tags: "IOB2", "BIOES" or "none".
        lines: int64, the line number of each sentence's first word (the row number in Parquet and on the hub).
        source: the file or data set that the sentences come from.
        num_illegal: number of neighboring tags that the scheme does not allow.
        notes: what was found and done, in sentences for the user.
    """

    words: list[tuple[str, ...]]
    labels: np.ndarray
    label_names: tuple[str, ...]
    scheme: Scheme
    lines: np.ndarray
    source: str
    num_illegal: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Returns the number of sentences."""
        return len(self.words)

    def select(self, chosen: np.ndarray) -> TaggedSentences:
        """Returns some of the sentences, by their indices."""
        bounds = np.concatenate([[0], np.cumsum([len(words) for words in self.words])])
        labels = [self.labels[bounds[index] : bounds[index + 1]] for index in chosen]
        return replace(
            self,
            words=[self.words[index] for index in chosen],
            labels=np.concatenate(labels),
            lines=self.lines[chosen],
        )


@dataclass(frozen=True)
class _Sentence:
    words: tuple[str, ...]
    tags: list[str]
    lines: tuple[int, ...]  # one for each word, or one for all


def read_tagged(
    source: str,
    token_column: int | str | None = None,
    label_column: int | str | None = None,
    *,
    scheme: TagScheme = "auto",
    label_names: Sequence[str] | None = None,
    split_words: Splitter | None = None,
    split: str = "train",
) -> TaggedSentences:
    """Reads sentences with a tag for each word.

    IOB1 is converted to IOB2, and BILOU to BIOES.

    Args:
        source: a file of columns as in CoNLL (any suffix but the following; also `.gz`), a `.jsonl` or `.parquet` file
            or `hub:ID` with columns of words and tags, or a `.jsonl` file of texts with character spans:
            `{"text": …, "spans": [{"start": 0, "end": 4, "label": "person"}]}`, or spans as `[0, 4, "person"]`.
        token_column: the column of the words; 0, or "tokens" or "words", by default.
        label_column: the column of the tags, the last, or "ner_tags", "tags" and the like, by default.
        scheme: the scheme of the result; "auto" is that of the file, and "none" takes the tags as they are.
        label_names: the tags of the training data, for validation data, which must have no others.
        split_words: function that divides texts with character spans into words.
        split: the split of a dataset on the hub, if the source names none.

    Raises:
        InputError: the file, a column, a tag or a span is invalid; the message names file and line.
    """
    source = str(source)
    name = source.lower().removesuffix(".gz")
    is_table = source.startswith("hub:") or name.endswith(_TABLES)
    if is_table:
        place, sentences = _from_table(source, token_column, label_column, split_words, split)
    else:
        columns = _number(token_column, 0, "token_column"), _number(label_column, -1, "label_column")

        def place(line: int) -> str:
            return f"{source}:{line}"

        sentences = [
            _Sentence(
                tuple(w.word for w in found), [w.tag or "" for w in found], tuple(w.line for w in found)
            )
            for found in read_conll(source, *columns)
        ]
    if not sentences:
        raise InputError(f"{source}: holds no sentences")
    notes: list[str] = []
    found, tags = _converted([sentence.tags for sentence in sentences], scheme, label_names, notes)
    illegal = count_illegal(tags, found)
    if illegal:
        notes.append(
            f"{illegal:,} tags may not stand where they do in {found}; they begin an entity of their own"
        )
    names = tuple(label_names) if label_names is not None else _names(tags, found)
    if len(names) < 2:
        raise InputError(f"{source}: all words have the tag {names[0]!r}; is --label_column the right one?")
    ids = {tag: index for index, tag in enumerate(names)}
    labels = []
    for sentence, own in zip(sentences, tags, strict=True):
        for index, tag in enumerate(own):
            if tag not in ids:
                line = sentence.lines[index if len(sentence.lines) > 1 else 0]
                raise InputError(
                    f"{place(line)}: tag {tag!r} of {sentence.words[index]!r} does not occur in the training data, "
                    f"whose tags are {', '.join(names)}"
                )
            labels.append(ids[tag])
    return TaggedSentences(
        [sentence.words for sentence in sentences],
        np.array(labels, np.int32),
        names,
        found,
        np.array([sentence.lines[0] for sentence in sentences], np.int64),
        source,
        illegal,
        tuple(notes),
    )


def _number(column: int | str | None, default: int, option: str) -> int:
    """Returns the number of a column in a CoNLL file."""
    try:
        return default if column is None else int(column)
    except ValueError as error:
        raise InputError(
            f"{option} is {column!r}: columns of this form of file have numbers, from 0"
        ) from error


def _converted(
    tags: list[list[str]], scheme: TagScheme, label_names: Sequence[str] | None, notes: list[str]
) -> tuple[Scheme, list[list[str]]]:
    """Returns the scheme of the result and its tags; what was done is added to the notes."""
    if scheme == "none":
        return "none", tags
    found = scheme_of(tag for own in tags for tag in own)
    if found == "none" and label_names is not None:
        found = scheme_of(label_names)  # the sentences may have no entity at all
    if found == "none":
        if scheme != "auto":
            raise InputError(f"tag_scheme {scheme}: the tags are not O, B-… and I-…; leave it out")
        _note_odd_tag(tags, notes)
        return "none", tags
    if found == "BILOU":
        tags = [[from_bilou(tag) for tag in own] for own in tags]
        found = "BIOES"
    if scheme == "auto" and label_names is not None:
        wanted: Scheme = "BIOES" if scheme_of(label_names) == "BIOES" else "IOB2"
    elif scheme == "auto":
        wanted = "BIOES" if found == "BIOES" else "IOB2"
    else:
        wanted = scheme
    iob1 = found == "IOB" and is_iob1(tags)
    if iob1:
        notes.append("the tags are IOB1 and are converted")
    if wanted == "BIOES" and found != "BIOES":
        return wanted, [to_bioes(own) for own in tags]
    if wanted == "IOB2" and (iob1 or found == "BIOES"):
        return wanted, [to_iob2(own) for own in tags]
    return wanted, tags


def _note_odd_tag(tags: list[list[str]], notes: list[str]) -> None:
    """Adds a note if most words have tags of entities, and a tag that is none makes all be judged by accuracy alone."""
    counts = Counter(tag for own in tags for tag in own)
    odd = [tag for tag in counts if scheme_of([tag, "B-X"]) == "none"]
    of_entities = [tag for tag in counts if tag != OUTSIDE and tag not in odd]
    if of_entities and sum(counts[tag] for tag in odd) < 0.5 * counts.total():
        notes.append(
            f"the tags are judged one by one, without entities: {short(odd[0])} is neither {OUTSIDE} nor a prefix and "
            f"a type, as {short(of_entities[0])} is"
        )


def _names(tags: list[list[str]], scheme: Scheme) -> tuple[str, ...]:
    """Returns all tags, sorted; of a scheme also O, and each prefix of every type, which decoding needs."""
    occurring = {tag for own in tags for tag in own}
    if scheme == "none":
        return tuple(sorted(occurring))
    labels = sorted({tag.partition("-")[2] for tag in occurring} - {""})
    prefixes = "BIES" if scheme == "BIOES" else "BI"
    return (OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in prefixes))


def _from_table(
    source: str,
    token_column: int | str | None,
    label_column: int | str | None,
    split_words: Splitter | None,
    split: str,
) -> tuple[Callable[[int], str], list[_Sentence]]:
    """Returns a function that names a row, and the sentences of a table."""
    table = open_table(source, by_index=False, split=split)
    header = table.header or ()
    words = _column(token_column, _WORDS, header)
    if words is None and "text" in header:
        spans = _column(label_column, _SPANS, header)
        if spans is None:
            raise InputError(f"{source}: has 'text', but no column of spans: give label_column")
        if split_words is None:
            raise InputError(f"{source}: holds texts with spans, which need a tokenizer to find the words")
        columns = [Column("text", "text"), Column(spans, "label")]
        return table.place, [
            _from_spans(table, line, values[0], values[1], split_words)
            for line, values in table.rows(columns)
        ]
    tags = _column(label_column, _TAGS, header)
    if words is None or tags is None:
        there = ", ".join(map(repr, header[:20]))
        raise InputError(
            f"{source}: no column of {'words' if words is None else 'tags'}; give "
            f"{'token_column' if words is None else 'label_column'}. Its columns: {there}"
        )
    names = table.class_names.get(tags)
    columns = [Column(words, "text"), Column(tags, "label")]
    return table.place, [
        _from_words(table, line, values[0], values[1], names) for line, values in table.rows(columns)
    ]


def _column(given: int | str | None, usual: Sequence[str], header: Sequence[str]) -> str | None:
    """Returns the column that is given, or the first of the usual ones that is there."""
    if given is not None:
        return str(given)
    return next((name for name in usual if name in header), None)


def _from_words(table: Table, line: int, words: Any, tags: Any, names: Sequence[str] | None) -> _Sentence:
    """Returns the sentence of a row with lists of words and tags."""
    place = table.place(line)
    for what, values in (("words", words), ("tags", tags)):
        if not isinstance(values, list) or not values:
            raise InputError(
                f"{place}: the {what} are {short(values)}, they must be a list with an entry a word"
            )
    if len(words) != len(tags):
        raise InputError(f"{place}: {len(words)} words and {len(tags)} tags")
    for word in words:
        if not isinstance(word, str):
            raise InputError(f"{place}: a word is {short(word)}, it must be text")
    return _Sentence(tuple(words), [_tag(tag, names, place) for tag in tags], (line,))


def _tag(tag: Any, names: Sequence[str] | None, place: str) -> str:
    """Returns the name of a tag."""
    if isinstance(tag, str) and tag.strip():
        return tag.strip()
    if isinstance(tag, int) and not isinstance(tag, bool):
        if names is None:
            return str(tag)
        if 0 <= tag < len(names):
            return names[tag]
        raise InputError(f"{place}: tag {tag} is not an id of the {len(names)} tags")
    raise InputError(f"{place}: a tag is {short(tag)}, it must be a name or an id")


def _from_spans(table: Table, line: int, text: Any, spans: Any, split_words: Splitter) -> _Sentence:
    """Returns the sentence of a row with a text and character spans; a word belongs to the span that it meets."""
    place = table.place(line)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{place}: the text is {short(text)}, it must be text with words")
    bounds = split_words(text)
    if not bounds:
        raise InputError(f"{place}: the tokenizer finds no word in the text {short(text)}")
    if spans is not None and not isinstance(spans, list):
        raise InputError(
            f'{place}: the spans are {short(spans)}, they must be a list, as in [[0, 4, "person"]]'
        )
    tags = [OUTSIDE] * len(bounds)
    ends = 0
    for start, end, label in sorted(_span(span, text, place) for span in (() if spans is None else spans)):
        if start < ends:
            raise InputError(f"{place}: the span from {start} to {end} overlaps with the one before it")
        ends = end
        inside = [index for index, word in enumerate(bounds) if word[0] < end and start < word[1]]
        if not inside:
            raise InputError(f"{place}: the span from {start} to {end} holds no word: {text[start:end]!r}")
        for index in inside:
            if tags[index] == OUTSIDE:
                tags[index] = f"{'B' if index == inside[0] else 'I'}-{label}"
    return _Sentence(tuple(text[start:end] for start, end in bounds), tags, (line,))


def _span(span: Any, text: str, place: str) -> tuple[int, int, str]:
    """Returns the start, end and label of a span."""
    if isinstance(span, Mapping):
        values = [span.get(name) for name in ("start", "end", "label")]
    else:
        values = list(span) if isinstance(span, list | tuple) else []
    start, end, label = values if len(values) == 3 else ("", "", "")
    if not (_is_whole(start) and _is_whole(end) and isinstance(label, str) and label):
        raise InputError(f"{place}: a span is {short(span)}, it must have a start, an end and a label")
    if not 0 <= start < end <= len(text):
        raise InputError(
            f"{place}: the span from {start} to {end} lies outside the text of {len(text)} characters"
        )
    return start, end, label


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
