"""The tokenizers of an encoder-decoder: byte-level BPE or Unigram of both sides, with tokens for end and padding.

Source and target have one table of ids. Their texts are divided by one tokenizer, or by one each; that of the targets
is then remembered with that of the sources, and saved beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from kerasllm.errors import InputError
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.special_tokens import END_OF_TEXT, remember_roles
from kerasllm.tokenizers.unigram import train_unigram

END, PADDING = "</s>", "<pad>"

Kind = Literal["byte_level_bpe", "unigram"]

_NEVER = -1e4
"""Score of a piece of the other side, and of tokens that are found before the text is divided into pieces."""

_targets: WeakKeyDictionary[Tokenizer, Tokenizer] = WeakKeyDictionary()


def remember_target_tokenizer(tokenizer: Tokenizer, of_targets: Tokenizer) -> None:
    """Remembers the tokenizer of the targets, where it is not that of the sources.

    Args:
        tokenizer: the tokenizer of the sources.
        of_targets: that of the targets, with the same ids.

    Raises:
        InputError: the numbers of ids differ.
    """
    sizes = [some.get_vocab_size() for some in (tokenizer, of_targets)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"the tokenizers of source and target have {sizes[0]} and {sizes[1]} tokens; they share one table of ids"
        )
    _targets[tokenizer] = of_targets


def target_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """Returns the tokenizer of the targets, which is that of the sources unless another one is remembered."""
    return _targets.get(tokenizer, tokenizer)


def train_joint_tokenizer(
    texts: Iterable[str], vocabulary_size: int, *, kind: Kind = "byte_level_bpe", tags: Sequence[str] = ()
) -> Tokenizer:
    """Trains one tokenizer for source and target; deterministic.

    A text is encoded as if a space stood before it, so that its first word has the tokens that it has elsewhere. Id 0
    is `</s>`, which ends each text; then come the pieces, those of BPE in the order of its merges and those of Unigram
    by their probabilities, the tags, and `<pad>` as the last id, as CTranslate2 expects it.

    Args:
        texts: the texts of both sides, which are read once.
        vocabulary_size: the largest size of the vocabulary.
        kind: byte-level BPE, or Unigram over the same letters.
        tags: further tokens that are never divided, such as `>>de<<` for the language of a target.

    Raises:
        InputError: the vocabulary cannot hold the bytes, or the texts are empty.
    """
    extra = _check_size(vocabulary_size, tags)
    pieces, settings = _TRAINING[kind](texts, vocabulary_size - extra)
    return _assemble(pieces, settings, tags)


def train_separate_tokenizers(
    sources: Iterable[str],
    targets: Iterable[str],
    vocabulary_size: int,
    *,
    kind: Kind = "byte_level_bpe",
    tags: Sequence[str] = (),
) -> Tokenizer:
    """Trains a tokenizer for each side, and gives their pieces ids in one table; deterministic.

    Each has half of the pieces beside the bytes; those that both have stand in the table once. The tokenizer of the
    targets is remembered with the returned one, see `target_tokenizer`.

    Args:
        sources: the source texts, which are read once.
        targets: the target texts.
        vocabulary_size, kind, tags: see `train_joint_tokenizer`.

    Raises:
        InputError: see `train_joint_tokenizer`.
    """
    extra = _check_size(vocabulary_size, tags)
    size = 257 + (vocabulary_size - extra - 257) // 2
    trained = [_TRAINING[kind](texts, size) for texts in (sources, targets)]
    pieces = list(dict.fromkeys(piece for own, _ in trained for piece in own))
    source, target = (_assemble(pieces, settings, tags) for _, settings in trained)
    remember_target_tokenizer(source, target)
    return source


def _check_size(vocabulary_size: int, tags: Sequence[str]) -> int:
    """Returns the number of tokens besides the pieces and the end mark; refuses too small a vocabulary."""
    extra = 1 + len(tags)  # besides the end mark, for which `_TRAINING` leaves room
    if vocabulary_size - extra <= 256:
        raise InputError(
            f"vocabulary_size {vocabulary_size} is too small: 256 bytes, {END}, {PADDING} and {len(tags)} tags make "
            f"{257 + extra} tokens; choose at least that many"
        )
    return extra


def _train_bpe(texts: Iterable[str], size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the bytes and merged pieces of a byte-level BPE in the order of their ids, and the merges."""
    trained = train_byte_level_bpe((f" {text}" for text in texts), size)
    model = json.loads(trained.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    pieces.remove(END_OF_TEXT)
    return pieces, [(left, right) for left, right in model["merges"]]


def _train_unigram(texts: Iterable[str], size: int) -> tuple[list[str], dict[str, float]]:
    """Returns the pieces of a Unigram model, the likeliest first, and their scores."""
    scores = dict(train_unigram((f" {text}" for text in texts), size - 1))
    return list(scores), scores


_TRAINING: Mapping[str, Any] = {"byte_level_bpe": _train_bpe, "unigram": _train_unigram}


def _assemble(
    pieces: Sequence[str], settings: list[tuple[str, str]] | dict[str, float], tags: Sequence[str]
) -> Tokenizer:
    """Returns the tokenizer of some pieces, which have their ids by their order, and of merges of them or scores."""
    names = [END, *pieces, *tags, PADDING]
    vocabulary = {name: number for number, name in enumerate(names)}
    if len(vocabulary) != len(names):
        raise InputError(f"tags {' '.join(tags)}: each must be there once, and be no piece of the vocabulary")
    if isinstance(settings, dict):
        tokenizer = Tokenizer(models.Unigram([(name, settings.get(name, _NEVER)) for name in names]))
    else:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=settings))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, vocabulary[END])]
            ),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (END, *tags, PADDING)])
    remember_roles(tokenizer, {"eos_token": END, "pad_token": PADDING})
    return tokenizer


def decode_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Returns the text of a target's token ids, without special tokens and the space before the first word."""
    return target_tokenizer(tokenizer).decode([int(token) for token in ids], skip_special_tokens=True).strip()
