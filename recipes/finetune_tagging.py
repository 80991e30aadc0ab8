"""Fine-tunes a BERT to tag words: named entities, parts of speech and the like.

KERAS_BACKEND=jax python recipes/finetune_tagging.py --init runs/mine --train train.conll --validation dev.conll \
    --token_column 0 --label_column 1 --output runs/tagger
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from kerasllm import BertTokenClassifier, cli
from kerasllm.cli.settings import in_group
from kerasllm.data.batches.tagged import PackedTaggingBatches, TaggingBatches
from kerasllm.data.examples.tagged import EncodedWords, encode_words, split_words
from kerasllm.data.sources.tagged import TaggedSentences
from kerasllm.data.sources.text import first_words
from kerasllm.errors import InputError
from kerasllm.tasks import Tagging
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.training.job import Job, is_finished, train
from kerasllm.training.options import BertStartOptions, LowRankOptions, TaggedOptions, TrainingOptions
from kerasllm.training.run.card import part_sizes


@dataclass(kw_only=True)
class Config(TaggedOptions, BertStartOptions, LowRankOptions, TrainingOptions):
    """Fine-tunes a BERT on sentences whose words have tags, and writes a run directory."""

    group = "data"
    positions = 128

    vocabulary_size: int = 8192
    packing: bool = True
    """Pack several sentences into a row, where none attends to another; otherwise pad rows to one of a few lengths."""

    learning_rate: float = 1e-4
    monitor: Literal["loss", "accuracy", "f1", "f1_macro", "f1_strict", "f1_viterbi"] = field(
        default="loss", metadata=in_group("validation")
    )
    """Validation figure that --restore_best and --patience use."""


def main(config: Config) -> int:
    """Goes from tagged sentences to a tokenizer, token ids and batches, and trains."""
    if is_finished(config):
        return 0
    check(config)
    tokenizer = config.find_tokenizer(()) if config.init or config.tokenizer else None
    parts = config.read(config.seed, partial(split_words, tokenizer) if tokenizer else None)
    training = parts["train"]
    tokenizer = tokenizer or config.find_tokenizer(" ".join(words) for words in training.words)
    task = Tagging(training.label_names, training.scheme)
    if config.monitor.startswith("f1") and training.scheme == "none":
        raise InputError(f"--monitor {config.monitor} needs tags of entities, as in O, B-person and I-person")
    encoded = {
        name: encode_words(tokenizer, part.words, config.sequence_length) for name, part in parts.items()
    }
    report(parts, encoded)

    kind = PackedTaggingBatches if config.packing else TaggingBatches

    def make_model() -> BertTokenClassifier:
        names = training.label_names
        size = vocabulary_size(tokenizer)
        model = config.make_bert(
            BertTokenClassifier, size, label_names=names, seed=config.seed, **config.adapters
        )
        model.begin_with_frequencies(np.bincount(training.labels, minlength=len(names)))
        return model

    def make_job() -> Job:
        batches = config.labeled_batches(encoded, parts, kind, TaggingBatches)
        return Job(
            task=task,
            make_model=make_model,
            tokenizer=tokenizer,
            **batches,
            monitor=config.monitor,
            recorded={
                "data": part_sizes(parts),
                "labels": list(training.label_names),
                "scheme": training.scheme,
                "steps": batches["batches"].steps,
            },
            example=("--text", first_words(" ".join(training.words[0]))),
        )

    return train(config, make_job)


def check(config: Config) -> None:
    """Refuses settings that contradict each other, before anything is read."""
    config.check_parts()
    config.check_validation()
    config.check_adapters(config.init)
    config.check_start()


def report(parts: dict[str, TaggedSentences], encoded: dict[str, EncodedWords]) -> None:
    """Prints a line about each part of the data, and what is unusual in it."""
    for name, part in parts.items():
        words = encoded[name]
        line = f"{name}: {len(part):,} sentences, {words.num_words.sum():,} words"
        if words.num_cut:
            line += f", {words.num_cut:,} sentences in several windows"
        if words.num_lost:
            line += f", {words.num_lost:,} words without a token"
        print("\n".join([line, *(f"{name}: {note}" for note in part.notes)]), flush=True)


if __name__ == "__main__":
    cli.run(main, Config)
