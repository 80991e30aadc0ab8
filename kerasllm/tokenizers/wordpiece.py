"""WordPiece as in BERT, trained so that the same text always gives the same vocabulary.

The trainer of the `tokenizers` library numbers the pieces of one character in the order of a hash map, which
changes from run to run, and breaks ties between merges by these numbers. So two runs on the same text give
vocabularies that differ in order and even in content. Here the alphabet is collected first and passed to the trainer
in a fixed order, and the tokenizer is then built from the vocabulary alone.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from kerasllm.errors import InputError
from kerasllm.tokenizers.settings import bert_normalizer, check_bert_settings
from kerasllm.tokenizers.stripped_marks import warn_of_stripped_marks
from kerasllm.tokenizers.training_texts import training_texts

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CONTINUATION = "##"
_ALPHABET_LIMIT = 1000
_TEXT_LIMIT = 100_000  # characters that the normalizer gets at a time


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of BERT's five special tokens.

    Args:
        pad: [PAD], which fills a sequence up to the length of the batch.
        unknown: [UNK], which stands for a word that the vocabulary cannot spell.
        cls: [CLS], which begins a sequence, and whose output represents it.
        sep: [SEP], which ends each segment.
        mask: [MASK], which replaces a masked token.
    """

    pad: int
    unknown: int
    cls: int
    sep: int
    mask: int


def train_wordpiece(
    texts: Iterable[str], vocabulary_size: int, *, lowercase: bool = True, strip_accents: bool | None = None
) -> Tokenizer:
    """Trains a WordPiece tokenizer with BERT's normalization; deterministic.

    Text is cleaned, optionally lower-cased and stripped of accents, split at white space, punctuation and
    around every Chinese character. In Hindi, Thai, Arabic, Hebrew, Japanese and others, what counts as an accent is
    a vowel sign, a tone or a consonant's voice, without which words differ; if a text loses many, a warning says
    so. The vocabulary holds `[PAD] [UNK] [CLS] [SEP] [MASK]` as ids 0 to 4, then the 1,000 most frequent
    characters, each letter or digit also as a continuation (`##a`), then merges in
    order of frequency.

    Args:
        texts: the training texts, which are read once and kept in a temporary file.
        vocabulary_size: the largest size of the vocabulary; a small corpus gives a smaller one.
        lowercase: whether to lower-case texts.
        strip_accents: whether to strip accents and all other marks that take no space of their own (Unicode's category
            Mn); by default if `lowercase`, as BERT does.

    Returns:
        The tokenizer, which adds `[CLS] a [SEP] b [SEP]` with segment ids 0 and 1.

    Raises:
        InputError: the vocabulary cannot hold the alphabet, or the texts hold no words.

    Reference: Wu et al. 2016, https://arxiv.org/abs/1609.08144; Devlin et al. 2019,
        https://arxiv.org/abs/1810.04805.
    """
    settings = {"do_lower_case": lowercase, "strip_accents": strip_accents}
    normalizer = bert_normalizer(settings)
    strips = lowercase if strip_accents is None else strip_accents
    counts: Counter[str] = Counter()
    original: Counter[str] = Counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace", newline="\n") as normalized:
        for text in training_texts(texts):
            for start in range(0, len(text), _TEXT_LIMIT):
                part = text[start : start + _TEXT_LIMIT]
                if strips:
                    original.update(part)
                line = " ".join(normalizer.normalize_str(part).split())
                counts.update(line)
                normalized.write(line + "\n")
        warn_of_stripped_marks(original)
        alphabet, rare = _alphabet(counts)
        if not alphabet:
            raise InputError("the tokenizer's training text holds no words; give it a corpus with text")
        first_pieces = [
            *SPECIAL_TOKENS,
            *alphabet,
            *(f"##{letter}" for letter in alphabet if _continues(letter)),
        ]
        if vocabulary_size < len(first_pieces):
            raise InputError(
                f"vocabulary_size {vocabulary_size} is too small: the special tokens and the {len(alphabet)} "
                f"characters of this text already make {len(first_pieces)} pieces; choose at least that many"
            )
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            special_tokens=first_pieces,  # the only way to fix their ids; the result is built anew
            limit_alphabet=len(alphabet),
            continuing_subword_prefix=_CONTINUATION,
            show_progress=False,
        )
        untrained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        untrained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        normalized.seek(0)
        untrained.train_from_iterator((line.translate(rare) for line in normalized), trainer)
    vocabulary = untrained.get_vocab(with_added_tokens=True)
    if len(vocabulary) > vocabulary_size:
        raise RuntimeError(
            f"the trainer made {len(vocabulary)} pieces where {vocabulary_size} were asked for"
        )
    return bert_tokenizer(vocabulary, settings)


def special_token_ids(tokenizer: Tokenizer) -> SpecialTokens:
    """Returns the ids of `[PAD] [UNK] [CLS] [SEP] [MASK]`.

    Raises:
        InputError: the vocabulary lacks one of them.
    """
    ids = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]
    missing = [token for token, number in zip(SPECIAL_TOKENS, ids, strict=True) if number is None]
    if missing:
        raise InputError(
            f"the vocabulary lacks {', '.join(missing)}; a BERT tokenizer has all of these special tokens"
        )
    return SpecialTokens(*(number for number in ids if number is not None))


def continuation_mask(tokenizer: Tokenizer) -> np.ndarray:
    """Returns a mask of the pieces that continue a word, for whole-word masking.

    Returns:
        Boolean (vocabulary,): True where the piece begins with `##`.
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    mask = np.zeros(max(vocabulary.values()) + 1, dtype=bool)
    mask[[number for piece, number in vocabulary.items() if _is_continuation(piece)]] = True
    return mask


def bert_tokenizer(vocabulary: dict[str, int], settings: dict[str, Any]) -> Tokenizer:
    """Returns a tokenizer with BERT's pipeline for a vocabulary.

    Args:
        vocabulary: the ids of the pieces.
        settings: `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` of a `tokenizer_config.json`.

    Raises:
        InputError: one of these is neither a boolean nor null.
    """
    check_bert_settings(settings)
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=_CONTINUATION)
    )
    tokenizer.normalizer = bert_normalizer(settings)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUATION)
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocabulary])
    if "[CLS]" in vocabulary and "[SEP]" in vocabulary:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
        )
    return tokenizer


def read_vocabulary(path: Path) -> dict[str, int]:
    """Returns the ids of the pieces in a `vocab.txt`, one per line; they are the line numbers, counted from 0.

    Raises:
        InputError: a line is empty or occurs twice, or the file is not UTF-8.
    """
    try:
        pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 at byte {error.start}; convert it with iconv -t UTF-8"
        ) from error
    vocabulary: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        piece = piece.rstrip("\r")
        if not piece or piece in vocabulary:
            fault = f"piece {piece!r} occurs twice" if piece else "empty line"
            raise InputError(f"{path}:{number + 1}: {fault}; a vocabulary has one piece a line, each once")
        vocabulary[piece] = number
    return vocabulary


def _is_continuation(piece: str) -> bool:
    return piece.startswith(_CONTINUATION) and len(piece) > len(_CONTINUATION)


def _alphabet(counts: Counter[str]) -> tuple[list[str], dict[int, str]]:
    """Returns the characters to keep, sorted, and a translation table that replaces the others by spaces."""
    counts.pop(" ", None)
    by_frequency = sorted(counts, key=lambda letter: (-counts[letter], letter))
    rare = dict.fromkeys(map(ord, by_frequency[_ALPHABET_LIMIT:]), " ")
    return sorted(by_frequency[:_ALPHABET_LIMIT]), rare


def _continues(letter: str) -> bool:
    """Returns whether a character may continue a word; punctuation and Chinese characters are single words."""
    words = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(
        normalizers.BertNormalizer(clean_text=False, strip_accents=False, lowercase=False).normalize_str(
            f"a{letter}"
        )
    )
    return len(words) == 1
