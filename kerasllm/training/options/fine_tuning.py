"""Settings of the data that a model is fine-tuned on, whatever the task."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np

from kerasllm.cli.ranges import at_least, within
from kerasllm.cli.settings import in_group
from kerasllm.data.sources.splitting import split_records
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.errors import InputError, InputWarning, counted, naming

FAR = 1.75
"""A share is told that is so many times as large as what was asked for, or as small."""


@dataclass(kw_only=True)
class FineTuningOptions:
    """Settings for the data that a model is fine-tuned on."""

    group: ClassVar[str] = "data"
    validation_options: ClassVar[str] = "--validation or a --validation_fraction above 0"
    may_grow: ClassVar[frozenset[str]] = frozenset()  # more epochs would change the schedule

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

    @property
    def for_batches(self) -> dict[str, Any]:
        """The arguments of training batches that are options."""
        names = ("batch_size", "seed", "epochs", "gradient_accumulation")
        return {name: getattr(self, name) for name in names}

    def labeled_batches(
        self, encoded: Mapping[str, Any], parts: Mapping[str, Any], training: Any, held_out: Any
    ) -> dict[str, Any]:
        """Returns the batches of encoded examples and their labels, as `Job` takes them.

        Args:
            encoded: the encoded examples by part, "train" among them.
            parts: what they were made from, with `labels`, by part.
            training: makes the batches that are trained on, of examples, labels and options.
            held_out: makes those of every other part, in the order of the data.
        """
        options = self.for_batches
        make_batches = partial(training, encoded["train"], parts["train"].labels, **options)
        judged = {
            name: held_out(encoded[name], parts[name].labels, batch_size=options["batch_size"], shuffle=False)
            for name in parts
            if name != "train"
        }
        return {"batches": make_batches(), "make_batches": make_batches, "held_out": judged}

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
            if not 1 / FAR < share / self.fractions[name] < FAR:
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
