"""README.md of a model directory, which hubs show as the model's page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kerasllm.checkpoints.weights import write_text
from kerasllm.files.json import read_json

_TASKS = {
    "BertModel": ("BertBackbone", "AutoModel", "feature-extraction"),
    "BertForPreTraining": ("BertPretraining", "AutoModelForPreTraining", "fill-mask"),
    "BertForMaskedLM": ("BertMaskedLM", "AutoModelForMaskedLM", "fill-mask"),
    "BertForNextSentencePrediction": ("BertPretraining", "AutoModelForNextSentencePrediction", None),
    "BertForSequenceClassification": (
        "BertClassifier",
        "AutoModelForSequenceClassification",
        "text-classification",
    ),
    "GPT2Model": ("GPTBackbone", "AutoModel", "feature-extraction"),
    "LlamaModel": ("GPTBackbone", "AutoModel", "feature-extraction"),
    "GPT2LMHeadModel": ("GPTCausalLM", "AutoModelForCausalLM", "text-generation"),
    "LlamaForCausalLM": ("GPTCausalLM", "AutoModelForCausalLM", "text-generation"),
}
"""By architecture: our class, theirs, and the hub's name of the task."""


def write_model_card(directory: Path, sections: Mapping[str, str] | None = None) -> None:
    """Writes README.md: what the model is, how it is loaded, and what else is to be told.

    Args:
        directory: holds config.json.
        sections: texts by their headings, in Markdown.

    Raises:
        InputError: there is no config.json, or the file cannot be written.
    """
    config = read_json(directory / "config.json")
    architecture = str((config.get("architectures") or ["GPT of kerasllm's own shape"])[0])
    ours, theirs, task = _TASKS.get(architecture, ("GPTCausalLM", None, "text-generation"))
    if config.get("problem_type") == "regression":
        ours = "BertRegressor"
    front = ["library_name: transformers" if theirs else "library_name: keras"]
    front += [f"pipeline_tag: {task}"] if task else []
    front += ["tags:", "- kerasllm", "- keras", f"- {config.get('model_type')}"]
    loading = ["from kerasllm import " + ours, "", f"model = {ours}.from_pretrained(MODEL)"]
    if theirs:
        loading += ["", f"from transformers import {theirs}", "", f"model = {theirs}.from_pretrained(MODEL)"]
    lines = ["---", *front, "---", "", f"# {architecture}", ""]
    lines += ["Written by kerasllm, a toolkit for language models in Keras 3.", ""]
    lines += ["`MODEL` is this directory, or its name on the hub:", "", "```python", *loading, "```", ""]
    for heading, text in (sections or {}).items():
        lines += [f"## {heading}", "", text.strip(), ""]
    write_text(directory / "README.md", "\n".join(lines))
