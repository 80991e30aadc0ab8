"""`--batch_size auto`, and `--batch_tokens auto`, of a recipe: the sizes that are tried, and the one that is recorded.

In config.yaml the number that was chosen takes the place of "auto". So a resumed run has the same batches, and so has a
repeat with that file, whatever memory is free by then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from kerasllm import backend
from kerasllm.training.fit import own_share
from kerasllm.training.hardware.batch_size import largest_batch, memory_of_step, usable_memory
from kerasllm.training.run.directory import RunDirectory
from kerasllm.training.run.settings import recorded

_OPTIONS = {"batch_size": 1, "batch_tokens": 1024}
"""The options that may be "auto", with the smallest size that is tried."""


def asked_option(config: Any) -> str | None:
    """Returns the name of the option that is "auto"; None if none is."""
    return next((name for name in _OPTIONS if getattr(config, name, None) == "auto"), None)


def take_recorded(config: Any) -> None:
    """Puts the number of the run that is to be resumed, if it has one already, in the place of "auto"."""
    option, path = asked_option(config), Path(config.output)
    if option is not None and config.resume and (path / "config.yaml").is_file():
        setattr(config, option, recorded(path).get(option, "auto"))


class AutoBatch:
    """The size of a recipe's batches while it is looked for; in the settings a number stands for "auto" meanwhile.

    Args:
        config: the recipe's settings.
        option: the option that is "auto".
        first: the smallest size, of which others are multiples.
    """

    def __init__(self, config: Any, option: str, first: int) -> None:
        self.config, self.option, self.first = config, option, first
        self._before = backend.memory_in_use()
        self._set(first)

    @classmethod
    def of(cls, config: Any, mesh: Mapping[str, int]) -> AutoBatch | None:
        """Returns the batch to be looked for; None if the settings have a number.

        Args:
            config: the recipe's settings.
            mesh: the number of devices of each axis.
        """
        option = asked_option(config)
        if option is None:
            return None
        parts = mesh["replica"] * mesh["fsdp"] if option == "batch_size" else 1
        return cls(config, option, _OPTIONS[option] * parts)

    def of_usual_size(self, make_job: Callable[[], Any]) -> Any:
        """Returns the job with the recipe's default batch, or with all data, if that is less."""
        fields = {field.name: field for field in dataclasses.fields(self.config)}
        usual: Any = fields[self.option].default
        self._set(max(min(usual, self._most(make_job())) // self.first, 1) * self.first)
        return make_job()

    def of_largest_size(
        self,
        make_job: Callable[[], Any],
        compiled: Callable[[Any], Callable[[], keras.Model]],
        run: RunDirectory,
    ) -> Any:
        """Returns the job with the largest batch that fits, which is measured, and recorded in the run.

        Args:
            make_job: function that returns the job with batches of the size in the settings.
            compiled: function from a job to one that makes its model and compiles it.
            run: the run's directory.

        Raises:
            InputError: the smallest does not fit.
        """
        usable = usable_memory(self.config.memory_limit)

        def measure(size: int):
            self._set(size)
            job = make_job()
            share = own_share(self.config.gradient_accumulation)
            return memory_of_step(compiled(job), share.of(job.batches.heaviest()), self._before)

        self._set(self.first)
        found = largest_batch(self.option, measure, usable, first=self.first, most=self._most(make_job()))
        self._set(found.size)
        run.settle(**{self.option: found.size})
        run.record(measured_memory=found.recorded)
        return make_job()

    def _most(self, job: Any) -> int:
        """Returns the size of a batch of all data."""
        sides = 2 if self.option == "batch_tokens" else 1  # source and target
        return max(job.batches.most_rows * sides // self.first, 1) * self.first

    def _set(self, size: int) -> None:
        setattr(self.config, self.option, size)
