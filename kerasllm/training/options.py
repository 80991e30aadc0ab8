"""Groups of settings that recipes share; each setting is declared once, with its help, default and range.

A recipe's `Config` inherits the groups that it needs. On the command line their options have no prefix:
`--learning_rate`. A recipe changes the default of an inherited setting by declaring it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kerasllm.cli.ranges import above, at_least, within
from kerasllm.data.sources.labelled import LabelledTexts, read_labelled
from kerasllm.errors import InputError
from kerasllm.training.callbacks.number_guard import GuardOptions

HELD_OUT_TEXT = "--validation_corpus or a --validation_fraction above 0"
"""The options that provide validation text in pretraining, for messages."""


@dataclass(kw_only=True)
class CorpusOptions:
    """Settings for the text that a model is pretrained on."""

    corpus: list[str]
    """Text files or directories, .jsonl, .parquet, hub:ID of a data set, or python-docs; several allowed."""

    validation_corpus: list[str] = field(default_factory=list)
    """Validation text, given like --corpus; without it, --validation_fraction sets text aside."""

    validation_fraction: float = field(default=0.05, metadata=within(0, 1))
    """Share of the text set aside for validation if there is no --validation_corpus; 0 for none."""

    text_column: str = "text"
    """Field that holds the text in .jsonl, .parquet and hub data sets."""

    processes: int | None = field(default=None, metadata=at_least(1))
    """Processes that tokenize; one per core if null."""

    @property
    def corpus_names(self) -> str:
        """The `--corpus` option as the user gave it, for messages."""
        return f"--corpus {' '.join(self.corpus)}"

    @property
    def validation_names(self) -> str:
        """The option that provides the validation text, for messages."""
        if self.validation_corpus:
            return f"--validation_corpus {' '.join(self.validation_corpus)}"
        return f"--validation_fraction {self.validation_fraction} of {self.corpus_names}"

    @property
    def has_validation(self) -> bool:
        """True if text is given or set aside for validation."""
        return bool(self.validation_corpus) or self.validation_fraction > 0


@dataclass(kw_only=True)
class FineTuningOptions:
    """Settings for the data that a model is fine-tuned on."""

    train: str
    """Training data: a file, or hub:ID of a data set."""

    validation: str | None = None
    """Validation data, given like --train; evaluated after each epoch."""

    test: str | None = None
    """Test data, given like --train; evaluated once, at the end."""

    epochs: int = field(default=3, metadata=at_least(1))
    """Passes over --train."""

    @property
    def sources(self) -> dict[str, str]:
        """The data by part: "train" and, if they are given, "validation" and "test"."""
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: source for name, source in given.items() if source}


@dataclass(kw_only=True)
class LabelledOptions(FineTuningOptions):
    """Settings for the labeled texts, or pairs of texts, that a model is fine-tuned on."""

    train: str
    """Labeled texts: .tsv, .csv, .jsonl, .parquet, or hub:ID (hub:glue/mrpc)."""

    text_columns: str | None = None
    """One column or two, separated by a comma: names, or numbers from 0 if the file has no header."""

    label_column: str | None = None
    """Column of the labels: its name, or its number from 0."""

    task: Literal["auto", "classification", "regression"] = "auto"
    """auto chooses regression if every label is a number and at least one is not whole."""

    def read(self) -> dict[str, LabelledTexts]:
        """Returns the data by part; validation and test data have the task and labels of the training data.

        Raises:
            InputError: a file cannot be read, or a label of one part does not occur in training.
        """
        columns = self.text_columns, self.label_column
        training = read_labelled(self.train, *columns, task=self.task, split="train")
        like: dict[str, Any] = {"task": training.task, "label_names": training.label_names}
        parts = {"train": training}
        for name, source in (("validation", self.validation), ("test", self.test)):
            if source:
                parts[name] = read_labelled(source, *columns, split=name, **like)
        return parts


@dataclass(kw_only=True)
class BatchOptions:
    """The size of batches with a fixed number of rows."""

    batch_size: int = field(default=32, metadata=at_least(1))
    """Rows of a batch; an optimizer step sees batch_size * gradient_accumulation."""


@dataclass(kw_only=True)
class OptimizerOptions:
    """Settings of AdamW and its schedule."""

    gradient_accumulation: int = field(default=1, metadata=at_least(1))
    """Batches whose gradients are averaged for one optimizer step."""

    learning_rate: float = field(default=1e-4, metadata=above(0))
    """Peak learning rate."""

    warmup: float = field(default=0.1, metadata=at_least(0))
    """Steps of linear warm-up; below 1, a share of all steps."""

    weight_decay: float = field(default=0.01, metadata=at_least(0))
    """Decoupled weight decay, on matrices only."""

    beta_2: float = field(default=0.999, metadata=within(0, 1))
    """Decay of AdamW's second moment."""

    clip_norm: float = field(default=1.0, metadata=at_least(0))
    """Largest global norm of the gradient; 0 for no clipping."""


@dataclass(kw_only=True)
class ValidationOptions:
    """Settings for when a run is validated, and what follows from it."""

    eval_interval: int | None = field(default=None, metadata=at_least(1))
    """Steps between validations; if null, a tenth of all steps in pretraining and an epoch in fine-tuning."""

    restore_best: bool = False
    """End with the weights of the best validation."""

    patience: int | None = field(default=None, metadata=at_least(1))
    """Validations without improvement after which training stops; null for never."""

    def check_validation(self, has_validation: bool, mend: str) -> None:
        """Refuses settings that need validation data if there is none.

        Args:
            has_validation: whether there is validation data.
            mend: the options that provide it, for the message.

        Raises:
            InputError: `--patience`, `--restore_best` or `--monitor` is given without validation.
        """
        given = [name for name in ("patience", "restore_best") if getattr(self, name)]
        if getattr(self, "monitor", "loss") != "loss":
            given.append(f"monitor {self.monitor}")  # type: ignore[attr-defined]
        if given and not has_validation:
            raise InputError(f"--{given[0]} needs {mend}")


@dataclass(kw_only=True)
class RunOptions:
    """Settings of the run directory, the machine, and everything else around the training."""

    output: str
    """Directory of the run: settings, log, checkpoints, model, results."""

    precision: Literal["float32", "mixed_bfloat16", "auto"] = "float32"
    """auto measures both, chooses the faster one and records it."""

    jit_compile: bool | None = None
    """Compile the training step; if null, on PyTorch only for a long run with a C++ compiler, elsewhere always."""

    log_interval: int | None = field(default=None, metadata=at_least(1))
    """Steps between lines of metrics.jsonl; if null, 1 for a run of up to 100 steps, else 10."""

    checkpoint_steps: int | None = field(default=None, metadata=at_least(1))
    """Steps between checkpoints."""

    checkpoint_minutes: float | None = field(default=10.0, metadata=above(0))
    """Minutes between checkpoints."""

    keep: int = field(default=2, metadata=at_least(1))
    """Number of newest checkpoints to keep."""

    seed: int = field(default=0, metadata=within(0, 2**31))
    """Seed of initial values, dropout and the order of the data."""

    guard: GuardOptions = field(default_factory=GuardOptions)

    resume: bool = False
    """Continue an interrupted run."""

    @property
    def for_fit(self) -> dict[str, Any]:
        """The arguments of `fit_run` that are options of this group."""
        names = ("log_interval", "checkpoint_steps", "checkpoint_minutes", "keep", "resume", "guard")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class JobOptions(OptimizerOptions, ValidationOptions, RunOptions):
    """The settings that every training recipe has."""


@dataclass(kw_only=True)
class TrainingOptions(BatchOptions, JobOptions):
    """The settings of a training recipe whose batches have a fixed number of rows."""
