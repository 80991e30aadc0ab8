"""Fine-tunes a BERT to tag words: named entities, parts of speech and the like.

KERAS_BACKEND=jax python recipes/finetune_tagging.py --init runs/mine --train train.conll --validation dev.conll \
    --token_column 0 --label_column 1 --output runs/tagger
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from kerasllm import BertTokenClassifier, cli
from kerasllm.data.batches.labelled import LabelledBatches
from kerasllm.data.batches.tagged import PackedTaggingBatches, TaggingBatches
from kerasllm.data.examples.tagged import EncodedWords, encode_words, split_words
from kerasllm.data.sources.tagged import TaggedSentences, TagScheme, read_tagged
from kerasllm.errors import InputError
from kerasllm.tasks import Tagging
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.training.job import Job, is_finished, train
from kerasllm.training.model_options import BertStartOptions
from kerasllm.training.options import FineTuningOptions, TrainingOptions


@dataclass(kw_only=True)
class Config(FineTuningOptions, BertStartOptions, TrainingOptions):
    """Fine-tunes a BERT on sentences whose words have tags, and writes a run directory."""

    positions = 128

    token_column: str | None = None
    """Column of the words: its number from 0 in CoNLL files (0 if null), its name elsewhere."""

    label_column: str | None = None
    """Column of the tags, likewise; the last one in CoNLL files if null."""

    tag_scheme: TagScheme = "auto"
    """Scheme of the tags to train on; auto keeps IOB2 and BIOES, and converts IOB1; none takes tags as they are."""

    vocabulary_size: int = 8192
    packing: bool = True
    """Pack several sentences into a row, where none attends to another; otherwise pad rows to one of a few lengths."""

    learning_rate: float = 1e-4
    monitor: Literal["loss", "accuracy", "f1", "f1_macro", "f1_strict", "f1_viterbi"] = "loss"
    """Validation figure that --restore_best and --patience use."""


NO_GROWTH: frozenset[str] = frozenset()  # more epochs would change the schedule


def main(config: Config) -> int:
    """Goes from tagged sentences to a tokenizer, token ids and batches, and trains."""
    if is_finished(config, may_grow=NO_GROWTH):
        return 0
    check(config)
    parts, tokenizer = read(config)
    training = parts["train"]
    task = Tagging(training.label_names, training.scheme)
    if config.monitor.startswith("f1") and training.scheme == "none":
        raise InputError(f"--monitor {config.monitor} needs tags of entities, as in O, B-person and I-person")
    encoded = {
        name: encode_words(tokenizer, part.words, config.sequence_length) for name, part in parts.items()
    }
    report(parts, encoded)

    def make_batches(start_step: int = 0) -> LabelledBatches:
        kind = PackedTaggingBatches if config.packing else TaggingBatches
        return kind(
            encoded["train"],
            training.labels,
            batch_size=config.batch_size,
            seed=config.seed,
            epochs=config.epochs,
            gradient_accumulation=config.gradient_accumulation,
            start_step=start_step,
        )

    def make_model() -> BertTokenClassifier:
        names = training.label_names
        size = vocabulary_size(tokenizer)
        return config.make_model(BertTokenClassifier, size, label_names=names, seed=config.seed)

    batches = make_batches()
    held_out = {
        name: TaggingBatches(encoded[name], parts[name].labels, batch_size=config.batch_size, shuffle=False)
        for name in parts
        if name != "train"
    }
    return train(
        config,
        Job(
            task=task,
            make_model=make_model,
            batches=batches,
            make_batches=make_batches,
            tokens_per_step=lambda step: batches.real_tokens(step - 1),
            tokenizer=tokenizer,
            held_out=held_out,
            eval_interval=batches.steps_per_epoch,
            monitor=config.monitor,
            recorded={
                "labels": list(training.label_names),
                "scheme": training.scheme,
                "steps": batches.steps,
            },
            may_grow=NO_GROWTH,
        ),
    )


def check(config: Config) -> None:
    """Refuses settings that contradict each other, before anything is read."""
    config.check_validation(config.validation is not None, "--validation")
    config.check_start()


def read(config: Config) -> tuple[dict[str, TaggedSentences], Any]:
    """Returns the data by part, and the tokenizer; texts with spans need that of --init or --tokenizer."""
    tokenizer = config.find_tokenizer(()) if config.init or config.tokenizer else None
    splitter = partial(split_words, tokenizer) if tokenizer else None
    columns = config.token_column, config.label_column
    parts: dict[str, TaggedSentences] = {}
    for name, source in config.sources.items():
        names = parts["train"].label_names if parts else None
        parts[name] = read_tagged(
            source, *columns, scheme=config.tag_scheme, label_names=names, split_words=splitter, split=name
        )
    if tokenizer is None:
        tokenizer = config.find_tokenizer(" ".join(words) for words in parts["train"].words)
    return parts, tokenizer


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
