"""The command line: a dataclass of settings becomes options, YAML and help."""

from kerasllm.cli.arguments import parse, run

__all__ = ["parse", "run"]
