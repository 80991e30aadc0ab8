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
_templates: WeakKeyDictionary[Tokenizer, Any] = WeakKeyDictionary()


def remember_roles(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Remembers the roles of special tokens and the padding and truncation sides in `tokenizer_config.json`.

    Args:
        tokenizer: the tokenizer; tokens that are not in its vocabulary are ignored.
        settings: the content of the file, with `eos_token` and so on, each a token or, in older files, an object
            with its `content`. Tokens of other names that end in `_token`, or stand in `extra_special_tokens`, have
            roles too.
    """
    extra = settings.get("extra_special_tokens")
    named = {name: token for name, token in settings.items() if name.endswith("_token")}
    named |= extra if isinstance(extra, dict) else {}
    tokens = {role: token_text(token) for role, token in named.items()}
    _roles[tokenizer] = {
        role: token
        for role, token in tokens.items()
        if isinstance(token, str) and tokenizer.token_to_id(token) is not None
    } | {side: settings[side] for side in _SIDES if settings.get(side) in ("left", "right")}


def token_text(token: Any) -> Any:
    """Returns the text of a special token in a file: a text, or in older files an object with its `content`."""
    return token.get("content") if isinstance(token, dict) else token


def known_roles(tokenizer: Tokenizer) -> dict[str, str]:
    """Returns the roles and sides that `remember_roles` stored for a tokenizer."""
    return _roles.get(tokenizer, {})


def remember_templates(tokenizer: Tokenizer, templates: Any) -> None:
    """Remembers the chat template that lies beside a tokenizer, so that it is saved again with it.

    Args:
        tokenizer: the tokenizer.
        templates: the value of `chat_template` in `tokenizer_config.json`: a text, or a list of named templates.
    """
    if templates:
        _templates[tokenizer] = templates


def known_templates(tokenizer: Tokenizer) -> Any:
    """Returns what `remember_templates` stored for a tokenizer, or None."""
    return _templates.get(tokenizer)


def own_template(tokenizer: Tokenizer) -> str | None:
    """Returns the chat template that lay beside a tokenizer, of several the one named "default", or None."""
    templates = known_templates(tokenizer)
    if isinstance(templates, list):
        return next((entry["template"] for entry in templates if entry["name"] == "default"), None)
    return templates


def saved_roles(tokenizer: Tokenizer) -> dict[str, str]:
    """Returns the roles and sides that are saved with a tokenizer; its end mark pads if no other token does."""
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    named = dict(zip(roles, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), strict=True))
    known = {role: token for role, token in named.items() if tokenizer.token_to_id(token) is not None}
    found = marks(tokenizer)
    if found is None:
        return known | known_roles(tokenizer)
    end, beginning = found
    return {"bos_token": beginning, "eos_token": end, "pad_token": end} | known | known_roles(tokenizer)


def template_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """Returns the special tokens that a chat template finds by name, such as `bos_token`.

    They are those that `tokenizer_config.json` names, as in `transformers`. If it names no end token, they are those
    that would be saved with the tokenizer.
    """
    known = known_roles(tokenizer)
    found = known if "eos_token" in known else saved_roles(tokenizer)
    return {role: token for role, token in found.items() if role not in _SIDES}


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


_lengths: WeakKeyDictionary[Tokenizer, int] = WeakKeyDictionary()


def remember_length(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Remembers `model_max_length` of `tokenizer_config.json`, the most tokens that the model takes.

    Args:
        tokenizer: the tokenizer.
        settings: the content of the file; without a length, or with `transformers`' number for none, there is none.
    """
    length = settings.get("model_max_length")
    if isinstance(length, int) and not isinstance(length, bool) and 0 < length < 2**26:
        _lengths[tokenizer] = length


def default_length(tokenizer: Tokenizer, most: int) -> int:
    """Returns `most`, or the number of tokens that the tokenizer's model takes, if it is known and smaller."""
    return min(most, _lengths.get(tokenizer, most))
