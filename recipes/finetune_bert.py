"""Fine-tunes a BERT to classify texts or pairs of texts, or to predict a number for them.

KERAS_BACKEND=jax python recipes/finetune_bert.py --init runs/mine --train train.tsv --validation dev.tsv \
    --text_columns 0 --label_column 1 --output runs/classifier
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from kerasllm import BertClassifier, BertRegressor, SquaredErrorLoss, cli  # tells if Keras lacks its backend

# isort: split
import keras

from kerasllm.checkpoints import resolve_directory, write_model
from kerasllm.cli.ranges import check_ranges
from kerasllm.cli.settings import only_without
from kerasllm.data.batches.labelled import LabelledBatches
from kerasllm.data.batches.packed_labelled import PackedClassificationBatches
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.data.sources.labelled import LabelledTexts, read_labelled
from kerasllm.errors import InputError
from kerasllm.tasks.classification import evaluate_classifier, evaluate_regressor, monitored
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.loading import load_wordpiece
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.wordpiece import train_wordpiece
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

POSITIONS = 128  # learned positions of a new model, unless --model.max_sequence_length says


@dataclass
class Config(RunOptions):
    """Fine-tunes a BERT on labelled texts or pairs and writes a run directory."""

    output: str
    """Directory of the run: settings, log, checkpoints, model, results."""

    train: str
    """Labelled texts: .tsv, .csv, .jsonl, .parquet, or hub:ID (hub:glue/mrpc)."""

    validation: str | None = None
    """As --train; figures are written after each epoch."""

    test: str | None = None
    """As --train; judged once, at the end."""

    text_columns: str | None = None
    """One column or two, separated by a comma: names, or numbers from 0 where the file has no header."""

    label_column: str | None = None
    """Name, or number from 0, of the label's column."""

    task: Literal["auto", "classification", "regression"] = "auto"
    """auto: regression where every label is a number and one is not whole."""

    init: str | None = None
    """A run, model directory or hub id to start from; from scratch if null."""

    tokenizer: str | None = None
    """From scratch: a tokenizer.json, vocab.txt or directory; without it, WordPiece is trained on --train."""

    vocabulary_size: int = field(default=8192, metadata=only_without("init", "tokenizer"))
    """From scratch: size of the WordPiece vocabulary that is trained."""

    lowercase: bool = field(default=True, metadata=only_without("init", "tokenizer"))
    """From scratch: whether the trained tokenizer lowers case and strips accents."""

    size: Literal["tiny", "mini", "small", "medium", "base", "large"] = field(
        default="mini", metadata=only_without("init")
    )
    """From scratch: named size; --model.* override it."""

    model: BertOptions = field(default_factory=BertOptions)

    sequence_length: int = 128
    """Longer texts are cut, the longer of a pair first."""

    batch_size: int = 32
    """Texts of a batch; an optimizer step sees batch_size * gradient_accumulation."""

    packing: bool = True
    """Put several texts into a row, none of which sees another; else pad rows to one of a few lengths."""

    gradient_accumulation: int = 1
    """Batches whose gradients make one optimizer step."""

    epochs: int = 3
    """Passes over --train."""

    learning_rate: float = 5e-5
    """Peak learning rate."""

    warmup: float = 0.1
    """Steps of linear warm-up; below 1, a share of all steps."""

    weight_decay: float = 0.01
    """Decoupled weight decay, not on biases and layer normalisation."""

    eval_interval: int | None = None
    """Steps between validations; once an epoch if null."""

    monitor: Literal["loss", "accuracy", "f1", "f1_macro", "matthews", "pearson", "spearman"] = "loss"
    """The validation figure that --restore_best and --patience go by."""

    seed: int = 0
    """Of the new weights, dropout and order."""


def main(config: Config) -> int:
    """Data → model → compile → fit → save."""
    if RunDirectory.check(config.output, config, resume=config.resume):
        print(nothing_to_resume(config.output, config))
        return 0
    check(config)
    train = read(config, config.train, "train")
    parts = {"train": train}
    for name, source in (("validation", config.validation), ("test", config.test)):
        if source:
            parts[name] = read(config, source, name, like=train)
    regression = train.task == "regression"
    if config.monitor not in (
        ("loss", "pearson", "spearman") if regression else ("loss", "accuracy", "f1", "f1_macro", "matthews")
    ):
        raise InputError(f"--monitor {config.monitor} is no figure of {train.task}")
    if config.monitor == "f1" and len(train.label_names or ()) != 2:
        raise InputError("--monitor f1 is for two classes; with more it is f1_macro")
    tokenizer = find_tokenizer(config, train)
    encoded = {
        name: encode_texts(tokenizer, part.texts, config.sequence_length) for name, part in parts.items()
    }
    report(parts, encoded)

    def make_batches(start_step: int) -> LabelledBatches:
        kind = PackedClassificationBatches if config.packing else ClassificationBatches
        return kind(
            encoded["train"],
            train.labels,
            batch_size=config.batch_size,
            seed=config.seed,
            epochs=config.epochs,
            gradient_accumulation=config.gradient_accumulation,
            start_step=start_step,
        )

    batches = make_batches(0)
    held_out = {
        name: ClassificationBatches(
            encoded[name], parts[name].labels, batch_size=config.batch_size, shuffle=False
        )
        for name in parts
        if name != "train"
    }
    schedule = LinearWarmupDecay(
        config.learning_rate,
        steps=batches.steps,
        warmup=warmup_steps(config.warmup, batches.steps),
        gradient_accumulation=config.gradient_accumulation,
    )

    def make_model() -> BertClassifier | BertRegressor:
        model = initial_model(config, train, vocabulary_size(tokenizer))
        reduction = "sum" if config.gradient_accumulation > 1 else "mean_with_sample_weight"
        loss: keras.losses.Loss = SquaredErrorLoss(reduction=reduction)
        if not regression:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
        tokens = config.epochs * int(encoded["train"].lengths.sum())
        flops = tokens * training_flops(model, config.sequence_length)
        model.compile(
            optimizer=adamw(
                schedule,
                weight_decay=config.weight_decay,
                clip_norm=config.clip_norm,
                gradient_accumulation=config.gradient_accumulation,
            ),
            loss=loss,
            weighted_metrics=[] if regression else [keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            jit_compile=choose_compilation(config.jit_compile, batches.steps, flops, batches.shapes),
        )
        model.per_step_metrics = True
        return model

    def figures(model: Any, name: str) -> dict[str, Any]:
        if regression:
            return evaluate_regressor(model, held_out[name])
        return evaluate_classifier(model, held_out[name], train.label_names or ())

    with RunDirectory.create(config.output, config, resume=config.resume, may_grow=()) as run:
        asked = run.resolved.get("precision", config.precision)
        precision = choose_precision(asked, make_model, batches.batch(0))
        model = make_model()
        run.record(
            precision=precision,
            task=train.task,
            labels=list(train.label_names or ()),
            steps=batches.steps,
            model=dataclasses.asdict(model.config),
            parameters=model.count_params(),
        )
        result = fit_run(
            model,
            make_batches,
            run,
            steps=batches.steps,
            tokens_per_step=lambda step: batches.real_tokens(step - 1),
            gradient_accumulation=config.gradient_accumulation,
            evaluate=(lambda model: monitored(figures(model, "validation"))) if config.validation else None,
            eval_interval=config.eval_interval or batches.steps_per_epoch,
            monitor=config.monitor,
            **config.for_fit,
        )
        if result.interrupted is not None:
            return result.interrupted
        write_model(model, run.model)
        save_tokenizer(tokenizer, run.model, max_length=model.config.max_sequence_length)
        results = {name: figures(model, name) for name in held_out}
        run.write_results(
            {**results, "task": train.task, "steps": result.last_step, "best_step": result.best_step}
            | {"precision": precision, "parameters": model.count_params()},
            seconds=result.seconds,
        )
        for name, values in results.items():
            shown = [f"{key} {value:.4f}" for key, value in values.items() if isinstance(value, float)]
            print(f"{name}: {', '.join(shown)}")
        print(f"written to {run.path}")
    return 0


def check(config: Config) -> None:
    """The settings, before anything is read."""
    check_ranges(config)
    if config.sequence_length < 4:
        raise InputError(f"--sequence_length is {config.sequence_length}, it must be at least 4")
    for name in ("patience", "restore_best"):
        if getattr(config, name) and not config.validation:
            raise InputError(f"--{name} needs --validation")
    if config.monitor != "loss" and not config.validation:
        raise InputError(f"--monitor {config.monitor} needs --validation")
    if config.init and config.tokenizer:
        raise InputError(
            "--tokenizer is for training from scratch: with --init the checkpoint's own is taken"
        )
    if not config.init:
        config.model.shape(
            config.size,
            vocabulary_size=config.vocabulary_size,
            sequence_length=config.sequence_length,
            positions=POSITIONS,
        )


def read(config: Config, source: str, split: str, like: LabelledTexts | None = None) -> LabelledTexts:
    """A part of the data; validation and test are read as the training part was."""
    return read_labelled(
        source,
        config.text_columns,
        config.label_column,
        task=like.task if like else config.task,
        label_names=like.label_names if like else None,
        split=split,
    )


def find_tokenizer(config: Config, train: LabelledTexts) -> Any:
    """The checkpoint's, the one asked for, or one trained on the training texts."""
    if config.init:
        tokenizer = load_wordpiece(resolve_directory(config.init))
        size = vocabulary_size(tokenizer)
        config.model.check_with(config.init, vocabulary_size=size, sequence_length=config.sequence_length)
        return tokenizer
    if config.tokenizer:
        return load_wordpiece(config.tokenizer)
    texts = (text for pair in train.texts for text in pair)
    return train_wordpiece(texts, config.vocabulary_size, lowercase=config.lowercase)


def initial_model(config: Config, train: LabelledTexts, num_tokens: int) -> BertClassifier | BertRegressor:
    """From a checkpoint or from scratch."""
    task: dict[str, Any] = {"seed": config.seed}
    cls: type[BertClassifier] | type[BertRegressor] = BertRegressor
    if train.task == "classification":
        cls, task = BertClassifier, task | {"label_names": train.label_names}
    if config.init:
        if config.model.dropout is not None:
            task["dropout"] = config.model.dropout
        return cls.from_pretrained(config.init, **task)
    shape = config.model.shape(
        config.size, vocabulary_size=num_tokens, sequence_length=config.sequence_length, positions=POSITIONS
    )
    return cls(shape, **task)


def report(parts: dict[str, LabelledTexts], encoded: dict[str, Any]) -> None:
    """One line a part."""
    for name, part in parts.items():
        cut = encoded[name].num_truncated
        also = f", {cut:,} of them cut to {encoded[name].sequence_length} tokens" if cut else ""
        print(f"{name}: {len(part):,} examples{also}", flush=True)


if __name__ == "__main__":
    cli.run(main, Config)
