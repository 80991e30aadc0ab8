"""Trains an LSTM, a GRU or a simple RNN to classify texts, from scratch or from a pretrained language model.

KERAS_BACKEND=jax python recipes/finetune_recurrent.py --train train.tsv --validation dev.tsv --text_columns 0 \
    --label_column 1 --epochs 3 --output runs/sentiment
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kerasllm import RecurrentClassifier, cli
from kerasllm.cli.ranges import at_least
from kerasllm.cli.settings import in_group
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.data.sources.text import first_words
from kerasllm.errors import InputError, counted
from kerasllm.models.recurrent.classifier import Pooling
from kerasllm.tasks import Classification
from kerasllm.training.job import Job, is_finished, train
from kerasllm.training.options import LabelledOptions, RecurrentStartOptions, TrainingOptions
from kerasllm.training.run.card import part_sizes


@dataclass(kw_only=True)
class Config(LabelledOptions, RecurrentStartOptions, TrainingOptions):
    """Trains a recurrent classifier of texts and writes a run directory."""

    group = "data"

    sequence_length: int = field(default=128, metadata=at_least(1))
    """Maximum tokens of a text; longer ones are cut."""

    bidirectional: bool | None = None
    """Read the text from the end, too; if null, a new model does."""

    pooling: Pooling = "mean"
    """What a text is classified by: the mean of all outputs, or the last state of each direction."""

    learning_rate: float = 1e-3
    monitor: Literal["loss", "accuracy", "f1", "f1_macro", "f1_micro", "matthews"] = field(
        default="loss", metadata=in_group("validation")
    )
    """Validation figure that --restore_best and --patience use."""


def main(config: Config) -> int:
    """Goes from labeled texts to a tokenizer, token ids and batches, and trains."""
    if is_finished(config):
        return 0
    check(config)
    parts = config.read(config.seed)
    training = parts["train"]
    if any(len(texts) == 2 for part in parts.values() for texts in part.texts):
        raise InputError("--text_columns names two columns: a recurrent classifier reads one text")
    if training.label_names is None:
        raise InputError(
            "--label_column holds numbers, not classes: give --task classification if they are classes"
        )
    task = Classification(training.label_names, multi_label=config.multi_label)
    if config.monitor not in task.monitors or (config.monitor == "f1" and len(training.label_names) != 2):
        raise InputError(
            f"--monitor {config.monitor} is no figure of {len(training.label_names)} such classes"
        )
    tokenizer = config.find_tokenizer(text for (text,) in training.texts)
    shape = config.find_shape(
        tokenizer, bidirectional=config.bidirectional is not False, initializer_range=0.1
    )
    encoded = {
        name: encode_texts(tokenizer, part.texts, config.sequence_length, part.place)
        for name, part in parts.items()
    }
    for name, part in encoded.items():
        cut = (
            f", {part.num_truncated:,} of them cut to {part.sequence_length} tokens"
            if part.num_truncated
            else ""
        )
        print(f"{name}: {counted(len(part), 'example')}{cut}", flush=True)

    def make_model() -> RecurrentClassifier:
        settings = {
            "label_names": training.label_names,
            "multi_label": config.multi_label,
            "seed": config.seed,
        }
        return config.make_model(RecurrentClassifier, shape, pooling=config.pooling, **settings)

    def make_job() -> Job:
        batches = config.labeled_batches(encoded, parts, ClassificationBatches, ClassificationBatches)
        return Job(
            task=task,
            make_model=make_model,
            tokenizer=tokenizer,
            **batches,
            monitor=config.monitor,
            epsilon=1e-8,
            recorded={
                "data": part_sizes(encoded),
                "labels": list(task.label_names),
                "task": task.name,
                "steps": batches["batches"].steps,
            },
            example=("--text", first_words(training.texts[0][0])),
        )

    return train(config, make_job)


def check(config: Config) -> None:
    """Refuses settings that contradict each other, before anything is read."""
    config.check_parts()
    config.check_validation()
    if config.init and config.bidirectional is not None:
        raise InputError("--bidirectional cannot change a checkpoint: leave it out, or leave --init out")
    config.check_start(bidirectional=config.bidirectional is not False)


if __name__ == "__main__":
    cli.run(main, Config)
