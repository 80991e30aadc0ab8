"""Fine-tunes a BERT to classify texts or pairs of texts, or to predict a number for them.

KERAS_BACKEND=jax python recipes/finetune_bert.py --init runs/mine --train train.tsv --validation dev.tsv \
    --text_columns 0 --label_column 1 --output runs/classifier
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kerasllm import BertClassifier, BertRegressor, cli
from kerasllm.cli.settings import in_group
from kerasllm.data.batches.packed_labelled import PackedClassificationBatches
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import EncodedTexts, encode_texts
from kerasllm.data.sources.labelled import LabelledTexts
from kerasllm.data.sources.text import first_words
from kerasllm.errors import InputError, counted
from kerasllm.tasks import Classification, Regression
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.training.job import Job, is_finished, train
from kerasllm.training.options import BertStartOptions, LabelledOptions, LowRankOptions, TrainingOptions
from kerasllm.training.run.card import part_sizes


@dataclass(kw_only=True)
class Config(LabelledOptions, BertStartOptions, LowRankOptions, TrainingOptions):
    """Fine-tunes a BERT on labeled texts or pairs and writes a run directory."""

    group = "data"
    positions = 128

    vocabulary_size: int = 8192
    packing: bool = True
    """Pack several texts into a row, where none attends to another; otherwise pad rows to one of a few lengths."""

    learning_rate: float = 5e-5
    monitor: Literal["loss", "accuracy", "f1", "f1_macro", "f1_micro", "matthews", "pearson", "spearman"] = (
        field(default="loss", metadata=in_group("validation"))
    )
    """Validation figure that --restore_best and --patience use."""


def main(config: Config) -> int:
    """Goes from labeled texts to a tokenizer, token ids and batches, and trains."""
    if is_finished(config):
        return 0
    check(config)
    parts = config.read(config.seed)
    training = parts["train"]
    task = task_of(config, training)
    tokenizer = config.find_tokenizer(text for pair in training.texts for text in pair)
    encoded = {
        name: encode_texts(tokenizer, part.texts, config.sequence_length, part.place)
        for name, part in parts.items()
    }
    report(encoded)

    kind = PackedClassificationBatches if config.packing else ClassificationBatches

    def make_model() -> BertClassifier | BertRegressor:
        num_tokens = vocabulary_size(tokenizer)
        if isinstance(task, Regression):
            return config.make_bert(BertRegressor, num_tokens, seed=config.seed, **config.adapters)
        names = training.label_names
        settings = {"label_names": names, "multi_label": config.multi_label, "seed": config.seed}
        return config.make_bert(BertClassifier, num_tokens, **settings, **config.adapters)

    def make_job() -> Job:
        batches = config.labeled_batches(encoded, parts, kind, ClassificationBatches)
        return Job(
            task=task,
            make_model=make_model,
            tokenizer=tokenizer,
            **batches,
            monitor=config.monitor,
            recorded={
                "data": part_sizes(encoded),
                "labels": list(training.label_names or ()),
                "task": task.name,
                "steps": batches["batches"].steps,
            },
            example=("--text", first_words("\t".join(training.texts[0]))),
        )

    return train(config, make_job)


def check(config: Config) -> None:
    """Refuses settings that contradict each other, before anything is read."""
    config.check_parts()
    config.check_validation()
    if config.init and config.tokenizer:
        raise InputError(
            "--tokenizer is for training from scratch: with --init the checkpoint's own is taken"
        )
    config.check_adapters(config.init)
    config.check_start()


def task_of(config: Config, training: LabelledTexts) -> Classification | Regression:
    """Returns the task that suits the labels; its figures must include the one to be monitored."""
    regression = training.task == "regression"
    names = training.label_names or ()
    task = Regression() if regression else Classification(names, multi_label=config.multi_label)
    if config.monitor not in task.monitors:
        raise InputError(f"--monitor {config.monitor} is no figure of {task.name}")
    if config.monitor == "f1" and len(names) != 2:
        raise InputError("--monitor f1 is for two classes; with more it is f1_macro")
    return task


def report(encoded: dict[str, EncodedTexts]) -> None:
    """Prints one line about each part of the data."""
    for name, part in encoded.items():
        cut = part.num_truncated
        also = f", {cut:,} of them cut to {part.sequence_length} tokens" if cut else ""
        print(f"{name}: {counted(len(part), 'example')}{also}", flush=True)


if __name__ == "__main__":
    cli.run(main, Config)
