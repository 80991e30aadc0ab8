"""Tokenizers whose tokens are characters, without merges and normalization, so that decoding is exact.

They are pipelines of the `tokenizers` library, and are saved and loaded like any tokenizer.
"""

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from kerasllm.errors import InputError
from kerasllm.tokenizers.special_tokens import END_OF_TEXT
from kerasllm.tokenizers.training_texts import training_texts

_ANY_CHARACTER = r"[\s\S]"


def train_characters(texts: Iterable[str]) -> Tokenizer:
    """Returns a tokenizer whose tokens are the characters of some texts.

    Their ids are 0, 1, 2 … by code point; `<|endoftext|>` has the last one.

    Args:
        texts: the training texts, which are read once; only the set of their characters is kept.

    Raises:
        InputError: there are no characters.
    """
    found: set[str] = set()
    for text in training_texts(texts):
        found.update(text)
    if not found:
        raise InputError("the tokenizer's training text holds no characters; give it a corpus with text")
    vocabulary = {character: number for number, character in enumerate(sorted(found))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary | {END_OF_TEXT: len(vocabulary)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_ANY_CHARACTER), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def character_ids(description: dict[str, Any]) -> dict[str, int] | None:
    """Returns the ids by character of a character tokenizer, or None for other kinds of tokenizers.

    Args:
        description: the tokenizer's JSON, parsed.
    """
    splitting = description.get("pre_tokenizer") or {}
    if (
        description["model"].get("type") != "WordLevel"
        or splitting.get("type") != "Split"
        or splitting.get("pattern") != {"Regex": _ANY_CHARACTER}
        or description.get("normalizer") is not None
    ):
        return None
    return {piece: number for piece, number in description["model"]["vocab"].items() if len(piece) == 1}
