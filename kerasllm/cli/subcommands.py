"""A recipe with several commands, each with settings of its own: `recipe.py build --option value`."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from kerasllm.cli.arguments import run


def run_command(commands: Mapping[str, tuple[Any, type]], argv: Sequence[str] | None = None) -> None:
    """Calls the command that the first argument names with the remaining ones, as `run` does.

    Args:
        commands: for each name the function and the dataclass of its settings.
        argv: the arguments without the program's name; `sys.argv[1:]` if None.

    Raises:
        SystemExit: as `run` does, and with 2 if there is no such command.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    names = " or ".join(commands)
    if arguments and arguments[0] in commands:
        main, config_class = commands[arguments[0]]
        run(main, config_class, arguments[1:])
        return
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: {sys.argv[0]} {{{','.join(commands)}}} [--option value ...]\n")
        for name, (main, _) in commands.items():
            print(f"  {name:<16} {(main.__doc__ or '').splitlines()[0]}")
        print("\nEach command has its own --help.")
        return
    given = f"{arguments[0]!r} is no command" if arguments else "a command is missing"
    print(f"error: {given}: begin with {names}", file=sys.stderr)
    sys.exit(2)
