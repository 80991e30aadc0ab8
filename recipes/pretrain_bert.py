"""Pretrains a BERT with masked-LM and next-sentence prediction on text of your own.

KERAS_BACKEND=jax python recipes/pretrain_bert.py --corpus my.txt --size mini --steps 10000 --output runs/mine
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from kerasllm import BertPretraining, cli
from kerasllm.checkpoints import resolve_directory, write_model
from kerasllm.cli.ranges import check_ranges
from kerasllm.cli.settings import only_without
from kerasllm.data.batches.masked_lm import BertPretrainingBatches, read_objectives
from kerasllm.data.batches.sentence_pairs import SHORTEST_SEQUENCE
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache.store import TokenStore, tokenize_corpus
from kerasllm.errors import InputError
from kerasllm.tasks.masked_lm import compile_pretraining, evaluate_pretraining
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.loading import load_wordpiece
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.wordpiece import continuation_mask, special_token_ids, train_wordpiece
from kerasllm.training.fit import fit_run
from kerasllm.training.hardware.compilation import choose_compilation
from kerasllm.training.hardware.precision import choose_precision
from kerasllm.training.hardware.throughput import training_flops
from kerasllm.training.model_options import BertOptions
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import LinearWarmupDecay, warmup_steps
from kerasllm.training.options import RunOptions
from kerasllm.training.run.directory import RunDirectory
from kerasllm.training.run.settings import nothing_to_resume

POSITIONS = 512  # learned positions of a new model, unless --model.max_sequence_length says


@dataclass
class Config(RunOptions):
    """Pretrains a BERT with masked-LM and next-sentence prediction and writes a run directory."""

    output: str
    """Directory of the run: settings, log, checkpoints, model, results."""

    corpus: list[str]
    """Text files or directories, .jsonl, .parquet, hub:ID of a data set, or python-docs; several allowed."""

    validation_corpus: list[str] = field(default_factory=list)
    """As --corpus; without it, documents are set aside by --validation_fraction."""

    validation_fraction: float = 0.05
    """Share of the documents set aside for validation where there is no --validation_corpus; 0 for none."""

    text_column: str = "text"
    """Field of the text in .jsonl, .parquet and hub data sets."""

    tokenizer: str | None = None
    """A tokenizer.json, vocab.txt, or directory or run with one; without it, WordPiece is trained on --corpus."""

    vocabulary_size: int = field(default=30522, metadata=only_without("init", "tokenizer"))
    """Size of the WordPiece vocabulary that is trained."""

    lowercase: bool = field(default=True, metadata=only_without("init", "tokenizer"))
    """Whether the trained tokenizer lowers case and strips accents."""

    init: str | None = None
    """A run, model directory or hub id to go on from; its tokenizer is taken too."""

    size: Literal["tiny", "mini", "small", "medium", "base", "large"] = field(
        default="mini", metadata=only_without("init")
    )
    """Named size of a new model; --model.* override it."""

    model: BertOptions = field(default_factory=BertOptions)

    objectives: list[Literal["masked_lm", "next_sentence", "sentence_order"]] = field(
        default_factory=lambda: ["masked_lm", "next_sentence"]
    )
    """masked_lm alone (RoBERTa's full sequences), or with next_sentence (BERT) or sentence_order (ALBERT)."""

    masking: Literal["token", "whole_word", "span"] = "token"
    """What is masked together: single tokens, words, or spans of words (SpanBERT)."""

    masking_probability: float = 0.15
    """Share of the tokens to predict."""

    sequence_length: int = 128
    """Tokens of a training example, special tokens included."""

    packing: bool = False
    """Put several examples into a row, none of which sees another; --batch_size then counts rows."""

    batch_size: int = 32
    """Examples of a batch; an optimizer step sees batch_size * gradient_accumulation."""

    gradient_accumulation: int = 1
    """Batches whose gradients make one optimizer step."""

    steps: int = 10_000
    """Optimizer steps."""

    learning_rate: float = 1e-4
    """Peak learning rate."""

    warmup: float = 0.1
    """Steps of linear warm-up; below 1, a share of all steps."""

    weight_decay: float = 0.01
    """Decoupled weight decay, not on biases and layer normalisation."""

    beta_2: float = 0.999
    """Decay of AdamW's second moment."""

    eval_interval: int | None = None
    """Steps between validations; a tenth of all steps if null."""

    eval_batches: int = 50
    """Batches of a validation at most."""

    processes: int | None = None
    """Processes that tokenize; as many as there are cores if null."""

    seed: int = 0
    """Of initial values, dropout, order, pairs and masks."""


def main(config: Config) -> int:
    """Data → model → compile → fit → save."""
    if RunDirectory.check(config.output, config, resume=config.resume):
        print(nothing_to_resume(config.output, config))
        return 0
    check(config)
    corpus = Corpus(config.corpus, text_column=config.text_column)
    held_out = Corpus(config.validation_corpus, config.text_column) if config.validation_corpus else None
    tokenizer = find_tokenizer(config, corpus)
    store = tokenize_corpus(corpus, tokenizer, processes=config.processes)
    validation: TokenStore | None
    if held_out:
        train, validation = store, tokenize_corpus(held_out, tokenizer, processes=config.processes)
    else:
        train, validation = split(store, config)
    fingerprint = corpus.fingerprint()
    print(
        f"corpus {fingerprint[:16]}: {train.num_documents:,} documents, {train.num_sentences:,} sentences, "
        f"{train.num_tokens:,} tokens to train on",
        flush=True,
    )

    batch_settings: dict[str, Any] = {
        "special": special_token_ids(tokenizer),
        "sequence_length": config.sequence_length,
        "batch_size": config.batch_size,
        "objectives": config.objectives,
        "packing": config.packing,
        "masking": config.masking,
        "masking_probability": config.masking_probability,
        "continuation": continuation_mask(tokenizer),
    }

    def make_batches(start_step: int) -> BertPretrainingBatches:
        return BertPretrainingBatches(
            train,
            steps=config.steps,
            start_step=start_step,
            seed=config.seed,
            gradient_accumulation=config.gradient_accumulation,
            **batch_settings,
        )

    batches = make_batches(0)
    validation_batches = None
    if validation is None and config.validation_fraction > 0:
        print("too few documents to set some aside: no validation", file=sys.stderr)
    elif validation is not None:
        try:
            validation_batches = BertPretrainingBatches(
                validation,
                steps=config.eval_batches,
                seed=config.seed + 1,
                pad_last=True,
                prefetch=0,
                **batch_settings,
            )
        except InputError as error:
            raise InputError(f"validation: {error}") from error

    rows = config.batch_size * config.gradient_accumulation
    tokens_per_step = batches.mean_fill * config.sequence_length * rows
    schedule = LinearWarmupDecay(
        config.learning_rate,
        steps=config.steps,
        warmup=warmup_steps(config.warmup, config.steps),
        gradient_accumulation=config.gradient_accumulation,
    )

    def make_model() -> BertPretraining:
        model = initial_model(config, vocabulary_size(tokenizer))
        optimizer = adamw(
            schedule,
            weight_decay=config.weight_decay,
            beta_2=config.beta_2,
            clip_norm=config.clip_norm,
            gradient_accumulation=config.gradient_accumulation,
        )
        flops = (
            tokens_per_step * config.steps * training_flops(model, config.sequence_length, batches.num_slots)
        )
        compiled = choose_compilation(config.jit_compile, config.steps, flops)
        normalized = config.gradient_accumulation > 1
        compile_pretraining(model, optimizer, normalized_weights=normalized, jit_compile=compiled)
        return model

    with RunDirectory.create(config.output, config, resume=config.resume) as run:
        asked = run.resolved.get("precision", config.precision)
        precision = choose_precision(asked, make_model, batches[0])
        model = make_model()
        run.record(
            precision=precision,
            corpus_sha256=fingerprint,
            model=dataclasses.asdict(model.config),
            parameters=model.count_params(),
            mean_fill=round(batches.mean_fill, 4),
        )
        print(f"{model.count_params():,} parameters, {batches.steps_per_epoch:,} steps an epoch", flush=True)
        result = fit_run(
            model,
            make_batches,
            run,
            steps=config.steps,
            tokens_per_step=tokens_per_step,
            gradient_accumulation=config.gradient_accumulation,
            evaluate=validation_batches and (lambda model: evaluate_pretraining(model, validation_batches)),
            eval_interval=config.eval_interval or max(config.steps // 10, 1),
            **config.for_fit,
        )
        if result.interrupted is not None:
            return result.interrupted
        write_model(model, run.model)
        save_tokenizer(tokenizer, run.model, max_length=model.config.max_sequence_length)
        figures = evaluate_pretraining(model, validation_batches) if validation_batches else None
        run.write_results(
            {
                "validation": figures,
                "steps": result.last_step,
                "best_step": result.best_step,
                "parameters": model.count_params(),
                "precision": precision,
                "corpus_sha256": fingerprint,
            },
            seconds=result.seconds,
        )
        for name, value in (figures or {}).items():
            print(f"validation {name.replace('_', ' ')}: {value:.4f}")
        print(f"written to {run.path}")
    return 0


def check(config: Config) -> None:
    """The settings, before anything is read."""
    check_ranges(config)
    if config.sequence_length < SHORTEST_SEQUENCE:
        raise InputError(
            f"--sequence_length is {config.sequence_length}, it must be at least {SHORTEST_SEQUENCE}"
        )
    read_objectives(config.objectives)
    warmup_steps(config.warmup, config.steps)
    for name in ("patience", "restore_best"):
        if getattr(config, name) and not config.validation_corpus and config.validation_fraction == 0:
            raise InputError(f"--{name} needs --validation_corpus or a --validation_fraction above 0")
    if not config.init:
        config.model.shape(
            config.size,
            vocabulary_size=config.vocabulary_size,
            sequence_length=config.sequence_length,
            positions=POSITIONS,
        )


def find_tokenizer(config: Config, corpus: Corpus) -> Any:
    """The one asked for, that of `--init`, or one trained on the corpus."""
    if config.init:
        tokenizer = load_wordpiece(config.tokenizer or resolve_directory(config.init))
        size = vocabulary_size(tokenizer)
        config.model.check_with(config.init, vocabulary_size=size, sequence_length=config.sequence_length)
        return tokenizer
    if config.tokenizer:
        return load_wordpiece(config.tokenizer)
    sentences = (sentence for document in corpus.documents() for sentence in document)
    return train_wordpiece(sentences, config.vocabulary_size, lowercase=config.lowercase)


def split(store: TokenStore, config: Config) -> tuple[TokenStore, TokenStore | None]:
    """Documents to train on and to validate with."""
    if config.validation_fraction == 0:
        return store, None
    least = 2 if {"next_sentence", "sentence_order"} & set(config.objectives) else 1
    if store.num_documents < 2 * least:
        return store, None
    return store.split(config.validation_fraction, config.seed, least=least)


def initial_model(config: Config, num_tokens: int) -> BertPretraining:
    """From a checkpoint or from scratch."""
    objectives = ["next_sentence" if name == "sentence_order" else name for name in config.objectives]
    if config.init:
        settings: dict[str, Any] = {} if config.model.dropout is None else {"dropout": config.model.dropout}
        return BertPretraining.from_pretrained(
            config.init, objectives=objectives, seed=config.seed, **settings
        )
    shape = config.model.shape(
        config.size, vocabulary_size=num_tokens, sequence_length=config.sequence_length, positions=POSITIONS
    )
    return BertPretraining(shape, objectives=objectives, seed=config.seed)


if __name__ == "__main__":
    cli.run(main, Config)
