"""A training recipe as a search sees it: its settings, the command lines of its runs, and the files of settings."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from kerasllm.__main__ import recipes
from kerasllm.cli import parse
from kerasllm.cli.settings import options, read_file, unknown
from kerasllm.errors import InputError
from kerasllm.files.atomic import write_atomically
from kerasllm.files.json import plain
from kerasllm.training.options import JobOptions

_OF_A_RUN = ("output", "resume")  # a search has those of its own
_ANY_OUTPUT = "runs/x"  # a recipe's settings need one; nothing is written there


@dataclass(frozen=True)
class TrainingRecipe:
    """A training recipe with the settings that all of its runs begin with.

    Args:
        name: the recipe's name.
        path: its file, or the folder with its `__main__.py`.
        config_class: the dataclass of its settings.
        files: the YAML files of the base settings, of which later ones override earlier ones.
        base: these settings, converted, by dotted name; the recipe's defaults are not among them.
    """

    name: str
    path: Path
    config_class: type
    files: tuple[Path, ...]
    base: Mapping[str, Any]

    @classmethod
    def find(cls, name: str, files: Sequence[str | Path]) -> TrainingRecipe:
        """Returns a recipe by its name, with the settings of YAML files.

        Raises:
            InputError: there is no such recipe, it trains nothing, or a file holds what is no setting of it.
        """
        known = recipes()
        if name not in known:
            raise InputError(unknown(f"--recipe {name}", name, list(known), ""))
        config_class = getattr(_load(known[name]), "Config", None)
        if config_class is None or not issubclass(config_class, JobOptions):
            raise InputError(f"--recipe {name} trains nothing: name a training recipe, such as finetune_bert")
        described = {option.name: option for option in options(config_class)}
        base: dict[str, Any] = {}
        for file in files:
            base |= read_file(Path(file), described)
        base = {key: value for key, value in base.items() if key not in _OF_A_RUN}
        return cls(name, known[name], config_class, tuple(map(Path, files)), base)

    def config(self, changes: Mapping[str, Any] | None = None) -> Any:
        """Returns the recipe's settings with some changed, read and checked as on its command line.

        Args:
            changes: settings by dotted name.

        Raises:
            InputError: a setting is unknown, of the wrong type, out of its range or without effect beside another, or
                a required one is missing.
        """
        given = {**(changes or {}), "output": _ANY_OUTPUT, "resume": False}
        return parse(self.config_class, self.arguments(given))

    def arguments(self, changes: Mapping[str, Any]) -> list[str]:
        """Returns the arguments of a run.

        Args:
            changes: the settings that differ from the base, by dotted name.
        """
        words = [word for file in self.files for word in ("--config", str(file))]
        return words + [f"--{name}={as_text(value)}" for name, value in changes.items()]

    def write(self, path: Path, changes: Mapping[str, Any] | None = None, comment: str = "") -> None:
        """Writes the base settings with some changed as a YAML file that the recipe's `--config` takes.

        Args:
            path: the file.
            changes: settings by dotted name.
            comment: lines to begin the file with.
        """
        nested: dict[str, Any] = {}
        for name, value in {**self.base, **(changes or {})}.items():
            *sections, last = name.split(".")
            group = nested
            for section in sections:
                group = group.setdefault(section, {})
            group[last] = plain(value)
        text = yaml.safe_dump(nested, sort_keys=False, allow_unicode=True, width=10_000) if nested else ""
        write_atomically(path, "".join(f"# {line}\n" for line in comment.splitlines()) + text)


def as_text(value: Any) -> str:
    """Returns the value of a setting as it is written on a command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _load(path: Path) -> ModuleType:
    """Returns the module of a recipe, which is not run."""
    name = f"recipe_{path.stem}"
    if name not in sys.modules:
        source = path / "__main__.py" if path.is_dir() else path
        sys.path.insert(0, str(source.parent))
        spec = importlib.util.spec_from_file_location(name, source)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where dataclasses look up their annotations
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        finally:
            sys.path.remove(str(source.parent))
    return sys.modules[name]
