"""Schemes of tags for named entities, and the entities that a sequence of tags holds.

IOB2 begins each entity with `B-`, IOB1 only one that directly follows another of its type, and BIOES also marks the
last word (`E-`) and single words (`S-`). `L-` and `U-` of BILOU are read as `E-` and `S-`.

References: Ramshaw and Marcus 1995, https://aclanthology.org/W95-0107 (IOB1); Ratnaparkhi 1998 (IOB2); Ratinov and Roth
2009, https://aclanthology.org/W09-1119 (BIOES).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Scheme = Literal["IOB2", "BIOES", "none"]
OUTSIDE = "O"
_PREFIXES = frozenset("BIES")
_BILOU = {"L": "E", "U": "S"}


class Entity(NamedTuple):
    """An entity within a sentence.

    Args:
        label: its type.
        first: the index of its first word.
        last: the index of its last word.
    """

    label: str
    first: int
    last: int


def split_tag(tag: str) -> tuple[str, str]:
    """Returns the prefix and the type of a tag: `("B", "person")` for `B-person`, `("O", "")` for `O`."""
    prefix, _, label = tag.partition("-")
    return prefix, label


def scheme_of(tags: Iterable[str]) -> Literal["IOB", "BIOES", "BILOU", "none"]:
    """Returns the scheme of a set of tags; "none" if one of them is neither `O` nor a prefix and a type.

    Args:
        tags: all tags that occur.
    """
    prefixes = set()
    for tag in set(tags) - {OUTSIDE}:
        prefix, label = split_tag(tag)
        if not label or prefix not in _PREFIXES | set(_BILOU):
            return "none"
        prefixes.add(prefix)
    if not prefixes:
        return "none"
    if prefixes & set(_BILOU):
        return "BILOU"
    return "BIOES" if prefixes & {"E", "S"} else "IOB"


def is_iob1(sentences: Iterable[Sequence[str]]) -> bool:
    """Returns whether tags are in IOB1: some entity begins with `I-`, and each `B-` directly follows its own type.

    Args:
        sentences: the tags of each sentence, with the prefixes `B` and `I` alone.
    """
    begins_with_inside = False
    for tags in sentences:
        before = OUTSIDE
        for tag in tags:
            prefix, label = split_tag(tag)
            follows = split_tag(before)[1] == label
            if prefix == "B" and not follows:
                return False
            begins_with_inside |= prefix == "I" and not follows
            before = tag
    return begins_with_inside


def entities(tags: Sequence[str]) -> list[Entity]:
    """Returns the entities of a sentence by the lenient rule of conlleval and seqeval, for IOB1, IOB2 and BIOES.

    A tag that continues nothing, such as `I-` behind `O` or behind another type, begins an entity.

    Args:
        tags: the tags of its words.

    Reference: Tjong Kim Sang and Buchholz 2000, https://aclanthology.org/W00-0726 (conlleval).
    """
    found: list[Entity] = []
    first = 0
    before, kind = OUTSIDE, ""
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, label = split_tag(tag)
        continues = before in ("B", "I") and prefix in ("I", "E") and label == kind
        if before != OUTSIDE and not continues:
            found.append(Entity(kind, first, index - 1))
        if prefix != OUTSIDE and not continues:
            first = index
        before, kind = prefix, label
    return found


def strict_entities(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """Returns only the entities that are well formed: IOB2's begin with `B-`, BIOES' also end with `E-` or are `S-`.

    Args:
        tags: the tags of a sentence's words.
        scheme: "IOB2" or "BIOES".
    """
    found = []
    for entity in _runs(tags):
        first, last = split_tag(tags[entity.first])[0], split_tag(tags[entity.last])[0]
        single = entity.first == entity.last and first == "S"
        if scheme == "IOB2" or single or (first == "B" and last == "E"):
            found.append(entity)
    return found


def _runs(tags: Sequence[str]) -> list[Entity]:
    """Returns each run that begins with `B-` or `S-` and goes on with `I-` and `E-` of the same type."""
    found = []
    index = 0
    while index < len(tags):
        prefix, label = split_tag(tags[index])
        last = index
        if prefix in ("B", "S"):
            while prefix in ("B", "I") and last + 1 < len(tags):
                following, other = split_tag(tags[last + 1])
                if following not in ("I", "E") or other != label:
                    break
                prefix, last = following, last + 1
            found.append(Entity(label, index, last))
        index = last + 1
    return found


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Returns a sentence's tags in IOB2, with the entities of `entities`.

    Args:
        tags: the tags in IOB1, IOB2 or BIOES.
    """
    written = [OUTSIDE] * len(tags)
    for label, first, last in entities(tags):
        written[first : last + 1] = [f"B-{label}"] + [f"I-{label}"] * (last - first)
    return written


def to_bioes(tags: Sequence[str]) -> list[str]:
    """Returns a sentence's tags in BIOES, with the entities of `entities`; see `to_iob2`."""
    written = [OUTSIDE] * len(tags)
    for label, first, last in entities(tags):
        inside = [f"I-{label}"] * (last - first - 1)
        written[first : last + 1] = [f"S-{label}"] if first == last else [f"B-{label}", *inside, f"E-{label}"]
    return written


def from_bilou(tag: str) -> str:
    """Returns a tag of BILOU in BIOES."""
    prefix, _, label = tag.partition("-")
    return f"{_BILOU[prefix]}-{label}" if prefix in _BILOU and label else tag


def may_follow(before: str | None, after: str | None, scheme: Scheme) -> bool:
    """Returns whether one tag may stand before another.

    Args:
        before: the first tag; None for the beginning of a sentence.
        after: the second tag; None for the end of a sentence.
        scheme: the scheme; with "none" everything is legal.
    """
    if scheme == "none":
        return True
    prefix, label = split_tag(before or OUTSIDE)
    following, other = split_tag(after or OUTSIDE)
    continues = following in ("I", "E")
    if continues and (prefix not in ("B", "I") or other != label):
        return False
    must_continue = scheme == "BIOES" and prefix in ("B", "I")
    return continues or not must_continue


def count_illegal(sentences: Iterable[Sequence[str]], scheme: Scheme) -> int:
    """Returns the number of neighbors that the scheme does not allow, beginnings and ends of sentences included."""
    total = 0
    for tags in sentences:
        pairs = zip([None, *tags], [*tags, None], strict=True)
        total += sum(not may_follow(before, after, scheme) for before, after in pairs)
    return total
