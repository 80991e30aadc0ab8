"""Reads the tokenizer of a Marian model: SentencePiece models of source and target, and their common vocabulary.

The directories of the OPUS-MT models hold `source.spm`, `target.spm` and `vocab.json`: two Unigram models, whose
pieces have their ids in one table.

Reference: Kudo 2018, https://arxiv.org/abs/1804.10959 (Unigram); Tiedemann and Thottingal 2020,
https://aclanthology.org/2020.eamt-1.61 (OPUS-MT).
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from kerasllm.errors import InputError, InputWarning, counted, require
from kerasllm.tokenizers.parallel import END, PADDING, remember_target_tokenizer

SOURCE, TARGET, VOCABULARY = "source.spm", "target.spm", "vocab.json"
_UNKNOWN = "<unk>"
# A piece that this side's model lacks is found by Marian where the model knows none of its characters, since what is
# unknown is looked up as it stands. It has a low score then; all others get a mark that no text has. (Beside another
# unknown character Marian finds no such piece, and here it is found.)
_SCORE_OF_THE_OTHER_SIDE, _MARK = -1e6, "\ufdd0"
_TAG = re.compile(r">>.+<<")


def has_marian_tokenizer(directory: Path) -> bool:
    """Returns whether a directory holds the three files of a Marian model's tokenizer."""
    return all((directory / name).is_file() for name in (SOURCE, TARGET, VOCABULARY))


def read_marian(directory: Path) -> Tokenizer:
    """Returns the tokenizer of the sources; that of the targets is remembered with it.

    Args:
        directory: the directory of the three files.

    Raises:
        InputError: sentencepiece is not installed, or a file is not what it should be.
    """
    path = directory / VOCABULARY
    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))
        names = sorted(vocabulary, key=vocabulary.__getitem__)
        complete = [vocabulary[name] for name in names] == list(range(len(names)))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a vocabulary, an object of pieces and their ids ({error})") from error
    missing = [name for name in (END, _UNKNOWN, PADDING) if name not in vocabulary]
    if missing or not complete:
        problem = (
            f"lacks {' and '.join(missing)}" if missing else "has ids that do not go from 0 without a gap"
        )
        raise InputError(f"{path}: {problem}; it is not the vocabulary of a Marian model")
    source, target = (_tokenizer(directory / name, vocabulary, names) for name in (SOURCE, TARGET))
    remember_target_tokenizer(source, target)
    return source


def _tokenizer(path: Path, vocabulary: Mapping[str, int], names: list[str]) -> Tokenizer:
    """Returns the tokenizer of one side."""
    description = _read_description(path)
    if description.trainer_spec.model_type != 1:
        raise InputError(f"{path}: not a Unigram model of SentencePiece, the kind that Marian models have")
    scores = {piece.piece: piece.score for piece in description.pieces if piece.type in (1, 4)}
    strange = len(scores.keys() - vocabulary.keys())
    if strange:
        warnings.warn(
            f"{path}: {counted(strange, 'piece')} of {len(scores):,} are not in {VOCABULARY}; texts with them are "
            "divided into others",
            InputWarning,
            stacklevel=2,
        )
    special = [END, _UNKNOWN, PADDING, *(name for name in names if _TAG.fullmatch(name))]
    known = {letter for piece in scores for letter in piece}
    pieces = []
    for name in names:
        found = name in scores or name in special or known.isdisjoint(name)
        pieces.append((name if found else _MARK + name, float(scores.get(name, _SCORE_OF_THE_OTHER_SIDE))))
    tokenizer = Tokenizer(models.Unigram(pieces, vocabulary[_UNKNOWN], byte_fallback=False))
    rules: list[Any] = []
    if description.normalizer_spec.precompiled_charsmap:
        rules.append(normalizers.Precompiled(description.normalizer_spec.precompiled_charsmap))
    if description.normalizer_spec.remove_extra_whitespaces:
        rules += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(rules)
    scheme: Any = "always" if description.normalizer_spec.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, vocabulary[END])]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return tokenizer


def _read_description(path: Path) -> Any:
    """Returns the content of a SentencePiece model."""
    require(f"{path}: reading a SentencePiece model", "sentencepiece", "sentencepiece", "google.protobuf")
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2 as protocol

    description = vars(protocol)["ModelProto"]()  # made as the module is imported
    try:
        description.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path}: not a SentencePiece model, or a damaged one ({error})") from error
    if not description.pieces:
        raise InputError(f"{path}: a SentencePiece model without pieces")
    return description
