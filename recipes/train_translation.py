"""Trains an encoder-decoder on pairs of texts: translation, or any other text-to-text task.

KERAS_BACKEND=jax python recipes/train_translation.py --train train.en train.de --validation val.en val.de \
    --vocabulary_size 8000 --size mini --steps 3000 --output runs/translation
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from kerasllm import cli
from kerasllm.cli.ranges import above, at_least, within
from kerasllm.data.batches.translation import TranslationBatches
from kerasllm.data.examples.parallel import EncodedPairs
from kerasllm.data.sources.text import first_words
from kerasllm.generation.continuation import Settings
from kerasllm.generation.targets import TargetSettings
from kerasllm.tasks.translation import Translation, check_figures, translation_figures, translations
from kerasllm.training.job import Job, is_finished, train
from kerasllm.training.optimization.schedules import InverseSquareRootDecay, LinearWarmupDecay, warmup_steps
from kerasllm.training.options import BatchSize, JobOptions, ParallelOptions, Seq2SeqStartOptions
from kerasllm.training.run.card import part_sizes


@dataclass(kw_only=True)
class Config(ParallelOptions, Seq2SeqStartOptions, JobOptions):
    """Trains an encoder-decoder on pairs of texts and writes a run directory."""

    group = "data"

    batch_tokens: BatchSize = field(default=4096, metadata=at_least(2))
    """Places for source and target tokens of a batch together, with padding; auto measures and records the most."""

    steps: int = field(default=10_000, metadata=at_least(1))
    """Optimizer steps."""

    label_smoothing: float = field(default=0.1, metadata=within(0, 1))
    """Probability mass spread over the vocabulary in training."""

    schedule: Literal["inverse_square_root", "linear"] = "inverse_square_root"
    """Learning rate after warm-up: falls with the root of the step, or linearly to zero."""

    learning_rate: float = field(default=2e-3, metadata=above(0))
    warmup: float | None = None  # type: ignore[assignment]
    """Steps of linear warm-up; below 1, a share of all steps. If null, 400, or half of a run that has no more."""

    weight_decay: float = 0.0
    beta_2: float = 0.98
    num_beams: int = field(default=5, metadata=at_least(1))
    """Beams for the translation of --validation and --test at the end."""


SCHEDULES = {"inverse_square_root": InverseSquareRootDecay, "linear": LinearWarmupDecay}


def main(config: Config) -> int:
    """Goes from pairs of texts to a tokenizer, token ids and batches, and trains."""
    if is_finished(config):
        return 0
    check(config)
    parts = config.read()
    training = parts["train"]
    tags = sorted(training.tags | set(config.tags))
    tokenizer = config.find_tokenizer(training.sources, training.targets, tags)
    shape = config.find_shape(tokenizer)
    encoded = {name: config.encode(name, part, tokenizer, shape) for name, part in parts.items()}
    report(encoded)

    def translate(model: Any, name: str) -> dict[str, Any]:
        settings = TargetSettings(Settings(num_beams=config.num_beams))
        found = translations(model, tokenizer, parts[name].sources, settings)
        return translation_figures([own[0][0] for own in found], parts[name].targets)

    def make_job() -> Job:
        make_batches = partial(
            TranslationBatches,
            encoded["train"],
            batch_tokens=config.batch_tokens // 2,
            steps=config.steps,
            seed=config.seed,
            gradient_accumulation=config.gradient_accumulation,
        )
        batches = make_batches()
        held_out = {
            name: TranslationBatches(encoded[name], batch_tokens=config.batch_tokens // 2, shuffle=False)
            for name in parts
            if name != "train"
        }

        return Job(
            task=Translation(config.label_smoothing),
            make_model=lambda: config.make_model(config.class_of(shape), shape, seed=config.seed),
            batches=batches,
            make_batches=make_batches,
            tokenizer=tokenizer,
            held_out=held_out,
            final_figures=translate,
            eval_interval=max(config.steps // 10, 1),
            schedule=SCHEDULES[config.schedule],
            epsilon=1e-9,
            example=("--text", first_words(training.sources[0])),
            recorded={
                "data": part_sizes(encoded),
                "languages": [config.source_language, config.target_language],
            },
        )

    return train(config, make_job)


def check(config: Config) -> None:
    """Sets the warm-up, and refuses settings that contradict each other, before anything is read."""
    if config.warmup is None:
        config.warmup = 400 if config.steps > 400 else config.steps // 2
    warmup_steps(config.warmup, config.steps)
    config.check_validation()
    config.check_start()
    if config.validation or config.test:
        check_figures()


def report(encoded: dict[str, EncodedPairs]) -> None:
    """Prints one line about each part of the data."""
    for name, part in encoded.items():
        tokens = f"{len(part.source_ids):,} source and {len(part.target_ids):,} target tokens"
        line = f"{name}: {len(part):,} pairs, {tokens}"
        line += "".join(f"; {count:,} left out {reason}" for reason, count in part.left_out.items())
        print(line + (f"; {part.num_cut:,} texts cut" if part.num_cut else ""), flush=True)


if __name__ == "__main__":
    cli.run(main, Config)
