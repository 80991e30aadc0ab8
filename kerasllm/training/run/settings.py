"""Reads and compares the settings of a run in config.yaml, and defines which of them a resumed run may change."""

import contextlib
import dataclasses
import platform
import reprlib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from kerasllm import __version__
from kerasllm.cli.settings import RECORDED_KEYS, options
from kerasllm.errors import InputError
from kerasllm.files.json import plain

MAY_CHANGE = frozenset(
    {
        *("output", "resume", "keep", "log_interval", "eval_interval"),
        *("checkpoint_steps", "checkpoint_minutes", "processes"),
        *("mesh.replica", "mesh.fsdp", "mesh.tensor", "layout"),
        *("judge_test", "workers", "memory_limit"),
        *("guard.non_finite", "guard.skip_limit", "guard.loss_spike", "guard.replay"),
    }
)
"""Settings that a resumed run may change, since they do not affect what is learned."""

_SHORT = reprlib.Repr()  # a value in a YAML file may be very long
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 2, 20, 200, 200

MAY_GROW = frozenset({"steps", "epochs"})
"""Settings that a resumed run may raise."""


def lasting(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings without the request to replay a bad batch, which is not part of the run."""
    if not isinstance(settings.get("guard"), dict):
        return settings
    return {**settings, "guard": {**settings["guard"], "replay": False}}


def versions() -> dict[str, str]:
    """Returns the versions of everything that a run depends on beside its settings."""
    import keras

    from kerasllm import backend

    name = keras.backend.backend()
    versions = {"python": platform.python_version(), "kerasllm": __version__, "keras": keras.__version__}
    versions |= {"backend": name, name: str(backend.version())}
    for package in ("numpy", "tokenizers", *backend.libraries()):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    versions["platform"] = platform.platform()
    return versions


def recorded(path: Path) -> dict[str, Any]:
    """Returns the settings that a run was started with."""
    return {key: value for key, value in read_config(path).items() if key not in RECORDED_KEYS}


def read_config(path: Path) -> dict[str, Any]:
    """Returns the whole content of a run's config.yaml.

    Raises:
        InputError: the file is not YAML, or holds no settings.
    """
    file = path / "config.yaml"
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        # A run writes no aliases, and a short file with aliases may expand without end.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("it refers to parts of itself")
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as bad UTF-8, 2001-99-99
        raise InputError(f"{file} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no settings")
    return content


def nothing_to_resume(output: str | Path, config: Any) -> str:
    """Returns the message for `--resume` of a finished run; if more steps are asked for, it says how to train on.

    The schedule has ended, so a continued run would not equal one of the greater length from the start.

    Args:
        output: the directory of the finished run.
        config: all settings given, a dataclass or a mapping.
    """
    before, now = recorded(Path(output)), plain(config)
    for name in sorted(MAY_GROW & before.keys() & now.keys()):
        if now[name] > before[name]:
            return (
                f"{output} is finished, with --{name} {before[name]}, and a finished run is not extended to "
                f"{now[name]}: to train on from it, give --init {output} --output NEW"
            )
    return f"{output} is finished: nothing to resume"


def compare(path: Path, before: Mapping[str, Any], config: Any, may_grow: set[str]) -> None:
    """Refuses settings that differ from the run's own.

    A setting that did not exist yet when the run was started counts as having had its default.

    Args:
        path: the run directory.
        before: the run's own settings.
        config: the settings given now, a dataclass or a mapping.
        may_grow: names of settings that may be greater.

    Raises:
        InputError: the settings differ; the message names each difference.
    """
    old, new = dict(_flat(before)), dict(_flat(plain(config)))
    if dataclasses.is_dataclass(config):
        with_default = (
            option for option in options(type(config)) if option.default is not dataclasses.MISSING
        )
        old = {option.name: plain(option.default) for option in with_default} | old
    differences = []
    for name in dict.fromkeys([*old, *new]):
        was, given = old.get(name), new.get(name)
        if was == given or name in MAY_CHANGE:
            continue
        if name in may_grow and isinstance(was, int | float) and isinstance(given, int | float):
            if given > was:
                continue
            differences.append(f"{name} {was}, which can only grow, not {given}")
        else:
            differences.append(f"{name} {_SHORT.repr(was)}, not {_SHORT.repr(given)}")
    if differences:
        raise InputError(
            f"{path} was started with {'; '.join(differences)}: give the same settings, or a new --output"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
