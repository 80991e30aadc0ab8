"""Groups of settings that recipes share: each is declared once, with its help, its default and its range.

A recipe's `Config` inherits the groups that it needs. On the command line they are flat: `--learning_rate`. A recipe
gives an inherited setting another default by naming it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kerasllm.cli.ranges import above, at_least, within
from kerasllm.data.sources.labelled import LabelledTexts, read_labelled
from kerasllm.errors import InputError
from kerasllm.training.callbacks.number_guard import GuardOptions

HELD_OUT_TEXT = "--validation_corpus or a --validation_fraction above 0"
"""The options that bring a validation in pretraining, for messages."""


@dataclass(kw_only=True)
class CorpusOptions:
    """The text that a model is pretrained on."""

    corpus: list[str]
    """Text files or directories, .jsonl, .parquet, hub:ID of a data set, or python-docs; several allowed."""

    validation_corpus: list[str] = field(default_factory=list)
    """As --corpus; without it, text is set aside by --validation_fraction."""

    validation_fraction: float = field(default=0.05, metadata=within(0, 1))
    """Share of the text set aside for validation where there is no --validation_corpus; 0 for none."""

    text_column: str = "text"
    """Field of the text in .jsonl, .parquet and hub data sets."""

    processes: int | None = field(default=None, metadata=at_least(1))
    """Processes that tokenize; as many as there are cores if null."""

    @property
    def corpus_names(self) -> str:
        """The option as it was given, for messages."""
        return f"--corpus {' '.join(self.corpus)}"

    @property
    def validation_names(self) -> str:
        """Where the text to validate with is from, for messages."""
        if self.validation_corpus:
            return f"--validation_corpus {' '.join(self.validation_corpus)}"
        return f"--validation_fraction {self.validation_fraction} of {self.corpus_names}"

    @property
    def has_validation(self) -> bool:
        """Whether text is to be set aside, or given, for validation."""
        return bool(self.validation_corpus) or self.validation_fraction > 0


@dataclass(kw_only=True)
class LabelledOptions:
    """Labelled texts, or pairs of texts, that a model is fine-tuned on."""

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

    epochs: int = field(default=3, metadata=at_least(1))
    """Passes over --train."""

    def read(self) -> dict[str, LabelledTexts]:
        """Returns the parts by name; validation and test are read as the training part was.

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
class OptimizerOptions:
    """AdamW, its schedule and the batches that it sees."""

    batch_size: int = field(default=32, metadata=at_least(1))
    """Rows of a batch; an optimizer step sees batch_size * gradient_accumulation."""

    gradient_accumulation: int = field(default=1, metadata=at_least(1))
    """Batches whose gradients make one optimizer step."""

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
    """When a run is validated, and what follows from it."""

    eval_interval: int | None = field(default=None, metadata=at_least(1))
    """Steps between validations; a tenth of all steps in pretraining, an epoch in fine-tuning, if null."""

    restore_best: bool = False
    """End with the weights of the best validation."""

    patience: int | None = field(default=None, metadata=at_least(1))
    """Validations without a better one after which training stops; null for never."""

    def check_validation(self, has_validation: bool, mend: str) -> None:
        """Refuses settings that need a validation where there is none.

        Args:
            has_validation: whether there is one.
            mend: the options that bring one, for the message.

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
    """The run directory, the machine, and what is done around the training."""

    output: str
    """Directory of the run: settings, log, checkpoints, model, results."""

    precision: Literal["float32", "mixed_bfloat16", "auto"] = "float32"
    """auto measures both, takes the faster and records it."""

    jit_compile: bool | None = None
    """Compile the training step; null: on PyTorch if the run is long and there is a C++ compiler, elsewhere always."""

    log_interval: int | None = field(default=None, metadata=at_least(1))
    """Steps between lines of metrics.jsonl; 1 up to 100 steps, else 10, if null."""

    checkpoint_steps: int | None = field(default=None, metadata=at_least(1))
    """Steps between checkpoints."""

    checkpoint_minutes: float | None = field(default=10.0, metadata=above(0))
    """Minutes between checkpoints."""

    keep: int = field(default=2, metadata=at_least(1))
    """Checkpoints that stay."""

    seed: int = field(default=0, metadata=within(0, 2**31))
    """Of initial values, dropout and the order of the data."""

    guard: GuardOptions = field(default_factory=GuardOptions)

    resume: bool = False
    """Go on with an interrupted run."""

    @property
    def for_fit(self) -> dict[str, Any]:
        """The arguments of `fit_run` that are options of this group."""
        names = ("log_interval", "checkpoint_steps", "checkpoint_minutes", "keep", "resume", "guard")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class TrainingOptions(OptimizerOptions, ValidationOptions, RunOptions):
    """What every training recipe has."""
