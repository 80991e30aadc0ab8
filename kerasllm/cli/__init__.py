"""The command line, which turns a dataclass of settings into options, YAML and help."""

from kerasllm.cli.arguments import parse, run
from kerasllm.cli.subcommands import run_command

__all__ = ["parse", "run", "run_command"]
