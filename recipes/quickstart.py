"""From nothing to a pretrained BERT that pays: corpus, tokenizer, pretraining, fine-tuning, comparison.

KERAS_BACKEND=jax python recipes/quickstart.py

The corpus is the documentation of the Python installation. The same fine-tuning is done from the pretrained
checkpoint and from scratch: same data, same epochs, each arm with its own best of three learning rates.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerasllm import (  # tells if Keras lacks its backend
    BertBackbone,
    BertClassifier,
    BertConfig,
    BertPretraining,
    cli,
)

# isort: split
import keras
import numpy as np

from kerasllm.checkpoints import write_model
from kerasllm.data.batches.masked_lm import BertPretrainingBatches
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.data.sources.python_docs import python_docs, python_docs_fingerprint
from kerasllm.data.sources.python_docs_tasks import (
    Task,
    belong_together,
    held_out,
    module,
    module_documents,
    swapped_words,
)
from kerasllm.data.token_cache.store import store_of_sentences
from kerasllm.tasks.masked_lm import compile_pretraining, evaluate_pretraining
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.wordpiece import special_token_ids, train_wordpiece
from kerasllm.training.fit import fit_run
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import LinearWarmupDecay
from kerasllm.training.quick_finetuning import RepeatedFineTuning, accuracy
from kerasllm.training.run.curves import plot_comparison
from kerasllm.training.run.directory import RunDirectory

REMARKS = {
    "belong_together": "resembles next-sentence prediction, which the model was pretrained with",
    "swapped_words": "neighbouring words changed places",
    "module": "a keyword task; all documents of these modules were kept out of the pretraining",
}


@dataclass
class Config:
    """Pretrains a small BERT on Python's documentation and shows what that is worth on labelled tasks."""

    output: str = "runs/quickstart"
    """Directory of the results; it is the run directory of the pretraining, too."""

    steps: int = 1400
    """Steps of pretraining."""

    batch_size: int = 64
    """Examples of a pretraining step."""

    sequence_length: int = 64
    """Tokens of a pretraining example."""

    vocabulary_size: int = 4096
    """Size of the WordPiece vocabulary."""

    num_layers: int = 2
    """Number of blocks."""

    hidden_dim: int = 128
    """Width; heads are 64 wide."""

    learning_rate: float = 3e-3
    """Peak learning rate of the pretraining."""

    initializer_range: float = 0.08
    """Standard deviation of initial values, about 1 / sqrt(hidden_dim): a narrow model learns sooner than with 0.02."""

    masking_probability: float = 0.2
    """Share of the tokens to predict."""

    tasks: list[str] = field(default_factory=lambda: ["belong_together", "swapped_words", "module"])
    """Tasks to fine-tune on."""

    train_examples: int = 1000
    """Labelled training examples of belong_together; the single-sentence tasks have twice as many."""

    epochs: int = 4
    """Epochs of fine-tuning on belong_together; half as many on the single-sentence tasks."""

    finetune_learning_rates: list[float] = field(default_factory=lambda: [1e-4, 3e-4, 1e-3])
    """Each arm takes its own best of these, by validation accuracy."""

    seeds: int = 3
    """Fine-tunings of each arm that are reported."""

    resume: bool = False
    """Go on with an interrupted pretraining."""


def main(config: Config) -> int:
    """Corpus → tokenizer → pretraining → fine-tuning, pretrained and from scratch → table and picture."""
    started = time.monotonic()
    output = Path(config.output)
    if RunDirectory.check(output, config, resume=config.resume):
        print(f"{output} is finished: nothing to resume")
        return 0
    say("reading the documentation of Python, Keras and NumPy on this machine")
    documents = list(python_docs())
    excluded = {document.name for document in documents if held_out(document)}
    excluded |= {document.name for document in module_documents(documents)}
    corpus = [document for document in documents if document.name not in excluded]
    sentences = sum(len(document.sentences) for document in corpus)
    say(
        f"corpus {python_docs_fingerprint()[:16]}: {len(documents)} documents, {len(corpus)} of them with "
        f"{sentences:,} sentences to pretrain on"
    )
    tokenizer = train_wordpiece((text for d in corpus for text in d.sentences), config.vocabulary_size)
    with RunDirectory.create(output, config, resume=config.resume) as run:
        run.record(corpus_sha256=python_docs_fingerprint())
        model, interrupted, pretraining = pretrain(config, run, corpus, tokenizer)
        if interrupted:
            return interrupted
        say(", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in pretraining.items()))
        tasks: dict[str, Any] = {}
        for task in make_tasks(config, documents):
            tasks[task.name] = compare(config, task, model.backbone, tokenizer)
        accuracies = {
            name: {arm: result[arm]["test"] for arm in ("pretrained", "scratch")}
            for name, result in tasks.items()
        }
        results = {
            "tasks": accuracies,
            "pretraining": pretraining,
            "details": tasks,
            "corpus_sha256": python_docs_fingerprint(),
            "settings": run.settings,
        }
        plot_comparison(accuracies, output / "quickstart.png")
        run.write_results(results, seconds=time.monotonic() - started)
        show(tasks)
        minutes = (time.monotonic() - started) / 60
        say(f"{minutes:.1f} minutes; results.json, quickstart.png and the model are in {output}")
    return 0


def say(text: str) -> None:
    """A line of the story."""
    print(f"• {text}", flush=True)


def pretrain(
    config: Config, run: RunDirectory, corpus: list, tokenizer: Any
) -> tuple[BertPretraining, int | None, dict[str, float]]:
    """The pretrained model, an exit code if it was told to stop, and its validation figures."""
    store = store_of_sentences([document.sentences for document in corpus], tokenizer)
    train, validation = store.split(0.03, 0, least=2)
    settings: dict[str, Any] = {
        "special": special_token_ids(tokenizer),
        "sequence_length": config.sequence_length,
        "batch_size": config.batch_size,
        "masking_probability": config.masking_probability,
    }

    def make_batches(start_step: int) -> BertPretrainingBatches:
        return BertPretrainingBatches(train, steps=config.steps, start_step=start_step, seed=0, **settings)

    held = BertPretrainingBatches(validation, steps=50, seed=1, pad_last=True, prefetch=0, **settings)
    batches = make_batches(0)
    shape = BertConfig(
        vocabulary_size=tokenizer.get_vocab_size(),
        num_layers=config.num_layers,
        num_heads=max(config.hidden_dim // 64, 1),
        hidden_dim=config.hidden_dim,
        max_sequence_length=config.sequence_length,
        dropout=0.0,
        initializer_range=config.initializer_range,
    )
    model = BertPretraining(shape, seed=0)
    say(f"pretraining {model.count_params():,} parameters for {config.steps} steps")
    schedule = LinearWarmupDecay(config.learning_rate, steps=config.steps, warmup=config.steps // 10)
    compile_pretraining(model, adamw(schedule, beta_2=0.98))
    result = fit_run(
        model,
        make_batches,
        run,
        steps=config.steps,
        tokens_per_step=batches.mean_fill * config.sequence_length * config.batch_size,
        checkpoint_minutes=2.0,
        keep=1,
        resume=config.resume,
    )
    if result.interrupted:
        return model, result.interrupted, {}
    write_model(model, run.model)
    save_tokenizer(tokenizer, run.model, max_length=config.sequence_length)
    return model, None, evaluate_pretraining(model, held)


def make_tasks(config: Config, documents: list) -> list[Task]:
    """The tasks asked for."""
    few = {"train": config.train_examples, "validation": 500, "test": 1000, "seed": 0}
    many = few | {"train": 2 * config.train_examples}
    makers: dict[str, Callable[[], Task]] = {
        "belong_together": lambda: belong_together(documents, **few),
        "swapped_words": lambda: swapped_words(documents, **many),
        "module": lambda: module(documents, **many),
    }
    return [makers[name]() for name in config.tasks]


def compare(config: Config, task: Task, pretrained: BertBackbone, tokenizer: Any) -> dict[str, Any]:
    """Fine-tunes both arms: each learning rate with the first seed, the best of them with the others."""
    pairs = len(task.train[0][0]) == 2
    epochs = config.epochs if pairs else max(config.epochs // 2, 1)
    length = config.sequence_length if pairs else config.sequence_length // 2
    encoded, labels = {}, {}
    for name in ("train", "validation", "test"):
        part = getattr(task, name)
        encoded[name] = encode_texts(tokenizer, [texts for texts, _ in part], length)
        labels[name] = np.array([label for _, label in part], np.int32)

    def batches_of(name: str, seed: int = 0, training: bool = False) -> ClassificationBatches:
        return ClassificationBatches(
            encoded[name],
            labels[name],
            batch_size=32 if training else 100,
            seed=seed,
            epochs=epochs if training else 1,
            shuffle=training,
            buckets=None,
        )

    shape = BertConfig(**vars(pretrained.config) | {"dropout": 0.1, "attention_dropout": 0.1})

    def start(arm: str, seed: int) -> BertClassifier:
        model = BertClassifier(shape, num_classes=len(task.label_names), seed=seed)
        if arm == "pretrained":
            sources = pretrained.named_variables()
            for name, variable in model.backbone.named_variables().items():
                variable.assign(keras.ops.convert_to_numpy(sources[name]))
        return model

    say(f"{task.name}: {len(task.train):,} examples, {len(task.label_names)} classes, {epochs} epochs")
    tuners = {
        rate: RepeatedFineTuning(
            start("scratch", 0), lambda seed: batches_of("train", seed, training=True), rate
        )
        for rate in config.finetune_learning_rates
    }
    result: dict[str, Any] = {}
    for arm in ("pretrained", "scratch"):
        first = {}
        for rate, tuner in tuners.items():
            model = tuner.run(start(arm, 0), 0)
            first[rate] = (accuracy(model, batches_of("validation")), accuracy(model, batches_of("test")))
        best = max(first, key=lambda rate: first[rate][0])
        found = [first[best]]
        for seed in range(1, config.seeds):
            model = tuners[best].run(start(arm, seed), seed)
            found.append((accuracy(model, batches_of("validation")), accuracy(model, batches_of("test"))))
        result[arm] = {
            "learning_rate": best,
            "validation_by_learning_rate": {str(rate): figures[0] for rate, figures in first.items()},
            "validation": [figures[0] for figures in found],
            "test": [figures[1] for figures in found],
        }
    result |= {
        "remark": REMARKS[task.name],
        "classes": len(task.label_names),
        "train_examples": len(task.train),
    }
    return result | {"test_examples": len(task.test), "epochs": epochs}


def show(tasks: dict[str, Any]) -> None:
    """The table, on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Test accuracy after the same fine-tuning")
    for column in ("task", "labels", "pretrained", "from scratch", "gain", "remark"):
        table.add_column(column, justify="left" if column in ("task", "remark") else "right")
    for name, result in tasks.items():
        arms = [result[arm]["test"] for arm in ("pretrained", "scratch")]
        cells = [f"{np.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})" for values in arms]
        gain = f"{100 * (np.mean(arms[0]) - np.mean(arms[1])):+.1f} points"
        table.add_row(name.replace("_", " "), f"{result['train_examples']:,}", *cells, gain, result["remark"])
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 130).print(table)


if __name__ == "__main__":
    cli.run(main, Config)
