"""Fields of config.json: read by name, checked, and refused by name where the models here cannot represent them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerasllm.checkpoints.name_table import ACTIVATIONS
from kerasllm.errors import InputError


def read_fields(
    theirs: Mapping[str, Any],
    path: str,
    names: Mapping[str, str],
    required: tuple[str, ...],
    act: str,
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """Fields of our config from config.json's, the activation translated.

    Args:
        theirs: config.json.
        path: its name, for messages.
        names: our field, theirs.
        required: their names that must be there.
        act: their name of the activation.
        defaults: what a field means that is left out, by their names, where ours means something else.

    Raises:
        InputError: a field is missing, or the activation unknown.
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
    """Our config; what it finds wrong is told by their name of the field."""
    try:
        return cls(**fields)
    except (ValueError, TypeError) as error:  # begins with our name of the setting, the file has theirs
        ours, _, fault = str(error).partition(" ")
        raise InputError(f"{path}: {names.get(ours, ours)} {fault}") from error


_NEVER: dict[str, Any] = {"quantization_config": None, "pruned_heads": {}, "is_encoder_decoder": False}


def refuse_others(theirs: Mapping[str, Any], path: str, only: Mapping[str, Any]) -> None:
    """Refuses, by name, settings that the model here cannot represent; None counts as left out."""
    for name, value in (_NEVER | dict(only)).items():
        found = theirs.get(name)
        if found is not None and found != value:
            shown = "no such setting" if value is None else repr(value)
            raise InputError(f"{path}: {name} is {short(found)}, only {shown} can be represented")


def short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def written_activation(config: Any) -> str:
    """Their name of a config's activation."""
    if config.activation not in ACTIVATIONS:
        raise InputError(f"activation {config.activation!r} has no name in Hugging Face's format")
    return ACTIVATIONS[config.activation][0]


def end_token(theirs: Mapping[str, Any]) -> Any:
    """The first of several end tokens, as some chat models have them."""
    token = theirs.get("eos_token_id")
    if isinstance(token, list):
        return token[0] if token else None
    return token
