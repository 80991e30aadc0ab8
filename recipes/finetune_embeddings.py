"""Fine-tunes a BERT to encode texts as vectors, from pairs, triplets, graded pairs or plain text.

KERAS_BACKEND=jax python recipes/finetune_embeddings.py --init runs/mine --train pairs.tsv --text_columns 0,1 \
    --validation dev.tsv --output runs/encoder
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from kerasllm import BertEncoder, cli
from kerasllm.cli.ranges import at_least
from kerasllm.cli.settings import in_group
from kerasllm.data.batches.pairs import HeldOutGroups, PairBatches
from kerasllm.data.examples.pairs import EncodedGroups, encode_groups
from kerasllm.errors import InputError
from kerasllm.tasks.embedding import teacher_targets
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.training.job import Job, is_finished, train
from kerasllm.training.options import BertStartOptions, LowRankOptions, PairOptions, TrainingOptions
from kerasllm.training.run.card import part_sizes


@dataclass(kw_only=True)
class Config(PairOptions, BertStartOptions, LowRankOptions, TrainingOptions):
    """Fine-tunes a BERT on texts that belong together, and writes a run directory."""

    group = "data"
    positions = 128

    pooling: Literal["mean", "cls", "max"] | None = None
    """How the vectors of tokens become one; that of --init, or mean, if null."""

    projection_dim: int | None = field(default=None, metadata=at_least(1))
    """Size of a dense projection of the pooled vector; that of --init, or none, if null."""

    vocabulary_size: int = 8192
    learning_rate: float = 5e-5
    monitor: Literal["loss", "mrr@10", "recall@1", "spearman", "pearson"] = field(
        default="loss", metadata=in_group("validation")
    )
    """Validation figure that --restore_best and --patience use."""


def main(config: Config) -> int:
    """Goes from texts that belong together to a tokenizer, token ids and batches, and trains."""
    if is_finished(config):
        return 0
    check(config)
    parts = config.read(config.seed)
    task = config.make_task(parts["train"], config.monitor)
    tokenizer = config.find_tokenizer(text for group in parts["train"].texts for text in group)
    encoded = {name: encode_groups(tokenizer, part, config.sequence_length) for name, part in parts.items()}
    report(encoded)
    targets = teacher_targets(config.teacher, parts["train"], encoded["train"]) if config.teacher else None

    def make_job() -> Job:
        make_batches = partial(
            PairBatches,
            encoded["train"],
            targets=targets,
            parts=config.parts_of(config.batch_size),
            **config.for_batches,
        )
        batches = make_batches()
        return Job(
            task=task,
            make_model=lambda: make_model(config, tokenizer, targets),
            batches=batches,
            make_batches=make_batches,
            tokenizer=tokenizer,
            held_out={
                name: HeldOutGroups(part, batch_size=config.batch_size)
                for name, part in encoded.items()
                if name != "train"
            },
            monitor=config.monitor,
            recorded={"data": part_sizes(parts), "loss": task.loss, "steps": batches.steps},
        )

    return train(config, make_job)


def check(config: Config) -> None:
    """Refuses settings that contradict each other, before anything is read."""
    config.check_parts()
    config.check_validation()
    config.check_adapters(config.init)
    config.check_start()
    config.check_loss()


def make_model(config: Config, tokenizer: Any, targets: np.ndarray | None) -> BertEncoder:
    """Returns the encoder, whose vectors must be as wide as the settings need."""
    asked = {name: getattr(config, name) for name in ("pooling", "projection_dim") if getattr(config, name)}
    asked |= {"sequence_length": config.sequence_length, "seed": config.seed, **config.adapters}
    model = config.make_bert(BertEncoder, vocabulary_size(tokenizer), **asked)
    model.training_parts = config.parts_of(config.batch_size)
    if max(config.matryoshka_dims, default=1) > model.dim or min(config.matryoshka_dims, default=1) < 1:
        raise InputError(f"--matryoshka_dims {config.matryoshka_dims}: the vectors have {model.dim} numbers")
    if targets is not None and targets.shape[1] != model.dim:
        raise InputError(
            f"--teacher has vectors of {targets.shape[1]} numbers, the model of {model.dim}: give "
            f"--projection_dim {targets.shape[1]}"
        )
    return model


def report(encoded: dict[str, EncodedGroups]) -> None:
    """Prints one line about each part of the data."""
    for name, part in encoded.items():
        cut = part.texts.num_truncated
        also = f", {cut:,} of them cut to {part.texts.sequence_length} tokens" if cut else ""
        print(f"{name}: {len(part):,} groups of {len(part.texts):,} texts{also}", flush=True)


if __name__ == "__main__":
    cli.run(main, Config)
