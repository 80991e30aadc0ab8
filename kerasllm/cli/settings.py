"""Describes a config dataclass as a list of options, converts text to their values, and reads and writes YAML.

Every value arrives here as text, from the command line or from YAML, and the *field's type* decides what it means.
Therefore YAML is read without its own guesses: `text_columns: 3` stays `"3"`, `version: 1.10` stays `"1.10"`, and
`learning_rate: 1e-4` is a number (plain YAML 1.1 makes it a string). The same code converts the values from both
sources and reports the errors in them.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import math
import re
import reprlib
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from kerasllm.cli.ranges import metadata_of
from kerasllm.errors import InputError
from kerasllm.files.json import plain

Config = TypeVar("Config")

RECORDED_KEYS = ("versions", "resolved")
"""Keys that a run directory adds to config.yaml; they are ignored, so `--config RUN/config.yaml` repeats the run."""

BOOLEANS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: a field of a config dataclass, or of a dataclass nested in it.

    Args:
        name: dotted name, as on the command line: `model.num_layers`.
        type: the field's annotation.
        default: the default value; `dataclasses.MISSING` if the user must give one.
        documentation: the field's doc line, joined to one line.
        section: the name up to its last dot, or "".
        without: options beside which this one has no effect.
        continues: for a flag, the option that names the directory whose config.yaml holds the settings to begin with.
        group: the heading in the help.
    """

    name: str
    type: Any
    default: Any
    documentation: str
    section: str
    without: tuple[str, ...] = ()
    continues: str = ""
    group: str = ""


GROUPS = ("data", "model", "optimization", "validation", "checkpoints", "devices", "run")
"""The headings of the help, in this order; options of no group come first."""


def in_group(group: str) -> dict[str, str]:
    """Returns the metadata of a field that the help lists under another heading than its class's `group`."""
    return {"group": group}


def continues(directory: str) -> dict[str, str]:
    """Returns the metadata of a flag that takes the settings of an earlier run: `metadata=continues("output")`.

    Options on the command line and `--config` files override them.

    Args:
        directory: the option that names the run's directory, which holds config.yaml.
    """
    return {"continues": directory}


def only_without(*names: str) -> dict[str, tuple[str, ...]]:
    """Returns the metadata of a field that has no effect beside other options: `metadata=only_without("init")`.

    On the command line it is refused together with one of them. In a YAML file it is accepted, since a run records
    all of its settings there.
    """
    return {"without": names}


def options(
    config_class: type, prefix: str = "", default: Any = dataclasses.MISSING, group: str = ""
) -> Iterator[Option]:
    """Yields the options of a dataclass: required ones first, its own before inherited ones, nested groups last.

    Args:
        config_class: the dataclass.
        prefix: text before each name.
        default: for a nested dataclass, an instance that holds the defaults.
        group: the group of options that have none of their own.
    """
    hints = typing.get_type_hints(config_class)
    documentation = _documentation(config_class)
    classes = [inspect.get_annotations(base) for base in config_class.__mro__]

    def order(field: dataclasses.Field) -> tuple[bool, bool, int]:
        required = field.default is field.default_factory is dataclasses.MISSING
        place = next(number for number, names in enumerate(classes) if field.name in names)
        return dataclasses.is_dataclass(hints[field.name]), not required, place

    for field in sorted(dataclasses.fields(config_class), key=order):
        if not field.init:
            continue
        value = _default(field) if default is dataclasses.MISSING else getattr(default, field.name)
        name, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from options(hint, name + ".", value, _group(config_class, field.name))
        else:
            metadata = metadata_of(config_class, field.name)
            yield Option(
                name,
                hint,
                value,
                documentation.get(field.name, ""),
                prefix.rstrip("."),
                metadata.get("without", ()),
                metadata.get("continues", ""),
                metadata.get("group") or _group(config_class, field.name) or group,
            )


def _group(config_class: type, name: str) -> str:
    """Returns the `group` of the class that first declares a field, or else of a class that declares it again."""
    declaring = [base for base in config_class.__mro__ if name in inspect.get_annotations(base)]
    return next((vars(base)["group"] for base in reversed(declaring) if "group" in vars(base)), "")


def _default(field: dataclasses.Field) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


@functools.cache  # reading the source takes tens of milliseconds
def _documentation(config_class: type) -> dict[str, str]:
    """Returns the doc line of each field: the string under it, else its entry under `Args:` of the class."""
    found: dict[str, str] = {}
    for base in reversed(config_class.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        arguments = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(base.__doc__ or ""), re.M | re.S)
        if arguments:
            for entry in re.split(r"\n(?=\S)", textwrap.dedent(arguments[1])):
                name, _, text = entry.partition(":")
                found[re.split(r"\W", name.strip())[0]] = " ".join(text.split())
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # a class typed at a prompt has no source
            continue
        for field, text in itertools.pairwise(tree.body[0].body):  # type: ignore[attr-defined]
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
            ):
                value = getattr(text.value, "value", None)
                if isinstance(value, str):
                    found[field.target.id] = " ".join(value.split())
    return found


def build(
    config_class: type[Config], values: Mapping[str, Any], prefix: str = "", default: Any = None
) -> Config:
    """Returns the config, building nested groups first; a `ValueError` from `__post_init__` becomes an `InputError`."""
    hints = typing.get_type_hints(config_class)
    arguments = {}
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        name, hint = prefix + field.name, hints[field.name]
        if not field.init:
            continue
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            nested = _default(field) if default is None else getattr(default, field.name)
            nested = None if nested is dataclasses.MISSING else nested
            arguments[field.name] = build(hint, values, name + ".", nested)
        elif name in values:
            arguments[field.name] = values[name]
        elif default is not None:
            arguments[field.name] = getattr(default, field.name)
    try:
        return config_class(**arguments)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error


class _TextLoader(yaml.BaseLoader):
    """A YAML loader that keeps scalars as text, except for null, and rejects repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        mapping: dict = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or key in mapping:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {_shown(key)} twice", problem_mark=key_node.start_mark
                )
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping


_TextLoader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_TextLoader.add_constructor("tag:yaml.org,2002:null", lambda loader, node: None)
_TextLoader.add_constructor("tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node))


def read_file(path: Path, options: Mapping[str, Option]) -> dict[str, Any]:
    """Returns the converted settings of a YAML file, whose keys may be nested or dotted."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_TextLoader)
    except FileNotFoundError as error:
        raise InputError(f"--config {path}: no such file") from error
    except (IsADirectoryError, ValueError, RecursionError) as error:
        raise InputError(f"--config {path}: not a YAML text file") from error
    except yaml.YAMLError as error:
        problem = str(getattr(error, "problem", None) or error)
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"{place}: not valid YAML: {' '.join(problem.split())}") from error
    if content is None or content == "":
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected `option: value` lines, not a {type(content).__name__}")
    sections = {option.section for option in options.values()}
    values: dict[str, Any] = {}

    def visit(mapping: dict, prefix: str) -> None:
        for key, value in mapping.items():
            name = prefix + key
            if name in options:
                values[name] = convert(options[name].type, value, f"{path}: {name}")
            elif isinstance(value, dict) and name in sections:
                visit(value, name + ".")
            elif name in sections and value is None:
                continue
            elif name in sections:
                raise InputError(f"{path}: {name}: {_shown(value)} is not a group of settings")
            elif name not in RECORDED_KEYS:
                raise InputError(unknown(f"key {name!r}", name, list(options), "", f"{path}: "))

    visit(content, "")
    return values


def unknown(
    what: str, name: str, known: Sequence[str], dashes: str, place: str = "", command: str = ""
) -> str:
    """Returns the message for an unknown name, with the nearest known one: `num_layer` suggests `model.num_layers`.

    Args:
        what: what is unknown, as the user wrote it.
        name: the name in it.
        known: the names that there are.
        dashes: what an option begins with where it was written.
        place: what the message begins with.
        command: the recipe whose help lists the names, if it is another one than this.
    """
    candidates: dict[str, str] = {}
    for option in known:
        candidates.setdefault(option.rsplit(".", 1)[-1], option)
    candidates.update({option: option for option in known})
    for wanted in (name, name.rsplit(".", 1)[-1]):
        nearest = difflib.get_close_matches(wanted.replace("-", "_").lower(), candidates, n=1, cutoff=0.6)
        if nearest:
            return f"{place}unknown {what}: did you mean {dashes}{candidates[nearest[0]]}?"
    return f"{place}unknown {what} ({command and command + ' '}--help lists all options)"


def _members(hint: Any) -> tuple:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def bare(hint: Any) -> Any:
    """Returns the type without None, and without named values beside it, if one type remains; otherwise unchanged."""
    members = [member for member in _members(hint) if member is not type(None)]
    if len(members) > 1:
        members = [member for member in members if typing.get_origin(member) is not Literal]
    return members[0] if len(members) == 1 else hint


def is_sequence(hint: Any) -> bool:
    """Returns whether the type is a list or tuple."""
    return (typing.get_origin(hint) or hint) in (list, tuple, Sequence)


def convert(hint: Any, value: Any, place: str) -> Any:
    """Converts text, a list of texts or None to a value of the type; error messages begin with `place`."""
    members = _members(hint)
    if value is None or (isinstance(value, str) and value.lower() in ("null", "none")):
        if type(None) in members:
            return None
        if value is None:
            raise InputError(f"{place}: null is not {expected(hint)}")
    for member in members:
        try:
            return _convert_member(member, value)
        except InputError as error:  # raised for one element of a list
            if is_sequence(bare(hint)):
                raise InputError(f"{place}{error}") from error
        except (TypeError, LookupError, ArithmeticError, ValueError):
            continue
    raise InputError(f"{place}: {_shown(value)} is not {expected(hint)}")


def _shown(value: Any) -> str:  # a list in YAML may contain itself
    return repr(value) if isinstance(value, str) else reprlib.repr(value)


def _convert_member(hint: Any, value: Any) -> Any:
    origin = typing.get_origin(hint) or hint
    if is_sequence(hint):
        inner = [member for member in typing.get_args(hint) if member is not Ellipsis] or [str]
        values = list(value) if isinstance(value, list) else [value]
        if origin is tuple and Ellipsis not in typing.get_args(hint) and len(values) != len(inner):
            raise ValueError("length")
        inner = inner * len(values) if len(inner) == 1 else inner
        return (tuple if origin is tuple else list)(
            convert(kind, v, "") for kind, v in zip(inner, values, strict=True)
        )
    if not isinstance(value, str):
        raise TypeError("not a single value")
    if origin is Literal:
        return {str(choice): choice for choice in typing.get_args(hint)}[value.strip()]
    if hint is bool:
        return BOOLEANS[value.strip().lower()]
    if hint is int:
        try:
            return int(value)
        except ValueError:
            number = float(value)  # such as 1e6
            if number != int(number):
                raise
            return int(number)
    if hint is float:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("not finite")
        return number
    if hint in (str, Path, Any):
        return Path(value) if hint is Path else value
    raise TypeError(f"options of type {hint} are not supported")


def expected(hint: Any) -> str:
    """Returns the type in the user's words, to follow "is not"."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    words = []
    for member in _members(hint):
        if member is type(None):
            words.append("null")
        elif typing.get_origin(member) is Literal:
            choices = [str(choice) for choice in typing.get_args(member)]
            words.append(choices[0] if len(choices) == 1 else "one of " + ", ".join(choices))
        elif is_sequence(member):
            inner = [kind for kind in typing.get_args(member) if kind is not Ellipsis] or [str]
            fixed = typing.get_origin(member) is tuple and Ellipsis not in typing.get_args(member)
            words.append((f"{len(inner)} values, each " if fixed else "a list, each ") + expected(inner[0]))
        else:
            words.append(names.get(member, getattr(member, "__name__", str(member))))
    return " or ".join(words)


def to_yaml(options_of: Iterable[Option], values: Mapping[str, Any]) -> str:
    """Returns all settings as YAML, each under its doc line; `values` by dotted name replace the defaults.

    A required setting that was not given is written as null.
    """
    lines: list[str] = []
    section = ""
    for option in options_of:
        if option.section != section:
            parts = option.section.split(".") if option.section else []
            for depth, part in enumerate(parts):
                if section.split(".")[: depth + 1] != parts[: depth + 1]:
                    lines.append("  " * depth + part + ":")
            section = option.section
        indent = "  " * (section.count(".") + 1) if section else ""
        for line in textwrap.wrap(option.documentation, 100):
            lines.append(f"{indent}# {line}")
        value = values.get(option.name, option.default)
        value = plain(None if value is dataclasses.MISSING else value)
        text = yaml.safe_dump({option.name.rsplit(".", 1)[-1]: value}, allow_unicode=True, width=10_000)
        lines.append(textwrap.indent(text.rstrip("\n"), indent))
    return "\n".join(lines) + "\n"
