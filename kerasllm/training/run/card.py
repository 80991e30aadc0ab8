"""Writes the model card of a run, with the data, results and settings that the run has recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kerasllm.cli.settings import RECORDED_KEYS
from kerasllm.models.registry import write_model_card
from kerasllm.training.run.settings import read_config

_SOURCES = {
    "training": ("corpus", "train"),
    "validation": ("validation_corpus", "validation"),
    "test": ("test",),
    "started from": ("init",),
    "tokenizer": ("tokenizer",),
}
"""The settings that name where each part of the data comes from."""

_OF_THIS_MACHINE = {"output", "resume", "keep", "processes", "checkpoint_steps", "checkpoint_minutes"}
_SHAPE = (
    "num_layers",
    "num_heads",
    "hidden_dim",
    "intermediate_dim",
    "vocabulary_size",
    "max_sequence_length",
)
_COUNTED = ("conversations", "documents", "sentences", "tokens")
_CORRELATION = "from -1 to 1"
_UNITS = {
    "loss": "nats",
    "masked_lm_loss": "nats per masked token",
    "next_sentence_loss": "nats per pair",
    "perplexity": "exp of the nats per token",
    "mse": "squared unit of the labels",
    "matthews": _CORRELATION,
    "pearson": _CORRELATION,
    "spearman": _CORRELATION,
}
_LOSSES = {
    "masked_lm": "nats, the sum of the objectives",
    "causal_lm": "nats per token",
    "classification": "nats per text",
    "regression": "squared unit of the labels",
}


def part_sizes(parts: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Returns how much each part of the data holds: `{"train": {"documents": 12, "tokens": 34567}, …}`.

    Args:
        parts: token stores or streams, batches of one, conversations, or anything else that has a length, which is
            then the number of examples; parts that are None are left out.
    """
    sizes: dict[str, dict[str, int]] = {}
    for name, part in parts.items():
        if part is not None:
            source = getattr(part, "stream", part)
            counts = {each: getattr(source, f"num_{each}", None) for each in _COUNTED}
            found = {each: int(count) for each, count in counts.items() if count is not None}
            sizes[name] = found or {"examples": len(source)}
    return sizes


def write_run_card(run: Path, results: Mapping[str, Any]) -> None:
    """Writes model/README.md of a run.

    Files are named without their directories, since a card on a hub should not show how a disk is laid out.

    Args:
        run: the run directory, with config.yaml and model/config.json.
        results: the figures, as in results.json.
    """
    content = read_config(run)
    resolved = content.get("resolved") or {}
    sections = {
        "Data": _data(content, resolved),
        "Results": _results(results),
        "Training": _training(content, resolved, results),
        "Settings": _settings(content),
    }
    write_model_card(run / "model", sections)


def _data(content: Mapping[str, Any], resolved: Mapping[str, Any]) -> str:
    """Returns a table of the parts of the data, with their files and sizes."""
    sizes = {
        {"train": "training"}.get(name, name): counts for name, counts in (resolved.get("data") or {}).items()
    }
    rows = []
    for part, settings in _SOURCES.items():
        given = [content[name] for name in settings if content.get(name)]
        size = ", ".join(
            f"{count:,} {unit if count != 1 else unit.removesuffix('s')}"
            for unit, count in sizes.get(part, {}).items()
        )
        if given or size:
            elsewhere = "" if part == "training" else "set aside from the training data"
            rows.append((part, _names(given[0]) if given else elsewhere, size))
    if resolved.get("labels"):
        rows.append(
            ("labels", ", ".join(map(str, resolved["labels"])), f"{len(resolved['labels']):,} classes")
        )
    if "corpus_sha256" in resolved:
        rows.append(("SHA-256 of the corpus", f"`{resolved['corpus_sha256']}`", ""))
    return _table(("", "source", "size"), rows)


def _results(results: Mapping[str, Any]) -> str:
    """Returns a table of the figures of each part of the data that the model was judged by."""
    parts = {name: results[name] for name in ("validation", "test") if isinstance(results.get(name), Mapping)}
    if not parts:
        return "The model was not judged: no data was set aside for validation or test."
    names = dict.fromkeys(name for figures in parts.values() for name in figures)
    rows = []
    for name in names:
        values = [figures.get(name) for figures in parts.values()]
        if any(isinstance(value, int | float) for value in values):
            unit = _LOSSES.get(str(results.get("task"))) if name == "loss" else _UNITS.get(name)
            if unit is None:
                unit = name if all(isinstance(value, int | None) for value in values) else "from 0 to 1"
            rows.append((name.replace("_", " "), *map(_shown, values), unit))
    return _table(("figure", *parts, "unit"), rows)


def _training(content: Mapping[str, Any], resolved: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Returns a table of the model's size, and of what the training took and was done with."""
    versions = content.get("versions") or {}
    backend = str(versions.get("backend", ""))
    software = [(name, versions.get(name)) for name in ("kerasllm", "keras", backend, "python")]
    model = resolved.get("model") or {}
    rows: list[tuple[str, Any]] = [("parameters", results.get("parameters"))]
    if results.get("trainable_parameters") != results.get("parameters"):
        rows.append(("parameters trained", results.get("trainable_parameters")))
    rows += [(name.removeprefix("num_").replace("_", " "), model.get(name)) for name in _SHAPE]
    rows += [("optimizer steps", results.get("steps"))]
    rows += [("step of the best validation", results.get("best_step") or None)]
    rows += [("training time", f"{results['seconds']:,.0f} s" if "seconds" in results else None)]
    memory = results.get("peak_memory_mib")
    rows += [("peak memory", None if memory is None else f"{memory:,} MiB")]
    rows += [("precision", results.get("precision"))]
    rows += [("software", ", ".join(f"{name} {version}" for name, version in software if version))]
    return _table(("", ""), [(name, _shown(value)) for name, value in rows if value is not None])


def _settings(content: Mapping[str, Any]) -> str:
    """Returns a table of the settings that have a value, without those that are shown elsewhere."""
    left_out = {
        *RECORDED_KEYS,
        *_OF_THIS_MACHINE,
        "guard",
        *(name for names in _SOURCES.values() for name in names),
    }
    settings = {name: value for name, value in content.items() if name not in left_out}
    given = [(name, value) for name, value in _flat(settings) if value not in (None, "", [], False)]
    return _table(("setting", "value"), [(f"`{name}`", _shown(value)) for name, value in given])


def _names(value: Any) -> str:
    """Returns the names in a setting: `hub:` names whole, and paths by their last part."""
    values = value if isinstance(value, list) else [value]
    return ", ".join(str(each) if str(each).startswith("hub:") else Path(str(each)).name for each in values)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_in_a_cell(cell) for cell in line) + " |" for line in lines)


def _in_a_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
