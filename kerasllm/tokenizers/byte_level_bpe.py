"""Byte-level BPE as in GPT-2, which can encode any text, as the 256 bytes are tokens too.

Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from kerasllm.errors import InputError
from kerasllm.tokenizers.added_tokens import mark_processor
from kerasllm.tokenizers.cutting import cut_between_words, plain_text
from kerasllm.tokenizers.special_tokens import END_OF_TEXT
from kerasllm.tokenizers.training_texts import training_texts

_BYTES = 256


def train_byte_level_bpe(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Trains a tokenizer with GPT-2's splitting into words; deterministic.

    Ids 0 to 255 are the bytes, then come the merges in order of frequency; `<|endoftext|>` is the last.

    Args:
        texts: the training texts, which are read once and not kept in memory.
        vocabulary_size: the largest size of the vocabulary; a small corpus gives a smaller one.

    Raises:
        InputError: `vocabulary_size` is below 257, the bytes and the end mark, or the texts are empty.
    """
    if vocabulary_size <= _BYTES:
        raise InputError(
            f"vocabulary_size {vocabulary_size} is too small: the 256 bytes and {END_OF_TEXT} make 257 tokens; "
            "choose at least that many"
        )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - 1,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    untrained = _pipeline(models.BPE(), add_prefix_space=False)
    characters = 0

    def parts() -> Iterable[str]:
        """Yields small parts, as the trainer keeps 256 of them in memory."""
        nonlocal characters
        for text in training_texts(texts):
            for part in cut_between_words([plain_text(text)]):
                characters += len(part)
                yield part

    untrained.train_from_iterator(parts(), trainer)
    if not characters:
        raise InputError("the tokenizer's training text holds no characters; give it a corpus with text")
    model = json.loads(untrained.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    if len(vocabulary) >= vocabulary_size:
        raise RuntimeError(
            f"the trainer made {len(vocabulary)} tokens where {vocabulary_size - 1} were asked for"
        )
    merges = [(left, right) for left, right in model["merges"]]
    return byte_level_tokenizer(vocabulary | {END_OF_TEXT: len(vocabulary)}, merges)


def byte_level_tokenizer(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], settings: dict[str, Any] | None = None
) -> Tokenizer:
    """Returns a tokenizer with GPT-2's pipeline for a vocabulary.

    Args:
        vocabulary: the ids of the tokens, whose bytes are written as GPT-2 writes them.
        merges: the merges, pairs of tokens in order of priority.
        settings: the content of a `tokenizer_config.json`: `add_prefix_space`, the special tokens, and `add_bos_token`
            and `add_eos_token`, with which a text gets these tokens before and after it.
    """
    settings = settings or {}
    tokenizer = _pipeline(
        models.BPE(vocab=vocabulary, merges=merges), add_prefix_space=bool(settings.get("add_prefix_space"))
    )
    named = (settings.get(f"{role}_token") for role in ("eos", "bos", "unk", "pad"))
    special = [name.get("content") if isinstance(name, dict) else name for name in named]
    tokenizer.add_special_tokens(
        [name for name in dict.fromkeys([END_OF_TEXT, *special]) if name in vocabulary]
    )
    added = [
        (name, vocabulary[name]) if settings.get(f"add_{role}_token") and name in vocabulary else None
        for role, name in zip(("bos", "eos"), (special[1], special[0]), strict=True)
    ]
    if any(added):
        tokenizer.post_processor = mark_processor(*added)
    return tokenizer


def read_byte_level_bpe(vocabulary_path: Path, merges_path: Path, settings: dict[str, Any]) -> Tokenizer:
    """Reads the tokenizer of a `vocab.json` and a `merges.txt`.

    Args:
        vocabulary_path: the file with a JSON object of tokens and ids.
        merges_path: the file with two tokens per line, after an optional line `#version: …`.
        settings: the settings, as `byte_level_tokenizer` takes them.

    Raises:
        InputError: either file is damaged, or they do not belong together.
    """
    vocabulary = _read_vocabulary(vocabulary_path)
    return byte_level_tokenizer(
        vocabulary, _read_merges(merges_path, vocabulary, vocabulary_path.name), settings
    )


def missing_bytes(description: dict[str, Any]) -> list[int]:
    """Returns the bytes that a tokenizer would silently drop from a text; usually there are none.

    Args:
        description: the tokenizer's JSON, parsed.

    Returns:
        The bytes without a token, if the tokenizer is a byte-level BPE without an unknown token.
    """
    model = description["model"]
    before = description.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    if model.get("type") != "BPE" or model.get("unk_token") or model.get("byte_fallback"):
        return []
    if not any(step.get("type") == "ByteLevel" for step in steps):
        return []
    return [byte for byte, letter in enumerate(_byte_letters()) if letter not in model["vocab"]]


def _byte_letters() -> list[str]:
    """Returns GPT-2's letter for each byte: itself if it is printable Latin-1, else the next one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(_BYTES)]


def _pipeline(model: models.BPE, *, add_prefix_space: bool) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 at byte {error.start}; fetch the file again, or convert it with iconv -t UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_vocabulary(path: Path) -> dict[str, int]:
    try:
        vocabulary = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}; fetch the file again") from error
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise InputError(f"{path}: holds no JSON object of tokens and ids; a vocab.json does")
    seen: dict[int, str] = {}
    for token, number in vocabulary.items():
        if type(number) is not int or not 0 <= number < 2**32:
            raise InputError(
                f"{path}: token {token!r} has the id {number!r}, which is not a whole number from 0"
            )
        if number in seen:
            raise InputError(f"{path}: tokens {seen[number]!r} and {token!r} have the same id {number}")
        seen[number] = token
    return vocabulary


def _read_merges(path: Path, vocabulary: dict[str, int], vocabulary_name: str) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise InputError(
                f"{path}:{number}: {line!r} is not a merge; each line is two tokens and one space"
            )
        for token in (*pair, "".join(pair)):
            if token not in vocabulary:
                raise InputError(
                    f"{path}:{number}: the merge {line!r} needs the token {token!r}, which {vocabulary_name} "
                    "lacks; take both files from the same tokenizer"
                )
        merges.append((pair[0], pair[1]))
    return merges
