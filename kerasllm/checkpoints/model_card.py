"""The README.md of a model directory, which the hub shows as the model's page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kerasllm.checkpoints.name_table import Format
from kerasllm.checkpoints.weights import write_text
from kerasllm.files.json import read_json


def write_model_card(directory: Path, stored: Format, sections: Mapping[str, str] | None = None) -> None:
    """Writes a README.md that says what the model is and how to load it, followed by further sections.

    Args:
        directory: the directory that holds config.json.
        stored: the format of the model.
        sections: further sections, Markdown texts by heading.

    Raises:
        InputError: there is no config.json, or the file cannot be written.
    """
    config = read_json(directory / "config.json")
    architecture = stored.architecture(config)
    ours, theirs, task = architecture.model_class.__name__, architecture.auto_class, architecture.hub_task
    front = ["library_name: transformers" if theirs else "library_name: keras"]
    front += [f"pipeline_tag: {task}"] if task else []
    front += ["tags:", "- kerasllm", "- keras", f"- {config.get('model_type')}"]
    loading = ["from kerasllm import " + ours, "", f"model = {ours}.from_pretrained(MODEL)"]
    if theirs:
        loading += ["", f"from transformers import {theirs}", "", f"model = {theirs}.from_pretrained(MODEL)"]
    lines = ["---", *front, "---", "", f"# {architecture.name}", ""]
    lines += ["Written by kerasllm, a toolkit for language models in Keras 3.", ""]
    lines += ["`MODEL` is this directory, or its name on the hub:", "", "```python", *loading, "```", ""]
    for heading, text in (sections or {}).items():
        lines += [f"## {heading}", "", text.strip(), ""]
    write_text(directory / "README.md", "\n".join(lines))
