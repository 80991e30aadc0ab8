"""Writes the model card of a run, with the data, settings and results that the run has recorded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kerasllm.cli.settings import RECORDED_KEYS
from kerasllm.models.registry import write_model_card
from kerasllm.training.run.settings import read_config

_DATA = ("corpus", "validation_corpus", "train", "validation", "test", "init", "tokenizer")
_OF_THIS_MACHINE = {"output", "resume", "keep", "processes", "checkpoint_steps", "checkpoint_minutes"}


def write_run_card(run: Path, results: Mapping[str, Any]) -> None:
    """Writes model/README.md of a run.

    Files are named without their directories, since a card on a hub should not show how a disk is laid out.

    Args:
        run: the run directory, with config.yaml and model/config.json.
        results: the figures, as in results.json.
    """
    content = read_config(run)
    left_out = {*RECORDED_KEYS, *_OF_THIS_MACHINE}
    settings = {key: value for key, value in content.items() if key not in left_out}
    data = {key: _names(settings.pop(key)) for key in _DATA if settings.get(key)}
    resolved = content.get("resolved") or {}
    if "corpus_sha256" in resolved:
        data["corpus_sha256"] = resolved["corpus_sha256"]
    if resolved.get("labels"):
        data["labels"] = ", ".join(map(str, resolved["labels"]))
    whole = {**settings, "versions": content.get("versions"), "resolved": resolved}
    figures = {name: value for name, value in _flat(results) if name.split(".")[-1] != "corpus_sha256"}
    sections = {
        "Data": _table(("", "what"), data),
        "Results": _table(("figure", "value"), figures),
        "Settings": f"```yaml\n{yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)}```",
    }
    write_model_card(run / "model", sections)


def _names(value: Any) -> str:
    """Returns the names in a setting: `hub:` names whole, and paths by their last part."""
    values = value if isinstance(value, list) else [value]
    return ", ".join(str(each) if str(each).startswith("hub:") else Path(str(each)).name for each in values)


def _flat(results: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in results.items():
        if name == "confusion":
            continue
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found.append((prefix + name, value))
    return found


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [head, ("---", "---"), *((name.replace("_", " "), _shown(value)) for name, value in rows.items())]
    return "\n".join(f"| {first} | {second} |" for first, second in lines)


def _shown(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
