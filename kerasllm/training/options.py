"""Groups of settings that recipes share; each setting is declared once, with its help, default and range.

A recipe's `Config` inherits the groups that it needs. On the command line their options have no prefix:
`--learning_rate`. A recipe changes the default of an inherited setting by declaring it again.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from kerasllm.cli.ranges import above, at_least, within
from kerasllm.cli.settings import continues, in_group
from kerasllm.data.sources.label_values import renamed
from kerasllm.data.sources.labelled import LabelledTexts, read_labelled
from kerasllm.data.sources.splitting import split_records, text_key
from kerasllm.data.sources.tagged import Splitter, TaggedSentences, TagScheme, read_tagged
from kerasllm.data.token_cache.store import TokenStore
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.errors import InputError, InputWarning, counted, naming
from kerasllm.training.callbacks.number_guard import GuardOptions

HELD_OUT_TEXT = "--validation_corpus or a --validation_fraction above 0"
"""The options that provide validation text in pretraining, for messages."""

HELD_OUT_EXAMPLES = "--validation or a --validation_fraction above 0"
"""The options that provide validation examples in fine-tuning, for messages."""

_FAR = 1.75  # a share is told that is so many times as large as what was asked for, or as small


@dataclass(kw_only=True)
class CorpusOptions:
    """Settings for the text that a model is pretrained on."""

    group: ClassVar[str] = "data"

    corpus: list[str]
    """Text files or directories, .jsonl, .parquet, hub:ID of a data set, or python-docs; several allowed."""

    validation_corpus: list[str] = field(default_factory=list, metadata=in_group("validation"))
    """Validation text, given like --corpus; without it, --validation_fraction sets text aside."""

    validation_fraction: float = field(default=0.05, metadata=within(0, 1) | in_group("validation"))
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

    def report(self, training: TokenStore | TokenStream, validation: TokenStore | TokenStream | None) -> None:
        """Prints how much text there is to train on and to validate with, and what share was set aside.

        Args:
            training: the text to train on.
            validation: the text to validate with; None if there is none.

        Warns:
            InputWarning: the share that was set aside is far from `--validation_fraction`.
        """

        def amount(part: TokenStore | TokenStream) -> str:
            return f"{counted(part.num_documents, 'document')}, {counted(part.num_tokens, 'token')}"

        print(f"to train on: {amount(training)}", flush=True)
        if validation is None:
            return
        if self.validation_corpus:
            print(f"to validate with: {amount(validation)}", flush=True)
            return
        share = validation.num_tokens / (training.num_tokens + validation.num_tokens)
        print(
            f"set aside for validation: {amount(validation)}, {100 * share:.2g} % of the corpus", flush=True
        )
        if not 1 / _FAR < share / self.validation_fraction < _FAR:
            warnings.warn(
                f"--validation_fraction asks for {100 * self.validation_fraction:.2g} % and {100 * share:.2g} % was "
                "set aside, as the documents cannot be divided better; name a --validation_corpus, or another fraction",
                InputWarning,
                stacklevel=2,
            )


@dataclass(kw_only=True)
class FineTuningOptions:
    """Settings for the data that a model is fine-tuned on."""

    group: ClassVar[str] = "data"

    train: str
    """Training data: a file, or hub:ID of a data set."""

    validation: str | None = field(default=None, metadata=in_group("validation"))
    """Validation data, given like --train; evaluated after each epoch."""

    test: str | None = field(default=None, metadata=in_group("validation"))
    """Test data, given like --train; evaluated once, at the end."""

    validation_fraction: float = field(default=0.0, metadata=within(0, 1) | in_group("validation"))
    """Share of --train to set aside for validation, in place of --validation."""

    test_fraction: float = field(default=0.0, metadata=within(0, 1) | in_group("validation"))
    """Share of --train to set aside as test data, in place of --test."""

    epochs: int = field(default=3, metadata=at_least(1) | in_group("optimization"))
    """Passes over --train."""

    @property
    def sources(self) -> dict[str, str]:
        """The data by part: "train" and, if they are given, "validation" and "test"."""
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: source for name, source in given.items() if source}

    @property
    def fractions(self) -> dict[str, float]:
        """The shares of --train that are set aside by part, without those of 0."""
        given = {"validation": self.validation_fraction, "test": self.test_fraction}
        return {name: share for name, share in given.items() if share}

    @property
    def has_validation(self) -> bool:
        """True if validation data is given or set aside."""
        return bool(self.validation or self.validation_fraction)

    def check_parts(self) -> None:
        """Refuses data of a part that is both given and set aside, before anything is read.

        Raises:
            InputError: the message names both options.
        """
        for name in self.fractions:
            if name in self.sources:
                raise InputError(
                    f"--{name}_fraction sets a part of --train aside and --{name} names a file: give one of the two"
                )
        if sum(self.fractions.values()) >= 1:
            given = " and ".join(f"--{name}_fraction {share}" for name, share in self.fractions.items())
            raise InputError(f"{given} leave nothing to train on: their sum must be below 1")

    def set_aside(
        self, groups: Sequence[Hashable], seed: int, strata: Sequence[Hashable] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns which records of --train belong to "train" and to each part that is set aside, and prints how many.

        Args:
            groups: the group of each record, which stays together, such as `text_key` of its texts.
            seed: seed of the division.
            strata: the label of each record, of which each part gets the same share.

        Returns:
            Indices of records by part; see `split_records`.
        """
        if not self.fractions:
            return {"train": np.arange(len(groups))}
        with naming(f"--train {self.train}"):
            parts = split_records(groups, self.fractions, seed, strata)
        for name in self.fractions:
            share = len(parts[name]) / len(groups)
            print(
                f"set aside for {name}: {counted(len(parts[name]), 'example')} of {len(groups):,}, "
                f"{100 * share:.2g} % of --train",
                flush=True,
            )
            if not 1 / _FAR < share / self.fractions[name] < _FAR:
                warnings.warn(
                    f"--{name}_fraction asks for {100 * self.fractions[name]:.2g} % and {100 * share:.2g} % was set "
                    "aside, as there are few examples or many of one text",
                    InputWarning,
                    stacklevel=2,
                )
        return parts

    def set_text_aside(self, stream: TokenStream) -> dict[str, TokenStream]:
        """Returns the plain text of --train by part: the end of it is test data, and what stands before validates.

        Args:
            stream: the tokens of --train.

        Raises:
            InputError: the text is too short to be divided.
        """
        parts = {"train": stream}
        left = 1.0
        for name, share in reversed(self.fractions.items()):
            with naming(f"--train {self.train}"):
                parts["train"], parts[name] = parts["train"].split(share / left)
            left -= share
            found = counted(parts[name].num_tokens, "token")
            print(f"set aside for {name}: {found}, {100 * share:.2g} % of --train", flush=True)
        return parts


@dataclass(kw_only=True)
class LabelledOptions(FineTuningOptions):
    """Settings for the labeled texts, or pairs of texts, that a model is fine-tuned on."""

    group: ClassVar[str] = "data"

    train: str
    """Training data: a file, or hub:ID of a data set."""

    text_columns: str | None = None
    """One column or two, separated by a comma: names, or numbers from 0 if the file has no header."""

    label_column: str | None = None
    """Column of the labels: its name, or its number from 0."""

    task: Literal["auto", "classification", "regression"] = "auto"
    """auto chooses regression if every label is a number and at least one is not whole."""

    multi_label: bool = False
    """A text may have several labels or none: a list in .jsonl and .parquet, or parts of a cell, as in "sea,storm"."""

    label_separator: str = ","
    """With --multi_label: what stands between the labels of a cell."""

    label_names: str | None = None
    """Names of the classes for predictions and the saved model: 0=negative,1=positive."""

    def read(self, seed: int) -> dict[str, LabelledTexts]:
        """Returns the data by part; validation and test data have the task and labels of the training data.

        Args:
            seed: seed of the choice of examples that are set aside.

        Raises:
            InputError: a file cannot be read, a label of one part does not occur in training, or `label_names` does
                not name each class.
        """
        columns = self.text_columns, self.label_column
        if self.multi_label and self.task == "regression":
            raise InputError("--multi_label is for classes, and --task is regression: give one of the two")
        if not self.label_separator:
            raise InputError("--label_separator is empty: give the text between two labels, such as ','")
        several: dict[str, Any] = {"separator": self.label_separator if self.multi_label else None}
        whole = read_labelled(self.train, *columns, task=self.task, split="train", **several)
        like: dict[str, Any] = {"task": whole.task, "label_names": whole.label_names, **several}
        strata = None if whole.label_names is None else list(map(repr, whole.labels.tolist()))
        groups = [text_key(*texts) for texts in whole.texts]
        parts = {
            name: whole.select(records) for name, records in self.set_aside(groups, seed, strata).items()
        }
        for name, source in self.sources.items():
            if name != "train":
                parts[name] = read_labelled(source, *columns, split=name, **like)
        names = renamed(whole.label_names, self.label_names) if self.label_names else whole.label_names
        return {name: dataclasses.replace(part, label_names=names) for name, part in parts.items()}


@dataclass(kw_only=True)
class TaggedOptions(FineTuningOptions):
    """Settings for the sentences with tags that a model is fine-tuned on."""

    train: str
    """Sentences with tags: CoNLL columns, .jsonl, .parquet, or hub:ID."""

    token_column: str | None = None
    """Column of the words: its number from 0 in CoNLL files (0 if null), its name elsewhere."""

    label_column: str | None = None
    """Column of the tags, likewise; the last one in CoNLL files if null."""

    tag_scheme: TagScheme = "auto"
    """Scheme of the tags to train on; auto keeps IOB2 and BIOES, and converts IOB1; none takes tags as they are."""

    def read(self, seed: int, split_words: Splitter | None) -> dict[str, TaggedSentences]:
        """Returns the data by part; validation and test data have the tags of the training data.

        Args:
            seed: seed of the choice of sentences that are set aside.
            split_words: function that divides texts with character spans into words; None if there is no tokenizer.

        Raises:
            InputError: a file cannot be read, or a tag of one part does not occur in training.
        """
        columns = self.token_column, self.label_column
        reading: dict[str, Any] = {"scheme": self.tag_scheme, "split_words": split_words}
        whole = read_tagged(self.train, *columns, split="train", **reading)
        groups = [text_key(*words) for words in whole.words]
        parts = {name: whole.select(records) for name, records in self.set_aside(groups, seed).items()}
        for name, source in self.sources.items():
            if name != "train":
                parts[name] = read_tagged(
                    source, *columns, split=name, label_names=whole.label_names, **reading
                )
        return parts


@dataclass(kw_only=True)
class BatchOptions:
    """The size of batches with a fixed number of rows."""

    group: ClassVar[str] = "optimization"

    batch_size: int = field(default=32, metadata=at_least(1))
    """Rows of a batch; an optimizer step sees batch_size * gradient_accumulation."""


@dataclass(kw_only=True)
class OptimizerOptions:
    """Settings of AdamW and its schedule."""

    group: ClassVar[str] = "optimization"

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

    average: int = field(default=1, metadata=at_least(1))
    """End with the mean of the weights at the last so many checkpoints; without --checkpoint_steps, 1 % apart."""

    ema: float = field(default=0.0, metadata=within(0, 1))
    """Decay of an exponential moving average of the weights, with which the run ends; 0 for none."""


@dataclass(kw_only=True)
class ValidationOptions:
    """Settings for when a run is validated, and what follows from it."""

    group: ClassVar[str] = "validation"

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

    group: ClassVar[str] = "run"

    output: str
    """Directory of the run: settings, log, checkpoints, model, results."""

    precision: Literal["float32", "mixed_bfloat16", "auto"] = "float32"
    """auto measures both, chooses the faster one and records it."""

    jit_compile: bool | None = None
    """Compile the training step; if null, on PyTorch only for a long run with a C++ compiler, elsewhere always."""

    log_interval: int | None = field(default=None, metadata=at_least(1))
    """Steps between lines of metrics.jsonl; if null, 1 for a run of up to 100 steps, else 10."""

    checkpoint_steps: int | None = field(default=None, metadata=at_least(1) | in_group("checkpoints"))
    """Steps between checkpoints."""

    checkpoint_minutes: float | None = field(default=10.0, metadata=above(0) | in_group("checkpoints"))
    """Minutes between checkpoints."""

    keep: int = field(default=2, metadata=at_least(1) | in_group("checkpoints"))
    """Number of newest checkpoints to keep."""

    seed: int = field(default=0, metadata=within(0, 2**31))
    """Seed of initial values, dropout and the order of the data."""

    guard: GuardOptions = field(default_factory=GuardOptions)

    resume: bool = field(default=False, metadata=continues("output") | in_group("checkpoints"))
    """Continue the interrupted run in --output, with its settings; no other option is needed."""

    @property
    def for_fit(self) -> dict[str, Any]:
        """The arguments of `fit_run` that are options of this group."""
        names = ("log_interval", "checkpoint_steps", "checkpoint_minutes", "keep", "resume", "guard")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class JobOptions(OptimizerOptions, ValidationOptions, RunOptions):
    """The settings that every training recipe has."""

    def check_final_weights(self) -> None:
        """Refuses settings that ask for several kinds of final weights.

        Raises:
            InputError: the message names two of `--average`, `--ema`, `--restore_best` and `--patience`.
        """
        asked = {"average": self.average > 1, "ema": self.ema > 0, "restore_best": self.restore_best}
        given = [f"--{name}" for name, is_given in asked.items() if is_given]
        if len(given) > 1:
            raise InputError(
                f"{given[0]} and {given[1]} end the run with different weights: give one of them"
            )
        if self.ema and self.gradient_accumulation > 1:
            raise InputError(
                "--ema averages after each batch, and --gradient_accumulation changes the weights after several: leave "
                "one of them out"
            )
        if self.average > 1 and self.patience:
            raise InputError(
                "--average takes the last checkpoints, and --patience may end the run before them"
            )


@dataclass(kw_only=True)
class TrainingOptions(BatchOptions, JobOptions):
    """The settings of a training recipe whose batches have a fixed number of rows."""
