"""Compares the same fine-tuning of two arms, pretrained and from scratch, each with its own best learning rate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from kerasllm import BertBackbone, BertClassifier, BertConfig, backend
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.data.sources.python_docs_tasks import Task
from kerasllm.tasks.classification import predict_in_order
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import LinearWarmupDecay

ARMS = {"pretrained": "pretrained", "scratch": "from scratch"}
"""The two arms, and their names in the table and the picture."""

REMARKS = {
    "belong_together": "resembles next-sentence prediction, which the model was pretrained with",
    "swapped_words": "neighboring words changed places",
    "module": "a keyword task; all documents of these modules were kept out of the pretraining",
}


def compare(
    task: Task,
    pretrained: BertBackbone,
    tokenizer: Any,
    *,
    epochs: int,
    length: int,
    learning_rates: Sequence[float],
    seeds: int,
) -> dict[str, Any]:
    """Fine-tunes both arms with each learning rate and the first seed, and with the best rate and the other seeds.

    Args:
        task: the labeled task.
        pretrained: the backbone that one arm begins with.
        tokenizer: a `tokenizers.Tokenizer`.
        epochs: passes over the training examples.
        length: maximum tokens per example.
        learning_rates: rates of which each arm uses its best, by validation accuracy.
        seeds: number of fine-tunings of each arm.

    Returns:
        For each arm its `learning_rate`, `validation_by_learning_rate`, and the accuracies `validation` and `test` of
        each seed; `chance`, the test accuracy of always giving the most frequent label; and a description of the task.
    """
    batches: dict[str, Callable[..., ClassificationBatches]] = {}
    for name in ("train", "validation", "test"):
        texts, labels = zip(*getattr(task, name), strict=True)
        encoded = encode_texts(tokenizer, texts, length)
        batches[name] = partial(ClassificationBatches, encoded, np.array(labels, np.int32), buckets=None)
    held: dict[str, Any] = {"batch_size": 100, "seed": 0, "epochs": 1, "shuffle": False}
    validation, test = batches["validation"](**held), batches["test"](**held)
    shape = BertConfig(**vars(pretrained.config) | {"dropout": 0.1, "attention_dropout": 0.1})

    def start(arm: str, seed: int) -> BertClassifier:
        model = BertClassifier(shape, num_classes=len(task.label_names), seed=seed)
        if arm == "pretrained":
            sources = pretrained.named_variables()
            for name, variable in model.backbone.named_variables().items():
                variable.assign(keras.ops.convert_to_numpy(sources[name]))
        return model

    def make_batches(seed: int) -> ClassificationBatches:
        return batches["train"](batch_size=32, seed=seed, epochs=epochs, shuffle=True)

    print(
        f"{task.name.replace('_', ' ')}: fine-tuning {len(ARMS) * (len(learning_rates) + seeds - 1)} times on "
        f"{len(task.train):,} examples of {len(task.label_names)} classes, {epochs} epoch{'s' * (epochs > 1)} each …",
        flush=True,
    )
    tuners = {rate: RepeatedFineTuning(start("scratch", 0), make_batches, rate) for rate in learning_rates}

    def figures(arm: str, rate: float, seed: int) -> tuple[float, float]:
        model = tuners[rate].run(start(arm, seed), seed)
        return accuracy(model, validation), accuracy(model, test)

    result: dict[str, Any] = {}
    for arm in ARMS:
        first = {rate: figures(arm, rate, 0) for rate in tuners}
        best = max(first, key=lambda rate: first[rate][0])
        found = [first[best], *(figures(arm, best, seed) for seed in range(1, seeds))]
        result[arm] = {
            "learning_rate": best,
            "validation_by_learning_rate": {str(rate): accuracies[0] for rate, accuracies in first.items()},
            "validation": [accuracies[0] for accuracies in found],
            "test": [accuracies[1] for accuracies in found],
        }
    result["chance"] = float(np.bincount(test.labels).max() / len(test.labels))
    result |= {"remark": REMARKS[task.name], "classes": len(task.label_names), "epochs": epochs}
    return result | {"train_examples": len(task.train), "test_examples": len(task.test)}


class RepeatedFineTuning:
    """A classifier that can be fine-tuned repeatedly, from given initial weights and at one learning rate.

    It is compiled once, since compiling takes nearly as long as a small fine-tuning.

    Args:
        model: a model of the shape of both arms, whose weights are overwritten.
        make_batches: function from a seed to the training batches, whose number and shapes do not depend on the seed.
        learning_rate: peak of a linear schedule with a tenth of the steps for warm-up.
    """

    def __init__(
        self, model: Any, make_batches: Callable[[int], ClassificationBatches], learning_rate: float
    ) -> None:
        steps = make_batches(0).steps
        schedule = LinearWarmupDecay(learning_rate, steps=steps, warmup=max(steps // 10, 1))
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        )
        model.compile(optimizer=adamw(schedule), loss=loss, jit_compile=backend.jit_compile)
        model.optimizer.build(model.trainable_variables)
        self.model = model
        self.make_batches = make_batches
        self._optimizer_start = values_of(model.optimizer.variables)

    def run(self, initial: Any, seed: int) -> Any:
        """Returns the model trained from the weights and seed generators of `initial`, on the batches of `seed`."""
        variables = [*self.model.variables, *self.model.optimizer.variables]
        start = [*values_of(initial.variables), *self._optimizer_start]
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        self.model.fit(self.make_batches(seed), epochs=1, shuffle=False, verbose=0)
        return self.model


def values_of(variables: list) -> list[np.ndarray]:
    """Returns copies of the values of Keras variables as NumPy arrays."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def accuracy(model: Any, batches: ClassificationBatches) -> float:
    """Returns the share of the texts whose highest-scoring class is the right one."""
    predicted = predict_in_order(model, batches).argmax(axis=1)
    return float(np.mean(predicted == batches.labels))


def show(details: dict[str, Any]) -> None:
    """Prints a table with the mean and range of each arm's test accuracies."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Test accuracy after the same fine-tuning")
    for column in ("task", "labels", "chance", *ARMS.values(), "gain", "remark"):
        table.add_column(column, justify="left" if column in ("task", "remark") else "right")
    for name, result in details.items():
        arms = [result[arm]["test"] for arm in ARMS]
        cells = [f"{np.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})" for values in arms]
        gain = f"{100 * (np.mean(arms[0]) - np.mean(arms[1])):+.1f} points"
        labels, chance = f"{result['train_examples']:,}", f"{result['chance']:.3f}"
        table.add_row(
            name.replace("_", " "),
            labels,
            chance,
            *cells,
            gain,
            result["remark"],
        )
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 130).print(table)
