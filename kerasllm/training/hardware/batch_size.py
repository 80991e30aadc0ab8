"""Finds the largest batch whose training step fits into memory, by steps that are measured.

On a CPU a step that takes too much ends the process, and no error can be caught. So steps of a few rows come first,
and a larger one is made only if it fits by what those took. What is chosen has been measured.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from kerasllm import backend
from kerasllm.errors import InputError, is_out_of_memory

GIB = 2**30
FREE = 0.1
"""Share of the memory that is left free: for validation, checkpoints and what other programs take meanwhile."""

_CHANCE = 2**26  # bytes by which two measurements of the same step may differ
_ON_A_LINE = 0.1  # the relative difference of two slopes up to which three points lie on a line


class Memory(NamedTuple):
    """The memory of a training step.

    Args:
        rest: bytes that a step of no rows would take at least: those before there is a model, its state and gradients.
        peak: the most bytes in use at a time.
    """

    rest: int
    peak: int


@dataclass(frozen=True)
class Fitting:
    """The largest batch that fits.

    Args:
        size: its size.
        usable: the bytes that a step may take.
        peaks: the peak of each size that was measured, in bytes, None for one that ran out of memory.
    """

    size: int
    usable: int
    peaks: dict[int, int | None]

    @property
    def recorded(self) -> dict[str, Any]:
        """The measurement as config.yaml records it, in GiB."""
        return {
            "usable_gib": _gib(self.usable),
            "peak_gib": {size: _gib(one) for size, one in self.peaks.items()},
        }


def usable_memory(limit_gib: float | None) -> int:
    """Returns the bytes that a step may take: of what there is, and of what is allowed, less the share that stays free.

    Args:
        limit_gib: the GiB that are allowed; None for all.
    """
    limit = backend.memory_limit()
    if limit_gib is not None:
        limit = min(limit, int(limit_gib * GIB))
    return int(limit * (1 - FREE))


def memory_of_step(
    make_model: Callable[[], keras.Model], batch: tuple[Any, ...], before: int
) -> Memory | None:
    """Returns the memory of a training step, of the second one, as the first compiles; None if it runs out of memory.

    Args:
        make_model: function that returns a compiled model.
        batch: inputs, labels and weights for `train_on_batch`.
        before: the bytes that were in use before there was a model. TensorFlow keeps what a step has freed, so that
            they cannot be told later.
    """
    try:
        return _measured(make_model(), batch, before)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def _measured(model: keras.Model, batch: tuple[Any, ...], before: int) -> Memory:
    model.train_on_batch(*batch)
    peak = backend.peak_memory(lambda: model.train_on_batch(*batch))
    held = _bytes(
        [*model.variables, *model.optimizer.variables, *model.trainable_variables]
    )  # and the gradients
    return Memory(min(before + held, peak), peak)


def _bytes(variables: Sequence[Any]) -> int:
    return sum(
        math.prod(variable.shape) * (2 if variable.dtype in ("float16", "bfloat16") else 4)
        for variable in variables
    )


def largest_batch(
    option: str, measure: Callable[[int], Memory | None], usable: int, *, first: int, most: int
) -> Fitting:
    """Returns the largest batch that fits: a power of two times `first`, or `most`, and prints what was measured.

    Args:
        option: the option's name, for messages.
        measure: function from a size to the memory of a step, None where it runs out.
        usable: the bytes that a step may take.
        first: the smallest size.
        most: the size that no batch exceeds, a multiple of `first`.

    Raises:
        InputError: the smallest does not fit.
    """
    print(f"--{option} auto: measuring the memory of training steps …", file=sys.stderr, flush=True)
    sizes = [first << doubled for doubled in range((most // first).bit_length())]
    sizes += [most] if most > sizes[-1] else []
    found = measure(first)
    peaks = {first: None if found is None else found.peak}
    if found is None or found.peak > usable:
        takes = "more than there is" if found is None else f"{_gib(found.peak)} GiB"
        raise InputError(
            f"--{option} auto: a step of {first:,} takes {takes}, and {_gib(usable)} GiB may be used: choose a smaller "
            "model or shorter rows, --recompute true where it has blocks, or raise --memory_limit"
        )
    points = [(first, found.peak)]
    larger = sizes[1:]
    while larger:
        size, peak = points[-1]
        slope = _slope(points, found.rest)
        fitting = [other for other in larger if peak + slope * (other - size) <= usable]
        tried = fitting[-1] if fitting else larger[0]
        if peak + slope * (tried - size) > usable / (1 - FREE):  # what stays free is there to try
            break
        seen = measure(tried)
        peaks[tried] = None if seen is None else seen.peak
        if seen is None or seen.peak > usable:
            larger = [other for other in larger if other < tried]
            continue
        points.append((tried, seen.peak))
        larger = [other for other in larger if other > tried]
    chosen = Fitting(points[-1][0], usable, peaks)
    print(_told(option, chosen, most), file=sys.stderr, flush=True)
    return chosen


def _slope(points: Sequence[tuple[int, int]], rest: int) -> float:
    """Returns the bytes that each further row takes, at most.

    Rows take no more than all that a step takes beyond `rest`. Often that is too much, as something else takes memory,
    too, however few rows there are; so it is the slope of the last three points, if they lie on a line.

    Args:
        points: sizes and peaks.
        rest: bytes that a step of no rows would take at least.
    """
    size, peak = points[-1]
    most = (peak - rest + _CHANCE) / size
    if len(points) < 3:
        return most
    before, last = (
        (other[1] - one[1]) / (other[0] - one[0]) for one, other in itertools.pairwise(points[-3:])
    )
    is_line = abs(last - before) <= _ON_A_LINE * last and peak - points[-2][1] >= _CHANCE
    return min(last, most) if is_line else most


def _told(option: str, fitting: Fitting, most: int) -> str:
    measured = ", ".join(
        f"{size:,}: {'out of memory' if peak is None else f'{_gib(peak)} GiB'}"
        for size, peak in sorted(fitting.peaks.items())
    )
    bound = ", the whole data set" if fitting.size == most else ""
    return (
        f"--{option} {fitting.size}{bound} (peak memory of a step of {measured}; {_gib(fitting.usable)} GiB may be "
        "used); the learning rate and the steps or epochs stay as given"
    )


def _gib(count: int | None) -> float | None:
    return None if count is None else round(count / GIB, 2)
