"""Pretrains a BERT with masked-LM and next-sentence prediction on text of your own.

KERAS_BACKEND=jax python recipes/pretrain_bert.py --corpus my.txt --size mini --steps 10000 --output runs/mine
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from kerasllm import BertPretraining, cli
from kerasllm.cli.ranges import at_least, within
from kerasllm.cli.settings import in_group
from kerasllm.data.batches.masked_lm import BertPretrainingBatches, read_objectives
from kerasllm.data.batches.sentence_pairs import SHORTEST_SEQUENCE
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache.store import TokenStore, tokenize_corpus
from kerasllm.errors import InputError, naming
from kerasllm.tasks import MaskedLanguageModeling
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.wordpiece import continuation_mask, special_token_ids
from kerasllm.training.job import Job, is_finished, train
from kerasllm.training.optimization.schedules import warmup_steps
from kerasllm.training.options import BertStartOptions, CorpusOptions, TrainingOptions
from kerasllm.training.run.card import part_sizes


@dataclass(kw_only=True)
class Config(CorpusOptions, BertStartOptions, TrainingOptions):
    """Pretrains a BERT with masked-LM and next-sentence prediction and writes a run directory."""

    group = "data"

    shortest = SHORTEST_SEQUENCE

    objectives: list[Literal["masked_lm", "next_sentence", "sentence_order"]] = field(
        default_factory=lambda: ["masked_lm", "next_sentence"]
    )
    """masked_lm alone (RoBERTa's full sequences), or with next_sentence (BERT) or sentence_order (ALBERT)."""

    masking: Literal["token", "whole_word", "span"] = "token"
    """Unit that is masked as a whole: single tokens, words, or spans of words (SpanBERT)."""

    masking_probability: float = field(default=0.15, metadata=within(0, 1, above=True))
    """Share of the tokens to predict."""

    packing: bool = False
    """Pack several examples into a row, where none attends to another; --batch_size then counts rows."""

    steps: int = field(default=10_000, metadata=at_least(1) | in_group("optimization"))
    """Optimizer steps."""

    eval_batches: int = field(default=50, metadata=at_least(1) | in_group("validation"))
    """Maximum batches per validation."""


def main(config: Config) -> int:
    """Goes from the corpus to a tokenizer, token ids and masked pairs of sentences, and trains."""
    if is_finished(config):
        return 0
    check(config)
    corpus = Corpus(config.corpus, text_column=config.text_column)
    tokenizer = config.find_tokenizer(sentence for document in corpus.documents() for sentence in document)
    training, validation = token_stores(config, corpus, tokenizer)
    names = ("sequence_length", "objectives", "packing", "masking", "masking_probability")
    settings: dict[str, Any] = {
        "special": special_token_ids(tokenizer),
        "continuation": continuation_mask(tokenizer),
        **{name: getattr(config, name) for name in names},
    }

    def make_model() -> BertPretraining:
        heads = ["next_sentence" if name == "sentence_order" else name for name in config.objectives]
        return config.make_bert(
            BertPretraining, vocabulary_size(tokenizer), objectives=heads, seed=config.seed
        )

    def make_job() -> Job:
        sized = settings | {"batch_size": config.batch_size}
        run: dict[str, Any] = {"steps": config.steps, "seed": config.seed}
        run["gradient_accumulation"] = config.gradient_accumulation
        make_batches = partial(BertPretrainingBatches, training, **run, **sized)
        batches = make_batches()
        held_out: dict[str, Any] = {"validation": None}
        if validation is not None:
            shorter: dict[str, Any] = {"steps": config.eval_batches, "seed": config.seed + 1}
            with naming("validation"):
                held_out["validation"] = BertPretrainingBatches(
                    validation, **shorter, pad_last=True, prefetch=0, **sized
                )
        rows = config.batch_size * config.gradient_accumulation
        return Job(
            task=MaskedLanguageModeling(),
            make_model=make_model,
            batches=batches,
            make_batches=make_batches,
            tokens_per_step=batches.mean_fill * config.sequence_length * rows,
            tokenizer=tokenizer,
            held_out=held_out,
            eval_interval=max(config.steps // 10, 1),
            recorded={
                "data": part_sizes({"train": training, "validation": validation}),
                "corpus_sha256": corpus.fingerprint(),
                "mean_fill": round(batches.mean_fill, 4),
            },
            results=("corpus_sha256",),
        )

    return train(config, make_job)


def check(config: Config) -> None:
    """Refuses settings that contradict each other, before anything is read."""
    read_objectives(config.objectives)
    warmup_steps(config.warmup, config.steps)
    config.check_validation()
    config.check_start()


def token_stores(config: Config, corpus: Corpus, tokenizer: Any) -> tuple[TokenStore, TokenStore | None]:
    """Returns the tokenized documents to train on and, if there are enough, those to validate with."""
    training = tokenize_corpus(corpus, tokenizer, processes=config.processes)
    validation = None
    if config.validation_corpus:
        held_out = Corpus(config.validation_corpus, config.text_column)
        validation = tokenize_corpus(held_out, tokenizer, processes=config.processes)
    elif config.validation_fraction > 0:
        least = 2 if {"next_sentence", "sentence_order"} & set(config.objectives) else 1
        try:
            training, validation = training.split(config.validation_fraction, config.seed, least=least)
        except InputError:
            if training.num_documents >= least:  # else there is nothing to train on, either
                print("too few documents to set some aside: no validation", file=sys.stderr)
    config.report(training, validation)
    return training, validation


if __name__ == "__main__":
    cli.run(main, Config)
