"""Uses a trained run: classifies lines of text, or fills in [MASK].

KERAS_BACKEND=jax python recipes/predict.py --model runs/mine --text "The capital of France is [MASK]."
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from kerasllm import BertClassifier, BertConfig, BertMaskedLM, BertPretraining, BertRegressor, cli
from kerasllm.checkpoints import resolve_directory
from kerasllm.cli.ranges import check_ranges
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.data.sources.labelled import read_texts
from kerasllm.errors import InputError, NewHeadWarning
from kerasllm.files.atomic import check_writable, write_output
from kerasllm.models.registry import read_settings
from kerasllm.tasks.classification import predict_in_order
from kerasllm.tokenizers.loading import load_wordpiece, vocabulary_size
from kerasllm.tokenizers.wordpiece import special_token_ids


@dataclass
class Config:
    """Classifies texts with a fine-tuned run, or fills in [MASK] with a pretrained one."""

    model: str
    """A run, a model directory or a hub id."""

    text: list[str] = field(default_factory=list)
    """Texts; of a pair, both separated by a tab."""

    file: str | None = None
    """A file of texts: .txt with one a line, or .tsv, .csv, .jsonl, .parquet with --text_columns."""

    text_columns: str | None = None
    """Columns of --file, as in fine-tuning."""

    output: str | None = None
    """File for the predictions, one JSON object a line; standard output if null."""

    top_k: int = 5
    """Candidates for each [MASK]."""

    batch_size: int = 64
    """Texts at a time."""

    sequence_length: int | None = None
    """Longer texts are cut; the model's positions if null."""


def main(config: Config) -> int:
    """Model, texts → predictions."""
    if bool(config.text) == bool(config.file):
        raise InputError("give either --text or --file")
    if config.text_columns and not config.file:
        raise InputError("--text_columns is for --file; of a pair in --text, separate both by a tab")
    check_ranges(config)
    if config.output:
        check_writable(Path(config.output))
    directory = resolve_directory(config.model)
    shape, settings = read_settings(directory, BertConfig)
    tokenizer = load_wordpiece(directory)
    if vocabulary_size(tokenizer) > shape.vocabulary_size:
        raise InputError(
            f"{directory}: the tokenizer has {vocabulary_size(tokenizer)} tokens, the model "
            f"{shape.vocabulary_size}: they do not belong together; copy the model anew"
        )
    length = shape.max_sequence_length if config.sequence_length is None else config.sequence_length
    if length > shape.max_sequence_length:
        raise InputError(
            f"--sequence_length {length} is above the {shape.max_sequence_length} positions of {directory}"
        )
    texts = [tuple(text.split("\t")) for text in config.text]
    if not all(map(str.strip, config.text)):
        raise InputError("--text: a text is empty; leave it out")
    if config.file:
        texts = read_texts(config.file, config.text_columns).texts
    if any(len(text) > 2 for text in texts):
        raise InputError("a text has more than one tab: give one text, or a pair separated by one tab")
    architecture = architecture_of(settings, directory)
    if architecture == "BertForSequenceClassification":
        rows = classify(config, directory, settings, tokenizer, texts, length)
    else:
        cls = BertPretraining if architecture == "BertForPreTraining" else BertMaskedLM
        rows = fill_masks(config, cls, directory, tokenizer, texts, length)
    if config.output:
        write_output(Path(config.output), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(f"{len(rows)} predictions written to {config.output}", file=sys.stderr)
    else:
        show(rows, sys.stdout)
    return 0


def architecture_of(settings: dict[str, Any], directory: Path) -> str:
    """What config.json says that the model is."""
    architectures = settings.get("architectures") or ["BertForMaskedLM"]
    if not isinstance(architectures, list) or not isinstance(architectures[0], str):
        raise InputError(
            f"{directory / 'config.json'}: architectures is {str(architectures)[:60]}, it must be a list of names"
        )
    return architectures[0]


def load(cls: Any, directory: Path, heads: set[str]) -> Any:
    """A model all of whose `heads` are in its checkpoint: predictions of a new one would be noise."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = cls.from_pretrained(directory)
    for warning in (each.message for each in caught):
        if isinstance(warning, NewHeadWarning) and (found := sorted(heads.intersection(warning.heads))):
            raise InputError(
                f"{directory}: the weights hold no {' and no '.join(found)}: fine-tune or pretrain the model first"
            )
        warnings.warn(warning, stacklevel=2)
    return model


def classify(
    config: Config, directory: Path, settings: dict[str, Any], tokenizer: Any, texts: list, length: int
) -> list[dict[str, Any]]:
    """The label or labels and their probabilities, or the number, of each text."""
    encoded = encode_texts(tokenizer, texts, length)
    batches = ClassificationBatches(encoded, None, batch_size=config.batch_size, shuffle=False)
    kind, known = settings.get("problem_type"), settings.get("id2label")
    count = len(known) if isinstance(known, dict) else settings.get("num_labels")
    if kind == "regression" or (kind is None and count == 1):
        values = predict_in_order(load(BertRegressor, directory, {"classifier"}), batches)
        return [
            {"text": join(text), "value": float(value)} for text, value in zip(texts, values, strict=True)
        ]
    model = load(BertClassifier, directory, {"classifier"})
    logits = predict_in_order(model, batches).astype("float64")
    names = list(model.label_names or map(str, range(model.num_classes)))
    if model.multi_label:
        return [
            {
                "text": join(text),
                "labels": [name for name, logit in zip(names, row, strict=True) if logit > 0],
                "probabilities": by_name(names, 0.5 + np.tanh(row / 2) / 2),  # the logistic function
            }
            for text, row in zip(texts, logits, strict=True)
        ]
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return [
        {
            "text": join(text),
            "label": names[row.argmax()],
            "probability": round(float(row.max()), 4),
            "probabilities": by_name(names, row),
        }
        for text, row in zip(texts, probabilities, strict=True)
    ]


def by_name(names: list[str], probabilities: np.ndarray) -> dict[str, float]:
    """The probability of each label."""
    return {name: round(float(p), 4) for name, p in zip(names, probabilities, strict=True)}


def fill_masks(
    config: Config, cls: Any, directory: Path, tokenizer: Any, texts: list, length: int
) -> list[dict[str, Any]]:
    """The likeliest tokens of each [MASK]."""
    mask = special_token_ids(tokenizer).mask
    encoded = encode_texts(tokenizer, texts, length)
    for text, start, end in zip(texts, encoded.offsets[:-1], encoded.offsets[1:], strict=True):
        if mask not in encoded.token_ids[start:end]:
            raise InputError(
                f"{join(text)[:60]!r} holds no [MASK] within {length} tokens, and {directory} is a pretrained model: "
                "put [MASK] in the place of a word"
            )
    model = load(cls, directory, {"masked_lm_head", "masked_lm_projection"})
    batches = ClassificationBatches(encoded, None, batch_size=config.batch_size, shuffle=False)
    masks: dict[int, list[list[dict[str, Any]]]] = {}
    for step in range(batches.steps):
        inputs = batches.batch(step)[0]
        logits = np.asarray(model.predict_on_batch(inputs)["masked_lm"], dtype="float64")
        for row, index in enumerate(batches.order[step]):
            if index >= 0:
                masks[int(index)] = candidates(config, tokenizer, inputs, logits, row, mask)
    return [{"text": join(text), "masks": masks[index]} for index, text in enumerate(texts)]


def candidates(
    config: Config, tokenizer: Any, inputs: dict[str, np.ndarray], logits: np.ndarray, row: int, mask: int
) -> list[list[dict[str, Any]]]:
    """For each [MASK] of a row, the best tokens and their probabilities."""
    found = []
    for position in np.flatnonzero(inputs["token_ids"][row] == mask):
        scores = logits[row, position]
        probabilities = np.exp(scores - scores.max())
        probabilities /= probabilities.sum()
        best = np.argsort(-probabilities, kind="stable")[: config.top_k]
        found.append(
            [
                {"token": tokenizer.id_to_token(int(i)), "probability": round(float(probabilities[i]), 4)}
                for i in best
            ]
        )
    return found


def join(text: tuple[str, ...]) -> str:
    """A pair as it was given."""
    return "\t".join(text)


def show(rows: list[dict[str, Any]], stream: TextIO) -> None:
    """Predictions for a person to read."""
    for row in rows:
        if "masks" in row:
            for place in row["masks"]:
                best = "  ".join(f"{c['token']} {c['probability']:.3f}" for c in place)
                print(f"{row['text']}\t{best}", file=stream)
        elif "labels" in row:
            found = [f"{name} {row['probabilities'][name]:.4f}" for name in row["labels"]]
            print(f"{', '.join(found) or 'none'}\t{row['text']}", file=stream)
        elif "value" in row:
            print(f"{row['value']:.4f}\t{row['text']}", file=stream)
        else:
            print(f"{row['label']}\t{row['probability']:.4f}\t{row['text']}", file=stream)


if __name__ == "__main__":
    cli.run(main, Config)
