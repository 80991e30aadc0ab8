"""Special tokens by their roles, above all the end mark that separates documents."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

from kerasllm.errors import InputError

END_OF_TEXT = "<|endoftext|>"

# A tokenizer's JSON does not say which token is the end mark. If tokenizer_config.json does not say it either, end
# and beginning are the first pair in this list whose end token the tokenizer has.
_MARKS = (
    (END_OF_TEXT, END_OF_TEXT),
    ("<|end_of_text|>", "<|begin_of_text|>"),
    ("</s>", "<s>"),
    ("<eos>", "<bos>"),
)

_PADDINGS = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>")

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SIDES = ("padding_side", "truncation_side")
_roles: WeakKeyDictionary[Tokenizer, dict[str, str]] = WeakKeyDictionary()


def remember_roles(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Remembers the roles of special tokens and the padding and truncation sides in `tokenizer_config.json`.

    Args:
        tokenizer: the tokenizer; tokens that are not in its vocabulary are ignored.
        settings: the content of the file, with `eos_token` and so on, each a token or, in older files, an object
            with its `content`.
    """
    named = {role: settings.get(role) for role in ROLES}
    tokens = {role: name.get("content") if isinstance(name, dict) else name for role, name in named.items()}
    _roles[tokenizer] = {
        role: token
        for role, token in tokens.items()
        if isinstance(token, str) and tokenizer.token_to_id(token) is not None
    } | {side: settings[side] for side in _SIDES if settings.get(side) in ("left", "right")}


def known_roles(tokenizer: Tokenizer) -> dict[str, str]:
    """Returns the roles and sides that `remember_roles` stored for a tokenizer."""
    return _roles.get(tokenizer, {})


def marks(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """Returns the tokens at the end and the beginning of a document, which may be the same, or None."""
    roles = known_roles(tokenizer)
    if "eos_token" in roles:
        return roles["eos_token"], roles.get("bos_token", roles["eos_token"])
    for end, beginning in _MARKS:
        if tokenizer.token_to_id(end) is not None:
            return end, beginning if tokenizer.token_to_id(beginning) is not None else end
    return None


def padding_id(tokenizer: Tokenizer) -> int:
    """Returns the id of the padding token.

    Raises:
        InputError: the vocabulary has none.
    """
    names = [known_roles(tokenizer).get("pad_token"), *_PADDINGS]
    for name in names:
        number = None if name is None else tokenizer.token_to_id(name)
        if number is not None:
            return number
    raise InputError(
        f"the vocabulary has no token for padding ({', '.join(_PADDINGS)}); an encoder-decoder needs one"
    )


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """Returns the id of the mark that follows a document.

    Raises:
        InputError: the vocabulary has none.
    """
    found = marks(tokenizer)
    if found is None:
        names = ", ".join(end for end, _ in _MARKS)
        raise InputError(
            f"the vocabulary has no mark for the end of a text ({names}); a GPT's tokenizer needs one"
        )
    number = tokenizer.token_to_id(found[0])
    assert number is not None
    return number
