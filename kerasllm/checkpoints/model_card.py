"""The README.md of a model directory, which the hub shows as the model's page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kerasllm.checkpoints.name_table import Format
from kerasllm.checkpoints.weights import write_text
from kerasllm.files.json import read_json

_EXAMPLES = {
    "text-generation": ("generate", "Once upon a time"),
    "fill-mask": ("predict", "The [MASK] is over there."),
    "text-classification": ("predict", "a text of the kind that it was trained on"),
}
"""For a task of the hub the method that does it, from text, and a text to try it with."""


def write_model_card(directory: Path, stored: Format, sections: Mapping[str, str] | None = None) -> None:
    """Writes a README.md that says what the model is and how to use it, followed by further sections.

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
    lines = ["---", *front, "---", "", f"# {architecture.name}", ""]
    lines += ["Written by kerasllm, a toolkit for language models in Keras 3.", ""]
    lines += ["## How to use it", "", "`MODEL` is this directory, or its name on the hub.", ""]
    example = _EXAMPLES.get(task or "")
    if example is not None and (directory / "tokenizer.json").exists():
        method, text = example
        lines += ["From text:", ""]
        lines += _code(
            "import kerasllm", f"print(kerasllm.load(MODEL).{method}([{text!r}]))".replace("'", '"')
        )
        if theirs:
            lines += ["From text, with `transformers`:", ""]
            use = f"print(pipeline({task!r}, model=MODEL)({text!r}))".replace("'", '"')
            lines += _code("from transformers import pipeline", use)
    lines += ["As a Keras model, to train on:", ""]
    lines += _code(f"from kerasllm import {ours}", f"model = {ours}.from_pretrained(MODEL)")
    if theirs:
        lines += ["As a model of `transformers`:", ""]
        lines += _code(f"from transformers import {theirs}", f"model = {theirs}.from_pretrained(MODEL)")
    for heading, text in (sections or {}).items():
        lines += [f"## {heading}", "", text.strip(), ""]
    write_text(directory / "README.md", "\n".join(lines))


def _code(imports: str, use: str) -> list[str]:
    """Returns the lines of a block of Python."""
    return ["```python", imports, "", use, "```", ""]
