"""Pretrains a small BERT from scratch, fine-tunes it, and compares it with one that was not pretrained.

KERAS_BACKEND=jax python recipes/quickstart

The corpus is the documentation of the Python installation. Both models are fine-tuned on the same data for the same
number of epochs, each with its own best of three learning rates.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from kerasllm import cli  # reports a missing backend

# isort: split
from quick_comparison import ARMS, compare, show
from quick_pretraining import pretrain

from kerasllm.cli.ranges import above, at_least, within
from kerasllm.data.sources.python_docs import python_docs, python_docs_fingerprint
from kerasllm.data.sources.python_docs_tasks import (
    belong_together,
    held_out,
    module,
    module_documents,
    swapped_words,
)
from kerasllm.tokenizers.wordpiece import train_wordpiece
from kerasllm.training.callbacks.progress import in_words
from kerasllm.training.run.comparisons import plot_comparison
from kerasllm.training.run.directory import RunDirectory

TaskName = Literal["belong_together", "swapped_words", "module"]
TASKS = {"belong_together": belong_together, "swapped_words": swapped_words, "module": module}


@dataclass
class Config:
    """Pretrains a small BERT on Python's documentation and shows what that gains on labeled tasks."""

    output: str = "runs/quickstart"
    """Directory of the results, which is also the run directory of the pretraining."""

    steps: int = field(default=1400, metadata=at_least(1))
    """Optimizer steps of pretraining."""

    batch_size: int = field(default=64, metadata=at_least(1))
    """Examples per pretraining step."""

    sequence_length: int = field(default=64, metadata=at_least(8))
    """Tokens per pretraining example."""

    vocabulary_size: int = field(default=4096, metadata=at_least(1))
    """Size of the WordPiece vocabulary."""

    num_layers: int = field(default=2, metadata=at_least(1))
    """Number of blocks."""

    hidden_dim: int = field(default=128, metadata=at_least(1))
    """Width of the model; each attention head has a width of 64."""

    learning_rate: float = field(default=3e-3, metadata=above(0))
    """Peak learning rate of the pretraining."""

    initializer_range: float = 0.08
    """Standard deviation of initial values; about 1 / sqrt(hidden_dim) trains a narrow model faster than 0.02."""

    masking_probability: float = field(default=0.2, metadata=within(0, 1, above=True))
    """Share of the tokens to predict."""

    tasks: list[TaskName] = field(default_factory=lambda: [*get_args(TaskName)])
    """Tasks to fine-tune on."""

    train_examples: int = 1000
    """Labeled training examples of belong_together; the single-sentence tasks have twice as many."""

    epochs: int = 4
    """Epochs of fine-tuning on belong_together; half as many on the single-sentence tasks."""

    finetune_learning_rates: list[float] = field(default_factory=lambda: [1e-4, 3e-4, 1e-3])
    """Learning rates of fine-tuning; each of the two models uses its own best by validation accuracy."""

    seeds: int = 3
    """Number of fine-tunings of each of the two models, with different seeds."""

    resume: bool = False
    """Continue an interrupted pretraining."""


def main(config: Config) -> int:
    """Pretrains on the corpus, fine-tunes with and without the pretraining, and shows a table and a picture."""
    started = time.monotonic()
    output = Path(config.output)
    if RunDirectory.check(output, config, resume=config.resume):
        print(f"{output} is finished: nothing to resume")
        return 0
    print("reading the documentation of Python, Keras and NumPy on this machine …", flush=True)
    documents, fingerprint = list(python_docs()), python_docs_fingerprint()
    excluded = {document.name for document in documents if held_out(document)}
    excluded |= {document.name for document in module_documents(documents)}
    corpus = [document.sentences for document in documents if document.name not in excluded]
    print(
        f"{len(documents):,} documents, {len(corpus):,} of them with {sum(map(len, corpus)):,} sentences to "
        f"pretrain on; training a tokenizer of at most {config.vocabulary_size:,} tokens …",
        flush=True,
    )
    tokenizer = train_wordpiece((text for sentences in corpus for text in sentences), config.vocabulary_size)
    with RunDirectory.create(output, config, resume=config.resume) as run:
        run.record(corpus_sha256=fingerprint)
        model, interrupted, pretraining = pretrain(config, run, corpus, tokenizer)
        if interrupted:
            return interrupted
        print(f"pretraining: validation {in_words(pretraining)}", flush=True)
        details: dict[str, Any] = {}
        for name in config.tasks:
            pairs = name == "belong_together"
            examples = config.train_examples if pairs else 2 * config.train_examples
            details[name] = compare(
                TASKS[name](documents, train=examples, validation=500, test=1000, seed=0),
                model.backbone,
                tokenizer,
                epochs=config.epochs if pairs else max(config.epochs // 2, 1),
                length=config.sequence_length if pairs else config.sequence_length // 2,
                learning_rates=config.finetune_learning_rates,
                seeds=config.seeds,
            )
        accuracies = {name: {arm: result[arm]["test"] for arm in ARMS} for name, result in details.items()}
        results = {"tasks": accuracies, "validation": pretraining, "details": details}
        results |= {"task": "masked_lm", "steps": config.steps, "parameters": model.count_params()}
        results |= {"corpus_sha256": fingerprint, "settings": run.settings}
        plot_comparison(details, ARMS, output / "quickstart.png")
        run.write_results(results, seconds=time.monotonic() - started)
        show(details)
        minutes = (time.monotonic() - started) / 60
        print(f"{minutes:.1f} minutes; quickstart.png, results.json and the model are in {output}")
        print(f"to fill in a word: kerasllm predict --model {output} --text 'Returns the [MASK] of a file.'")
    return 0


if __name__ == "__main__":
    cli.run(main, Config)
