"""Fine-tunes a GPT on conversations, on prompts and completions, or on more plain text.

KERAS_BACKEND=torch python recipes/finetune_gpt.py --init runs/mine --train chats.jsonl --output runs/chat
"""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerasllm import GPTCausalLM, cli
from kerasllm.checkpoints import resolve_directory, write_model
from kerasllm.cli.ranges import check_ranges
from kerasllm.data.batches.causal_lm import CausalBatches, CausalEvaluationBatches
from kerasllm.data.batches.conversations import ConversationBatches
from kerasllm.data.examples.conversations import encode_conversations
from kerasllm.data.sources.conversations import is_conversation_file, read_conversations
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache.stream import tokenize_stream
from kerasllm.errors import InputError, naming
from kerasllm.tasks.causal_lm import compile_causal, evaluate_causal
from kerasllm.tokenizers.chat_template import DEFAULT_CHAT_TEMPLATE
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.loading import load_tokenizer, read_chat_template
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.training.fit import fit_run
from kerasllm.training.hardware.compilation import choose_compilation
from kerasllm.training.hardware.precision import choose_precision
from kerasllm.training.hardware.throughput import training_flops
from kerasllm.training.model_options import GPTOptions
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import LinearWarmupDecay, warmup_steps
from kerasllm.training.options import RunOptions
from kerasllm.training.run.directory import RunDirectory
from kerasllm.training.run.settings import nothing_to_resume


@dataclass
class Config(RunOptions):
    """Fine-tunes a GPT and writes a run directory."""

    output: str
    """Directory of the run: settings, log, checkpoints, model, results."""

    init: str
    """The model to start from: a run, model directory or hub id."""

    train: str
    """JSONL of {"messages": [{"role", "content"}]} or {"prompt", "completion"}; or text, as --corpus elsewhere."""

    validation: str | None = None
    """As --train, of the same kind."""

    text_column: str = "text"
    """Field of the text in .jsonl, .parquet and hub data sets of plain text."""

    chat_template: str | None = None
    """A file with a Jinja template in Hugging Face's form; that of --init, or a plain one, if null."""

    context_length: int | None = None
    """Tokens of a row, into which several conversations are packed; all of the model's positions if null."""

    epochs: int = 3
    """Passes over the training data."""

    batch_size: int = 8
    """Rows of a batch."""

    learning_rate: float = 2e-5
    """Peak learning rate; ten times as much suits --lora_rank."""

    warmup: float = 0.1
    """Steps of linear warm-up; below 1, a share of all steps."""

    weight_decay: float = 0.0
    """Decoupled weight decay, on matrices only."""

    dropout: float | None = None
    """Dropout in place of the checkpoint's."""

    lora_rank: int = 0
    """Above 0, train low-rank adapters of this rank alone; they are merged into the model that is written."""

    lora_alpha: float | None = None
    """The adapters count alpha / rank; twice the rank if null."""

    processes: int | None = None
    """Processes that tokenize plain text; as many as there are cores if null."""

    seed: int = 0
    """Of adapters, dropout and order."""


def main(config: Config) -> int:
    """Data → model → compile → fit → save."""
    if RunDirectory.check(config.output, config, resume=config.resume):
        print(nothing_to_resume(config.output, config))
        return 0
    check_ranges(config)
    if config.lora_alpha is not None and not config.lora_rank:
        raise InputError(f"--lora_alpha {config.lora_alpha} means nothing without --lora_rank: give that too")
    if config.validation is None and (config.patience or config.restore_best):
        raise InputError(f"--{'patience' if config.patience else 'restore_best'} needs --validation")
    directory = resolve_directory(config.init)
    tokenizer = load_tokenizer(directory)
    shape = GPTOptions(dropout=config.dropout).check_with(
        config.init, vocabulary_size=vocabulary_size(tokenizer), sequence_length=config.context_length
    )
    length = config.context_length or shape.max_sequence_length
    talks = is_conversation_file(config.train)
    template, template_name = find_template(config, directory) if talks else (None, "")
    read = {"template_name": template_name, "end_token_id": shape.end_token_id}
    make_batches, validation = read_data(config, tokenizer, template, length, read)
    batches = make_batches(0)
    steps = batches.steps
    an_epoch = steps // config.epochs
    tokens_per_step = length * config.batch_size * getattr(batches, "fill", 1.0)
    schedule = LinearWarmupDecay(config.learning_rate, steps=steps, warmup=warmup_steps(config.warmup, steps))

    def make_model() -> GPTCausalLM:
        settings: dict[str, Any] = {"lora_rank": config.lora_rank, "lora_alpha": config.lora_alpha}
        if config.dropout is not None:
            settings["dropout"] = config.dropout
        model = GPTCausalLM.from_pretrained(directory, seed=config.seed, **settings)
        optimizer = adamw(schedule, weight_decay=config.weight_decay, clip_norm=config.clip_norm)
        flops = tokens_per_step * steps * training_flops(model, length)
        compile_causal(model, optimizer, jit_compile=choose_compilation(config.jit_compile, steps, flops))
        return model

    with RunDirectory.create(config.output, config, resume=config.resume) as run:
        asked = run.resolved.get("precision", config.precision)
        precision = choose_precision(asked, make_model, batches[0])
        model = make_model()
        trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        run.record(precision=precision, trainable_parameters=trained, parameters=model.count_params())
        share = 100 * trained / model.count_params()
        print(
            f"{trained:,} of {model.count_params():,} parameters are trained ({share:.2f} %); "
            f"{an_epoch:,} steps an epoch",
            flush=True,
        )
        result = fit_run(
            model,
            make_batches,
            run,
            steps=steps,
            tokens_per_step=tokens_per_step,
            evaluate=(lambda model: evaluate_causal(model, validation)) if validation else None,
            eval_interval=an_epoch,
            **config.for_fit,
        )
        if result.interrupted is not None:
            return result.interrupted
        write_model(model, run.model)
        save_tokenizer(
            tokenizer,
            run.model,
            max_length=shape.max_sequence_length,
            chat_template=template or read_chat_template(directory),
        )
        figures = evaluate_causal(model, validation) if validation else None
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        run.write_results(
            {
                "validation": figures,
                "steps": result.last_step,
                "best_step": result.best_step,
                "parameters": model.count_params(),
                "trainable_parameters": trained,
                "peak_memory_mib": round(memory),
                "precision": precision,
            },
            seconds=result.seconds,
        )
        for name, value in (figures or {}).items():
            print(f"validation {name}: {value:,.4f}")
        print(f"peak memory {memory:,.0f} MiB; written to {run.path}")
    return 0


def find_template(config: Config, directory: Path) -> tuple[str, str]:
    """The chat template: given, the checkpoint's, or the plain one; and where it is from, for messages."""
    if config.chat_template is None:
        found = read_chat_template(directory)
        return (found, str(directory)) if found else (DEFAULT_CHAT_TEMPLATE, "")
    try:
        return Path(config.chat_template).read_text(encoding="utf-8"), config.chat_template
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--chat_template {config.chat_template}: cannot be read ({error})") from error


def read_data(
    config: Config, tokenizer: Any, template: str | None, length: int, settings: dict[str, Any]
) -> tuple[Any, Any]:
    """A function from the steps done to the batches left, and the validation batches or None."""
    if template is None:
        return read_texts(config, tokenizer, length)
    shared: dict[str, Any] = {"context_length": length, "batch_size": config.batch_size}
    examples = encode_conversations(read_conversations(Path(config.train)), tokenizer, template, **settings)

    def make_batches(start_step: int) -> ConversationBatches:
        return ConversationBatches(
            examples, epochs=config.epochs, seed=config.seed, start_step=start_step, **shared
        )

    with naming(f"--train {config.train}"):
        first = make_batches(0)
    cut = f", {first.num_cut} cut at {length} tokens" if first.num_cut else ""
    left = f", {first.num_dropped} left out: nothing to learn within the cut" if first.num_dropped else ""
    print(
        f"{len(examples):,} conversations in {first.num_rows:,} rows, {100 * first.fill:.0f} % full, "
        f"{first.learnt_tokens:,} tokens to learn{cut}{left}",
        flush=True,
    )
    if config.validation is None:
        return make_batches, None
    held_out = encode_conversations(
        read_conversations(Path(config.validation)), tokenizer, template, **settings
    )
    with naming(f"--validation {config.validation}"):
        return make_batches, ConversationBatches(held_out, shuffle=False, prefetch=0, **shared)


def read_texts(config: Config, tokenizer: Any, length: int) -> tuple[Any, Any]:
    """As `read_data`, of plain text."""
    stream = tokenize_stream(
        Corpus([config.train], config.text_column), tokenizer, processes=config.processes
    )
    an_epoch = max(stream.num_tokens // (length * config.batch_size), 1)

    def make_batches(start_step: int) -> CausalBatches:
        return CausalBatches(
            stream,
            context_length=length,
            batch_size=config.batch_size,
            steps=config.epochs * an_epoch,
            seed=config.seed,
            start_step=start_step,
        )

    with naming(f"--train {config.train}"):
        make_batches(0)
    if config.validation is None:
        return make_batches, None
    corpus = Corpus([config.validation], config.text_column)
    held_out = tokenize_stream(corpus, tokenizer, processes=config.processes)
    with naming(f"--validation {config.validation}"):
        return make_batches, CausalEvaluationBatches(
            held_out, context_length=length, batch_size=config.batch_size, keep_partial=True
        )


if __name__ == "__main__":
    cli.run(main, Config)
