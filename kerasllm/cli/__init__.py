"""The command line, which turns a dataclass of settings into options, YAML and help."""

from kerasllm.cli.arguments import parse, run

__all__ = ["parse", "run"]
