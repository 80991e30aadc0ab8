"""Pretrains a GPT on text of your own, character by character or with byte-level BPE.

KERAS_BACKEND=torch python recipes/pretrain_gpt.py --corpus my.txt --size gpt2 --steps 10000 --output runs/mine
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from kerasllm import GPTCausalLM, GPTConfig, cli
from kerasllm.checkpoints import resolve_directory, write_model
from kerasllm.cli.ranges import check_ranges
from kerasllm.cli.settings import only_without
from kerasllm.data.batches.causal_lm import CausalBatches, CausalEvaluationBatches
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache.stream import TokenStream, tokenize_stream
from kerasllm.errors import InputError, naming
from kerasllm.tasks.causal_lm import compile_causal, evaluate_causal, sample_log, sample_prompt
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.characters import train_characters
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.special_tokens import end_of_text_id
from kerasllm.training.fit import fit_run
from kerasllm.training.hardware.compilation import choose_compilation
from kerasllm.training.hardware.precision import choose_precision
from kerasllm.training.hardware.throughput import training_flops
from kerasllm.training.model_options import GPTOptions, GPTSize
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import CosineWarmupDecay, warmup_steps
from kerasllm.training.options import RunOptions
from kerasllm.training.run.directory import RunDirectory
from kerasllm.training.run.settings import nothing_to_resume


@dataclass
class Config(RunOptions):
    """Pretrains a GPT and writes a run directory."""

    output: str
    """Directory of the run: settings, log, samples, checkpoints, model, results."""

    corpus: list[str]
    """Text files or directories, .jsonl, .parquet, hub:ID of a data set, or python-docs; several allowed."""

    validation_corpus: list[str] = field(default_factory=list)
    """As --corpus; without it, text is set aside by --validation_fraction."""

    validation_fraction: float = 0.1
    """Share of the tokens set aside for validation where there is no --validation_corpus; 0 for none."""

    validation_split: Literal["fraction", "document"] = "fraction"
    """Set aside the end of the text, or whole documents drawn at random."""

    text_column: str = "text"
    """Field of the text in .jsonl, .parquet and hub data sets."""

    tokenizer: str | None = None
    """characters, bpe (trained on --corpus), or a tokenizer.json, vocab.json + merges.txt, directory or run."""

    vocabulary_size: int = field(default=50257, metadata=only_without("init"))
    """Size of the byte-level BPE vocabulary that is trained."""

    init: str | None = None
    """A run, model directory or hub id to go on from; its tokenizer is taken too."""

    size: GPTSize = field(default="gpt2", metadata=only_without("init"))
    """Named size; --model.* override it."""

    model: GPTOptions = field(default_factory=GPTOptions)

    context_length: int = 256
    """Tokens of a training window, and the model's positions unless --model.max_sequence_length says more."""

    within_documents: bool = False
    """Keep attention within documents, positions restarting at each."""

    batch_size: int = 12
    """Windows of a batch; an optimizer step sees batch_size * gradient_accumulation."""

    gradient_accumulation: int = 1
    """Batches whose gradients make one optimizer step."""

    steps: int = 5_000
    """Optimizer steps."""

    learning_rate: float = 6e-4
    """Peak learning rate."""

    minimum_learning_rate: float | None = None
    """Learning rate at the end of the cosine; a tenth of the peak if null."""

    warmup: float = 0.05
    """Steps of linear warm-up; below 1, a share of all steps."""

    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only."""

    beta_2: float = 0.95
    """Decay of AdamW's second moment."""

    eval_interval: int | None = None
    """Steps between validations; a tenth of all steps if null."""

    eval_batches: int | None = 200
    """Validate on as many tokens as so many training batches have; on all that are set aside if null."""

    sample_tokens: int = 128
    """Tokens of text that is made at each validation, for samples.jsonl; 0 for none."""

    sample_prompt: str = ""
    """What samples begin with; if empty, a line break for characters that have one, else the mark between documents."""

    processes: int | None = None
    """Processes that tokenize; as many as there are cores if null."""

    seed: int = 0
    """Of initial values, dropout and windows."""


def main(config: Config) -> int:
    """Data → model → compile → fit → save."""
    if RunDirectory.check(config.output, config, resume=config.resume):
        print(nothing_to_resume(config.output, config))
        return 0
    check(config)
    corpus = Corpus(config.corpus, text_column=config.text_column)
    held_out = Corpus(config.validation_corpus, config.text_column) if config.validation_corpus else None
    tokenizer = find_tokenizer(config, corpus)
    shape = find_shape(config, tokenizer)
    positions = shape.max_sequence_length
    prompt = sample_prompt(tokenizer, config.sample_prompt, config.sample_tokens, positions)
    train = tokenize_stream(corpus, tokenizer, processes=config.processes)
    validation: TokenStream | None = None
    if held_out:
        validation = tokenize_stream(held_out, tokenizer, processes=config.processes)
    elif config.validation_fraction > 0:
        with naming(f"--corpus {' '.join(config.corpus)}"):
            train, validation = train.split(
                config.validation_fraction, by=config.validation_split, seed=config.seed
            )
    fingerprint = corpus.fingerprint()
    print(
        f"corpus {fingerprint[:16]}: {len(train.tokens):,} tokens to train on, "
        f"{len(validation.tokens) if validation else 0:,} to validate with",
        flush=True,
    )

    def make_batches(start_step: int) -> CausalBatches:
        return CausalBatches(
            train,
            context_length=config.context_length,
            batch_size=config.batch_size,
            steps=config.steps,
            seed=config.seed,
            start_step=start_step,
            gradient_accumulation=config.gradient_accumulation,
            within_documents=config.within_documents,
        )

    with naming(f"--corpus {' '.join(config.corpus)}"):
        make_batches(0)  # what is too short is told before anything is written
    validation_batches = evaluation_batches(config, validation) if validation else None
    peak = config.learning_rate
    tokens_per_step = config.context_length * config.batch_size * config.gradient_accumulation
    schedule = CosineWarmupDecay(
        peak,
        minimum=peak / 10 if config.minimum_learning_rate is None else config.minimum_learning_rate,
        steps=config.steps,
        warmup=warmup_steps(config.warmup, config.steps),
        gradient_accumulation=config.gradient_accumulation,
    )

    def make_model() -> GPTCausalLM:
        model = initial_model(config, shape)
        optimizer = adamw(
            schedule,
            weight_decay=config.weight_decay,
            beta_2=config.beta_2,
            epsilon=1e-8,
            clip_norm=config.clip_norm,
            gradient_accumulation=config.gradient_accumulation,
        )
        flops = tokens_per_step * config.steps * training_flops(model, config.context_length)
        compiled = choose_compilation(config.jit_compile, config.steps, flops)
        normalized = config.gradient_accumulation > 1
        compile_causal(model, optimizer, normalized_weights=normalized, jit_compile=compiled)
        return model

    with RunDirectory.create(config.output, config, resume=config.resume) as run:
        asked = run.resolved.get("precision", config.precision)
        precision = choose_precision(asked, make_model, make_batches(0)[0])
        model = make_model()
        run.record(
            precision=precision,
            corpus_sha256=fingerprint,
            model=dataclasses.asdict(model.config),
            parameters=model.count_params(),
        )
        print(f"{model.count_params():,} parameters", flush=True)
        result = fit_run(
            model,
            make_batches,
            run,
            steps=config.steps,
            tokens_per_step=tokens_per_step,
            gradient_accumulation=config.gradient_accumulation,
            evaluate=validation_batches and (lambda model: evaluate_causal(model, validation_batches)),
            sample=sample_log(run.path, tokenizer, prompt, config.sample_tokens),
            eval_interval=config.eval_interval or max(config.steps // 10, 1),
            **config.for_fit,
        )
        if result.interrupted is not None:
            return result.interrupted
        write_model(model, run.model)
        save_tokenizer(tokenizer, run.model, max_length=model.config.max_sequence_length)
        figures = evaluate_causal(model, validation_batches) if validation_batches else None
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
            print(f"validation {name}: {value:,.{0 if name == 'tokens' else 4}f}")
        print(f"written to {run.path}")
    return 0


def check(config: Config) -> None:
    """The settings, before anything is read."""
    check_ranges(config)
    warmup_steps(config.warmup, config.steps)
    minimum = config.minimum_learning_rate
    if minimum is not None and not 0 <= minimum <= config.learning_rate:
        raise InputError(
            f"--minimum_learning_rate is {minimum}, it must lie between 0 and --learning_rate {config.learning_rate}"
        )
    for name in ("patience", "restore_best"):
        if getattr(config, name) and not config.validation_corpus and config.validation_fraction == 0:
            raise InputError(f"--{name} needs --validation_corpus or a --validation_fraction above 0")
    if config.init and config.tokenizer in ("characters", "bpe"):
        raise InputError(
            f"--tokenizer {config.tokenizer} trains a new one: leave it out, --init brings its own"
        )
    if not config.init:
        new_shape(config, config.vocabulary_size)


def find_tokenizer(config: Config, corpus: Corpus) -> Any:
    """The one asked for, that of `--init`, or one trained on the corpus."""
    if config.init:
        tokenizer = load_tokenizer(config.tokenizer or resolve_directory(config.init))
    elif config.tokenizer == "characters":
        tokenizer = train_characters(piece.text for piece in corpus.raw_pieces())
    elif config.tokenizer in (None, "bpe"):
        tokenizer = train_byte_level_bpe(
            (piece.text for piece in corpus.raw_pieces()), config.vocabulary_size
        )
    else:
        tokenizer = load_tokenizer(config.tokenizer)
    end_of_text_id(tokenizer)
    return tokenizer


def new_shape(config: Config, num_tokens: int, end_token_id: int | None = None) -> GPTConfig:
    """The shape of a model from scratch."""
    shape = config.model.shape(
        config.size,
        vocabulary_size=num_tokens,
        sequence_length=config.context_length,
        positions=config.context_length,
    )
    return dataclasses.replace(shape, end_token_id=end_token_id, begin_token_id=end_token_id)


def find_shape(config: Config, tokenizer: Any) -> GPTConfig:
    """The shape of the model: new, or that of `--init`, which must fit the tokenizer and the windows."""
    size = vocabulary_size(tokenizer)
    if config.init:
        return config.model.check_with(
            config.init, vocabulary_size=size, sequence_length=config.context_length
        )
    return new_shape(config, size, end_of_text_id(tokenizer))


def initial_model(config: Config, shape: GPTConfig) -> GPTCausalLM:
    """From a checkpoint or from scratch."""
    if config.init:
        settings: dict[str, Any] = {} if config.model.dropout is None else {"dropout": config.model.dropout}
        return GPTCausalLM.from_pretrained(config.init, seed=config.seed, **settings)
    return GPTCausalLM(shape, seed=config.seed)


def evaluation_batches(config: Config, validation: TokenStream) -> CausalEvaluationBatches:
    """The validation text in windows side by side."""
    batch_size = max(8192 // config.context_length, 1)  # no gradients: more fits than in training
    limit = None if config.eval_batches is None else -(-config.eval_batches * config.batch_size // batch_size)
    given = config.validation_corpus
    share = f"--validation_fraction {config.validation_fraction} of --corpus {' '.join(config.corpus)}"
    with naming(f"--validation_corpus {' '.join(given)}" if given else share):
        return CausalEvaluationBatches(
            validation,
            context_length=config.context_length,
            batch_size=batch_size,
            limit=limit,
            within_documents=config.within_documents,
        )


if __name__ == "__main__":
    cli.run(main, Config)
