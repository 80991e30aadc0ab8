"""Turns a dataclass into a command line; only this file knows how options are written.

`argparse` and the libraries built on it want lists as JSON and flags with a value, guess at abbreviations and
report a bad value in five lines, so none of them is used. `kerasllm.cli.settings` decides what a value means, and
reading `--name value` takes only a page.
"""

import contextlib
import dataclasses
import errno
import inspect
import itertools
import math
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kerasllm import processes
from kerasllm.cli import settings
from kerasllm.cli.ranges import check_ranges
from kerasllm.errors import DISK_FULL, InputError, InputWarning, is_out_of_memory
from kerasllm.files.json import plain

Config = TypeVar("Config")

_BUILT_IN = {
    "config": "YAML file with settings; options on the command line override it.",
    "print_config": "print all settings as YAML and exit",
    "help": "show this help and exit",
}
_INDENT = 29  # columns before the explanation of an option
_LONGEST_LINE = 2000  # characters; a message may quote a file, which may hold anything
_ONE_LINE_ERRORS = {*DISK_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}


def run(main: Callable[[Any], int | None], config_class: type, argv: Sequence[str] | None = None) -> None:
    """Reads the settings, calls `main(config)` and turns the user's mistakes into one line and exit code 2.

    Args:
        main: the recipe; the integer it may return is the exit code.
        config_class: a dataclass; each field's doc line (a string under the field, or an `Args:` entry of the
            class) is its help. Fields may be str, int, float, bool, pathlib.Path, Literal, list, tuple,
            unions of these with None, and dataclasses, whose fields are options named `--field.name`.
        argv: the arguments without the program's name; `sys.argv[1:]` if None.

    Raises:
        SystemExit: with 2 for wrong input, a full disk or too little memory, 130 for Ctrl-C, 141 for a closed pipe,
            otherwise with what `main` returned unless that is 0.
    """
    try:
        with processes.first_one_prints(), _plain_warnings():
            code = main(parse(config_class, sys.argv[1:] if argv is None else argv))
    except processes.ToldByFirst:
        code = 2
        processes.end(code)
    except InputError as error:
        code = _complain(str(error))
        processes.end(code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
        processes.end(code)
    except BrokenPipeError:  # `recipe --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:
        if error.errno not in _ONE_LINE_ERRORS:
            processes.end(1, error)
            raise
        place = f"{error.filename}: " if error.filename else ""
        full = "; free some space, or choose another --output" if error.errno in DISK_FULL else ""
        code = _complain(f"{place}{error.strerror}{full}")
        processes.end(code)
    except Exception as error:
        if processes.is_loss(error):
            _complain(f"another process has ended or no longer answers ({str(error).strip() or type(error)})")
            processes.end(processes.LOST)
        if not is_out_of_memory(error):
            processes.end(1, error)
            raise
        code = _complain(
            "out of memory: lower --batch_size (and raise --gradient_accumulation), --sequence_length or the "
            "size of the model"
        )
        processes.end(code)
    if code:
        sys.exit(code)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Makes Python print an `InputWarning` as one line, without the line of source code that it usually adds."""
    before = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, InputWarning):
            print("note:", _one_line(str(message)), file=sys.stderr)
        else:
            before(message, category, *place, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def parse(config_class: type[Config], argv: Sequence[str]) -> Config:
    """Returns the config that `argv` describes: the defaults, changed by `--config` files in order, then by options.

    A flag that continues a run (`settings.continues`) puts the run's own settings in the place of the defaults.

    Args:
        config_class: see `run`.
        argv: the arguments without the program's name.

    Raises:
        InputError: an option or key is unknown, a value has the wrong type, a required option is missing, or an
            option has no effect beside another one (`settings.only_without`).
        SystemExit: with 0, after `--help` or `--print_config`.
    """
    options = {option.name: option for option in settings.options(config_class)}
    given, files, asked = _read_arguments(options, list(argv))
    if "help" in asked:
        print(_help(config_class, options.values()))
        sys.exit(0)
    values: dict[str, Any] = {}
    for file in files:
        values.update(settings.read_file(Path(file), options))
    for name, text in given.items():
        values[name] = settings.convert(options[name].type, text, f"--{name}")
    continued = next(
        (option for option in options.values() if option.continues and values.get(option.name)), None
    )
    recorded = None if continued is None else _recorded(values.get(continued.continues))
    if recorded is not None:
        values = settings.read_file(recorded, options) | values
    for name in given:
        for other in options[name].without:
            if values.get(other) is not None:
                raise InputError(f"--{name} has no effect with --{other}: leave one of the two out")
    if "print_config" in asked:
        print(settings.to_yaml(options.values(), values), end="")
        sys.exit(0)
    missing = [
        name
        for name, option in options.items()
        if option.default is dataclasses.MISSING and name not in values
    ]
    if missing:
        mend = "--help explains all options"
        if continued is not None and continued.continues in values:
            run = values[continued.continues]
            mend = f"--{continued.name} takes them from {run}/config.yaml, which does not exist"
        raise InputError(f"missing {', '.join('--' + name for name in missing)} ({mend})")
    config = settings.build(config_class, values)
    check_ranges(config)
    return config


def _recorded(directory: Any) -> Path | None:
    """Returns the file with the settings of the run in a directory, or None if there is none."""
    file = Path(str(directory or ""), "config.yaml")
    return file if str(directory or "").strip() and file.is_file() else None


def _read_arguments(
    options: Mapping[str, settings.Option], argv: list[str]
) -> tuple[dict[str, str | list[str]], list[str], set[str]]:
    """Returns the texts by option name, the `--config` files, and which of `help` and `print_config` are asked for."""
    given: dict[str, str | list[str]] = {}
    files: list[str] = []
    asked: set[str] = set()
    at = 0

    def following(count: float) -> list[str]:
        nonlocal at
        start = at
        while at < len(argv) and at - start < count and not argv[at].startswith("--"):
            at += 1
        return argv[start:at]

    while at < len(argv):
        argument, equals, attached = argv[at].partition("=")
        at += 1
        name = "help" if argument == "-h" else argument[2:]
        if not argument.startswith("--") and argument != "-h":
            raise InputError(f"unexpected {argv[at - 1]!r}: settings are given as --option value")
        if name in ("help", "print_config"):
            asked.add(name)
            continue
        if name != "config" and name not in options:
            raise InputError(settings.unknown(f"option --{name}", name, [*options, *_BUILT_IN], "--"))
        kind = settings.bare(options[name].type) if name in options else str
        if equals:
            texts = [attached]
        elif kind is bool:
            texts = following(1) if at < len(argv) and argv[at].lower() in settings.BOOLEANS else ["true"]
        else:
            texts = following(math.inf if settings.is_sequence(kind) else 1)
        if not texts:
            raise InputError(f"--{name}: a value is missing")
        if name not in options:  # --config, unless it is an option of the recipe's own
            files += texts
        elif settings.is_sequence(kind):
            earlier = given.get(name, [])
            given[name] = [*earlier, *texts]
        else:
            given[name] = texts[0]
    return given, files, asked


def _help(config_class: type, options: Iterable[settings.Option]) -> str:
    """Returns the usage, the first paragraph of the config's docstring, the options by group, and an example."""
    width = min(shutil.get_terminal_size((110, 24)).columns, 110)
    program = sys.argv[0] or "recipe"
    program = program if program.startswith("kerasllm ") else f"python {program}"
    lines = [f"usage: {program} [--config FILE.yaml] [--option value ...]", ""]
    documentation = config_class.__doc__ or ""
    if not documentation.startswith(f"{config_class.__name__}("):  # `dataclass` writes such a one itself
        first = inspect.cleandoc(documentation).split("\n\n")[0]
        lines += [*textwrap.wrap(" ".join(first.split()), width), ""]
    sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in ("options", *settings.GROUPS)}
    for option in options:
        row = (f"--{option.name}", f"{option.documentation} ({_kind(option)})".strip())
        sections.setdefault(option.group or option.section or "options", []).append(row)
    own = {name for name, _ in itertools.chain.from_iterable(sections.values())}
    sections["settings and help"] = [
        (f"--{name}", text) for name, text in _BUILT_IN.items() if f"--{name}" not in own
    ]
    for heading, rows in sections.items():
        if rows:
            lines += [f"{heading}:", *_rows(rows, width), ""]
    return "\n".join([*lines, *_example(config_class, program, width)]).rstrip()


def _example(config_class: type, program: str, width: int) -> list[str]:
    """Returns lines with the command in the recipe's docstring, as it is typed to run this program."""
    text = sys.modules[config_class.__module__].__doc__ or ""
    command = re.search(r"^KERAS_BACKEND=.*(?:\\\n.*)*", text, re.MULTILINE)
    if command is None:
        return []
    plain_text = " ".join(command[0].replace("\\\n", " ").split())
    first, *others = re.split(r" (?=--)", re.sub(r"python recipes/\S+", lambda _: program, plain_text))
    lines = [f"  {first}"]
    for part in others:
        if len(lines[-1]) + len(part) + 3 <= width:  # with a space before and a backslash behind
            lines[-1] += f" {part}"
        else:
            lines[-1] += " \\"
            lines.append(f"    {part}")
    return ["example:", *lines]


def _rows(rows: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Returns lines with the names in a column and the texts wrapped beside them."""
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, max(width - _INDENT, 20), break_on_hyphens=False) or [""]
        if len(name) > _INDENT - 4:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name:<{_INDENT - 4}}  {wrapped.pop(0)}".rstrip())
        lines += [" " * _INDENT + line for line in wrapped]
    return lines


def _kind(option: settings.Option) -> str:
    """Returns what an option accepts and its default: `a whole number; default: null`."""
    kind = settings.expected(option.type)
    if option.default is dataclasses.MISSING:
        return f"{kind}; required"
    kind = kind.removesuffix(" or null") if option.default is None else kind
    value = plain(option.default)
    if isinstance(value, list):
        shown = " ".join(map(str, value)) or "none"
    else:
        shown = {None: "null", "": "empty"}.get(
            value, str(value).lower() if isinstance(value, bool) else value
        )
    return f"{kind}; default: {shown}"


def _complain(message: str) -> int:
    """Prints the message as one line on standard error and returns exit code 2."""
    print("error:", processes.name() + _one_line(message), file=sys.stderr)
    return 2


def _one_line(message: str) -> str:
    line = " ".join(line.strip() for line in message.splitlines() if line.strip())
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …"
