"""Pretrains a recurrent language model on text of your own: an LSTM, a GRU or a simple RNN.

KERAS_BACKEND=jax python recipes/pretrain_recurrent.py --corpus my.txt --tokenizer characters --cell lstm \
    --steps 2000 --output runs/mine
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kerasllm import RecurrentLM, cli
from kerasllm.cli.ranges import at_least
from kerasllm.cli.settings import in_group
from kerasllm.data.batches.causal_lm import CausalBatches, CausalEvaluationBatches
from kerasllm.data.batches.lanes import LaneBatches, LaneEvaluationBatches
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.sources.text import first_words
from kerasllm.errors import InputError, naming
from kerasllm.tasks import CausalLanguageModeling
from kerasllm.training.callbacks.samples import sample_prompt
from kerasllm.training.job import Job, is_finished, train
from kerasllm.training.optimization.schedules import CosineWarmupDecay, warmup_steps
from kerasllm.training.options import BatchSize, CorpusOptions, RecurrentStartOptions, TrainingOptions
from kerasllm.training.run.card import part_sizes


@dataclass(kw_only=True)
class Config(CorpusOptions, RecurrentStartOptions, TrainingOptions):
    """Pretrains a recurrent language model and writes a run directory."""

    group = "data"

    context_length: int = field(default=64, metadata=at_least(1))
    """Tokens of a row, through which gradients go back."""

    carry_state: bool = True
    """Cut the text into lanes, and begin each batch with the state that the one before ended with; else with zeros."""

    validation_fraction: float = 0.1
    batch_size: BatchSize = 32
    steps: int = field(default=2_000, metadata=at_least(1) | in_group("optimization"))
    """Optimizer steps."""

    learning_rate: float = 2e-3
    minimum_learning_rate: float | None = field(default=None, metadata=at_least(0) | in_group("optimization"))
    """Learning rate at the end of the cosine; a twentieth of the peak if null."""

    warmup: float = 0
    weight_decay: float = 0.0
    validation_lanes: int = field(default=32, metadata=at_least(1) | in_group("validation"))
    """Lanes that the validation text is cut into; each begins with a state of zeros."""

    sample_tokens: int = field(default=128, metadata=at_least(0) | in_group("validation"))
    """Tokens to generate at each validation, for samples.jsonl; 0 for no samples."""

    sample_prompt: str = field(default="", metadata=in_group("validation"))
    """Text that samples begin with; if empty, a line break for characters, else the token between documents."""


SHAPE = ("context_length", "batch_size", "steps", "seed", "gradient_accumulation")


def main(config: Config) -> int:
    """Goes from the corpus to a tokenizer, a stream of token ids and lanes, and trains."""
    if is_finished(config):
        return 0
    check(config)
    corpus = Corpus(config.corpus, config.text_column)
    tokenizer = config.find_tokenizer(piece.text for piece in corpus.raw_pieces())
    shape = config.find_shape(tokenizer)
    prompt = sample_prompt(tokenizer, config.sample_prompt, config.sample_tokens, shape.max_sequence_length)
    training, validation = config.token_streams(corpus, tokenizer)
    kind: Any = LaneBatches if config.carry_state else CausalBatches

    def without_state(model: Any, name: str) -> dict[str, Any]:
        """Returns the loss of windows that each begin with zeros, beside that of a carried state."""
        size = max(8192 // config.context_length, 1)
        windows = CausalEvaluationBatches(
            validation or training, context_length=config.context_length, batch_size=size
        )
        return {"loss_without_carried_state": CausalLanguageModeling().evaluate(model, windows)["loss"]}

    held_out = None
    if validation:
        with naming(config.validation_names):
            held_out = LaneEvaluationBatches(
                validation, context_length=config.context_length, batch_size=config.validation_lanes
            )

    twentieth, minimum = config.learning_rate / 20, config.minimum_learning_rate

    def make_model() -> RecurrentLM:
        model = config.make_model(RecurrentLM, shape, seed=config.seed)
        model.carry_state(
            training_rows=config.batch_size if config.carry_state else 0,
            evaluation_rows=config.validation_lanes if validation else 0,
            parts=config.gradient_accumulation,
        )
        return model

    def make_job() -> Job:
        make_batches = partial(kind, training, **{name: getattr(config, name) for name in SHAPE})
        with naming(config.corpus_names):
            batches = make_batches()  # reports a text that is too short before anything is written
        return Job(
            task=CausalLanguageModeling(),
            make_model=make_model,
            batches=batches,
            make_batches=make_batches,
            tokens_per_step=config.context_length * config.batch_size * config.gradient_accumulation,
            tokenizer=tokenizer,
            held_out={"validation": held_out},
            final_figures=without_state,
            eval_interval=max(config.steps // 10, 1),
            schedule=partial(CosineWarmupDecay, minimum=twentieth if minimum is None else minimum),
            epsilon=1e-8,
            sample_prompt=prompt,
            sample_tokens=config.sample_tokens,
            recorded={
                "data": part_sizes({"train": training, "validation": validation}),
                "corpus_sha256": corpus.fingerprint(),
            },
            results=("corpus_sha256",),
            example=("--prompt", first_words(tokenizer.decode(training.tokens[:200].tolist()), 40)),
        )

    return train(config, make_job)


def check(config: Config) -> None:
    """Refuses settings that contradict each other, before anything is read."""
    warmup_steps(config.warmup, config.steps)
    minimum = config.minimum_learning_rate
    if minimum is not None and minimum > config.learning_rate:
        raise InputError(
            f"--minimum_learning_rate is {minimum}, it must lie between 0 and --learning_rate {config.learning_rate}"
        )
    config.check_validation()
    config.check_start()


if __name__ == "__main__":
    cli.run(main, Config)
