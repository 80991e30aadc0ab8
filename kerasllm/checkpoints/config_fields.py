"""Reading, checking and writing of the fields of config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerasllm.checkpoints.name_table import ACTIVATIONS
from kerasllm.errors import InputError, short


def read_fields(
    theirs: Mapping[str, Any],
    path: str,
    names: Mapping[str, str],
    required: tuple[str, ...],
    act: str,
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the fields of our config, with the activation by our name, from those of config.json.

    Args:
        theirs: the content of config.json.
        path: the path of config.json, for messages.
        names: their field name for each of our field names.
        required: their names of the required fields.
        act: their name of the activation field.
        defaults: values of fields that are left out, by their names, where our default differs.

    Raises:
        InputError: a required field is missing, or the activation is unknown.
    """
    missing = [name for name in required if theirs.get(name) is None]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; copy the model anew")
    theirs = {**defaults, **theirs}
    fields = {ours: theirs[name] for ours, name in names.items() if theirs.get(name) is not None}
    if "activation" in fields:
        known = [ours for ours, others in ACTIVATIONS.items() if fields["activation"] in others]
        if not known:
            raise InputError(f"{path}: {act} is {fields['activation']!r}, known are {', '.join(ACTIVATIONS)}")
        fields["activation"] = known[0]
    return fields


def build_config(cls: type, fields: dict[str, Any], path: str, names: Mapping[str, str]) -> Any:
    """Returns a `cls` with these fields; errors name a field as config.json does."""
    try:
        return cls(**fields)
    except (ValueError, TypeError) as error:  # the message begins with our name of the field
        ours, _, fault = str(error).partition(" ")
        raise InputError(f"{path}: {names.get(ours, ours)} {fault}") from error


_NEVER: dict[str, Any] = {"quantization_config": None, "pruned_heads": {}, "is_encoder_decoder": False}


def refuse_others(theirs: Mapping[str, Any], path: str, only: Mapping[str, Any]) -> None:
    """Raises `InputError` for a setting that is neither None nor the only value in `only` that is supported."""
    for name, value in (_NEVER | dict(only)).items():
        found = theirs.get(name)
        if found is not None and found != value:
            shown = "no such setting" if value is None else repr(value)
            raise InputError(f"{path}: {name} is {short(found)}, only {shown} can be represented")


def written_activation(config: Any) -> str:
    """Returns the name that Hugging Face's format has for a config's activation."""
    if config.activation not in ACTIVATIONS:
        raise InputError(f"activation {config.activation!r} has no name in Hugging Face's format")
    return ACTIVATIONS[config.activation][0]


def special_tokens(theirs: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the begin, pad and end tokens of config.json by our names; some chat models have several end tokens."""
    theirs = {**defaults, **theirs}
    ends = theirs.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    return {
        "end_token_id": ends[0] if ends else None,
        "more_end_token_ids": ends[1:],
        "begin_token_id": theirs.get("bos_token_id"),
        "pad_token_id": theirs.get("pad_token_id"),
    }


def generation_tokens(theirs: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Returns the begin, pad and end tokens that generation_config.json names, by our names.

    Args:
        theirs: the content of the file; a token that is left out or null keeps that of config.json.
        path: the path of the file, for messages.

    Raises:
        InputError: a token is no whole number from 0, or the end tokens are no list of them.
    """
    named = {name: value for name, value in theirs.items() if name in TOKEN_NAMES and value is not None}
    for name, value in named.items():
        tokens = value if name == "eos_token_id" and isinstance(value, list) else [value]
        least = -1 if name == "pad_token_id" else 0  # some files have -1 for none
        if not tokens or any(type(token) is not int or token < least for token in tokens):
            raise InputError(
                f"{path}: {name} is {short(value)}, it must be a token's number; copy the model anew"
            )
    ours = special_tokens(named, {})
    return {name: ours[name] for theirs_name in named for name in TOKEN_NAMES[theirs_name]}


TOKEN_NAMES = {
    "eos_token_id": ("end_token_id", "more_end_token_ids"),
    "bos_token_id": ("begin_token_id",),
    "pad_token_id": ("pad_token_id",),
}
"""Our fields for each of Hugging Face's fields of special tokens."""


def written_tokens(config: Any) -> dict[str, Any]:
    """Returns the begin, pad and end tokens of a config by the names of config.json."""
    ends = [config.end_token_id, *config.more_end_token_ids]
    found = {"bos_token_id": config.begin_token_id, "eos_token_id": ends if len(ends) > 1 else ends[0]}
    return found | ({} if config.pad_token_id is None else {"pad_token_id": config.pad_token_id})
