"""Encoding of pairs of texts to token ids: a source and a target, each ended by the end token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.sources.parallel import TAG, ParallelTexts
from kerasllm.errors import InputError
from kerasllm.tokenizers.parallel import target_tokenizer

_CHUNK = 4096  # texts that the tokenizer gets at a time


@dataclass(frozen=True, eq=False)
class EncodedPairs:
    """Pairs of token sequences in flat arrays.

    Args:
        source_ids: int32 (tokens,), the sources one after another, each with its end token.
        source_offsets: int64 (pairs + 1,), where the sources begin, and the end of the last one.
        target_ids, target_offsets: likewise for the targets.
        pad_id: the padding token, with which a target begins for the decoder.
        left_out: number of pairs that were left out, by reason.
        num_cut: number of texts that were cut to the longest length.
    """

    source_ids: np.ndarray
    source_offsets: np.ndarray
    target_ids: np.ndarray
    target_offsets: np.ndarray
    pad_id: int
    left_out: dict[str, int]
    num_cut: int

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.source_offsets) - 1

    @property
    def source_lengths(self) -> np.ndarray:
        """The number of tokens of each source, int64 (pairs,)."""
        return np.diff(self.source_offsets)

    @property
    def target_lengths(self) -> np.ndarray:
        """The number of tokens of each target, int64 (pairs,)."""
        return np.diff(self.target_offsets)


@dataclass(frozen=True)
class PairFilter:
    """Which pairs are left out of training.

    Args:
        max_length: the most tokens of a source, and of a target, with the end token.
        max_ratio: the most that one side may be longer than the other, as a factor; 0 for no limit. Pairs of fewer
            than ten tokens are not compared.
        cut: whether longer texts are cut, instead of left out.
        strict: whether a longer text is refused.
    """

    max_length: int
    max_ratio: float = 0.0
    cut: bool = False
    strict: bool = False


def encode_pairs(
    texts: ParallelTexts, tokenizer: Tokenizer, *, end_id: int, pad_id: int, rule: PairFilter
) -> EncodedPairs:
    """Returns pairs of texts as tokens.

    Args:
        texts: the pairs.
        tokenizer: the tokenizer of the sources, which is not changed; see `target_tokenizer`.
        end_id: the token that ends a source and a target.
        pad_id: the padding token.
        rule: which pairs are left out.

    Raises:
        InputError: a text is too long and the rule is strict, or no pair is left.
    """
    if rule.max_length < 2:
        raise InputError(f"max_length is {rule.max_length}: there must be room for a token and the end token")
    sources = encode_side(texts.sources, tokenizer, end_id)
    targets = encode_side(texts.targets, target_tokenizer(tokenizer), end_id)
    longest, cut = rule.max_length, 0
    left_out = dict(texts.left_out)
    kept_sources: list[np.ndarray] = []
    kept_targets: list[np.ndarray] = []
    for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1):
        reason = ""
        if max(len(source), len(target)) > longest:
            if rule.strict:
                side, ids = ("source", source) if len(source) > longest else ("target", target)
                raise InputError(
                    f"{texts.place}: the {side} of pair {number} has {len(ids)} tokens, the longest may have "
                    f"{longest}: shorten it, or leave out --strict"
                )
            if rule.cut:
                cut += (len(source) > longest) + (len(target) > longest)
                source, target = (_cut(ids, longest, end_id) for ids in (source, target))
            else:
                reason = f"of more than {longest} tokens"
        lengths = sorted((len(source) - 1, len(target) - 1))
        if not reason and rule.max_ratio and lengths[1] >= 10 and lengths[1] > rule.max_ratio * lengths[0]:
            reason = f"with one side more than {rule.max_ratio:g} times as long"
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        kept_sources.append(source)
        kept_targets.append(target)
    if not kept_sources:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise InputError(
            f"{texts.place}: no pair is left, {reasons}: raise --max_length, or --max_ratio (0 for any)"
        )
    return EncodedPairs(*_flat(kept_sources), *_flat(kept_targets), pad_id, left_out, cut)


def encode_side(texts: Sequence[str], tokenizer: Tokenizer, end_id: int) -> list[np.ndarray]:
    """Returns the token ids of texts, int32 (length,) each, with the end token last.

    Tags of languages are the only other special tokens: `</s>` within a text is text, and does not end it.
    """
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_padding()
    own.no_truncation()
    special = {
        token.content: number for number, token in own.get_added_tokens_decoder().items() if token.special
    }
    tags = {name: number for name, number in special.items() if TAG.fullmatch(name)}
    end = np.array([end_id], np.int32)
    found = []
    for start in range(0, len(texts), _CHUNK):
        chunk = list(texts[start : start + _CHUNK])
        for text, encoding in zip(chunk, own.encode_batch(chunk, add_special_tokens=False), strict=True):
            misread = any(name in text for name in special.keys() - tags.keys())
            ids = _plain_ids(own, text, tags) if misread else encoding.ids
            found.append(np.concatenate([np.array(ids, np.int32), end]))
    return found


def _plain_ids(tokenizer: Tokenizer, text: str, tags: Mapping[str, int]) -> list[int]:
    """Returns the token ids of a text in which no name but that of a tag at its beginning is a special token."""
    tag = next((name for name in tags if text.startswith(name)), "")
    tokenizer.encode_special_tokens = True
    try:
        ids = tokenizer.encode(text.removeprefix(tag), add_special_tokens=False).ids
    finally:
        tokenizer.encode_special_tokens = False
    return [tags[tag], *ids] if tag else ids


def _cut(ids: np.ndarray, longest: int, end_id: int) -> np.ndarray:
    """Returns the first tokens of a text, with the end token last."""
    return ids if len(ids) <= longest else np.append(ids[: longest - 1], np.int32(end_id))


def _flat(sequences: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns sequences one after another, and where they begin."""
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in sequences], dtype=np.int64)])
    return np.concatenate(sequences), offsets
