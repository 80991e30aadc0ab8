"""Pretrains a GPT on text of your own, character by character or with byte-level BPE.

KERAS_BACKEND=torch python recipes/pretrain_gpt.py --corpus my.txt --size gpt2 --steps 10000 --output runs/mine
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from kerasllm import GPTCausalLM, cli
from kerasllm.cli.ranges import at_least
from kerasllm.cli.settings import in_group
from kerasllm.data.batches.causal_lm import CausalBatches, CausalEvaluationBatches
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.sources.text import first_words
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.errors import InputError, naming
from kerasllm.tasks import CausalLanguageModeling
from kerasllm.training.callbacks.samples import sample_prompt
from kerasllm.training.job import Job, is_finished, train
from kerasllm.training.optimization.schedules import CosineWarmupDecay, warmup_steps
from kerasllm.training.options import BatchSize, CorpusOptions, GPTStartOptions, TrainingOptions
from kerasllm.training.run.card import part_sizes


@dataclass(kw_only=True)
class Config(CorpusOptions, GPTStartOptions, TrainingOptions):
    """Pretrains a GPT and writes a run directory."""

    group = "data"

    validation_fraction: float = 0.1
    validation_split: Literal["fraction", "document"] = field(
        default="fraction", metadata=in_group("validation")
    )
    """Set aside the end of the text for validation, or whole documents drawn at random."""

    within_documents: bool = False
    """Keep attention within documents, and restart positions at each."""

    batch_size: BatchSize = 12
    steps: int = field(default=5_000, metadata=at_least(1) | in_group("optimization"))
    """Optimizer steps."""

    learning_rate: float = 6e-4
    minimum_learning_rate: float | None = field(default=None, metadata=at_least(0) | in_group("optimization"))
    """Learning rate at the end of the cosine; a tenth of the peak if null."""

    warmup: float = 0.05
    weight_decay: float = 0.1
    beta_2: float = 0.95
    eval_batches: int | None = field(default=200, metadata=at_least(1) | in_group("validation"))
    """Training batches whose number of tokens is used per validation; all validation tokens if null."""

    sample_tokens: int = field(default=128, metadata=at_least(0) | in_group("validation"))
    """Tokens to generate at each validation, for samples.jsonl; 0 for no samples."""

    sample_prompt: str = field(default="", metadata=in_group("validation"))
    """Text that samples begin with; if empty, a line break for characters, else the token between documents."""


WINDOWS = ("context_length", "batch_size", "steps", "seed", "gradient_accumulation", "within_documents")


def main(config: Config) -> int:
    """Goes from the corpus to a tokenizer, a stream of token ids and windows, and trains."""
    if is_finished(config):
        return 0
    check(config)
    corpus = Corpus(config.corpus, config.text_column)
    tokenizer = config.find_tokenizer(piece.text for piece in corpus.raw_pieces())
    shape = config.find_shape(tokenizer)
    prompt = sample_prompt(tokenizer, config.sample_prompt, config.sample_tokens, shape.max_sequence_length)
    training, validation = config.token_streams(
        corpus, tokenizer, by=config.validation_split, seed=config.seed
    )
    sizes = part_sizes({"train": training, "validation": validation})
    tenth, minimum = config.learning_rate / 10, config.minimum_learning_rate
    most = min(max(config.context_length // 4, 1), 40)  # characters, each of at most four tokens

    def make_job() -> Job:
        make_batches = partial(CausalBatches, training, **{name: getattr(config, name) for name in WINDOWS})
        with naming(config.corpus_names):
            batches = make_batches()  # reports a text that is too short before anything is written
        return Job(
            task=CausalLanguageModeling(),
            make_model=lambda: config.make_model(GPTCausalLM, shape, seed=config.seed),
            batches=batches,
            make_batches=make_batches,
            tokens_per_step=config.context_length * config.batch_size * config.gradient_accumulation,
            tokenizer=tokenizer,
            held_out={"validation": windows(config, validation) if validation else None},
            eval_interval=max(config.steps // 10, 1),
            schedule=partial(CosineWarmupDecay, minimum=tenth if minimum is None else minimum),
            epsilon=1e-8,
            sample_prompt=prompt,
            sample_tokens=config.sample_tokens,
            recorded={"data": sizes, "corpus_sha256": corpus.fingerprint()},
            results=("corpus_sha256",),
            example=("--prompt", first_words(tokenizer.decode(training.tokens[:200].tolist()), most)),
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


def windows(config: Config, validation: TokenStream) -> CausalEvaluationBatches:
    """Returns the batches of the validation text, in adjacent windows."""
    batch_size = max(8192 // config.context_length, 1)  # without gradients, more fits than in training
    limit = None if config.eval_batches is None else -(-config.eval_batches * config.batch_size // batch_size)
    with naming(config.validation_names):
        return CausalEvaluationBatches(
            validation,
            context_length=config.context_length,
            batch_size=batch_size,
            limit=limit,
            within_documents=config.within_documents,
        )


if __name__ == "__main__":
    cli.run(main, Config)
