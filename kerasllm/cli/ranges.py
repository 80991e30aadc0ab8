"""Declares the range of a setting's value beside the setting, and checks it when the command line is read.

A mistake is thus reported at once, under the name of the option, and not by some layer after the corpus has been
tokenized.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from kerasllm.errors import InputError

_KEY = "range"


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of numbers.

    Args:
        low: the lower end.
        high: the upper end, infinity for none.
        above: whether `low` itself is excluded.
        below: whether `high` itself is excluded.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = True

    def __contains__(self, value: float) -> bool:
        over = self.low < value if self.above else self.low <= value
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if math.isfinite(self.high):
            ends = "(" if self.above else "[", ")" if self.below else "]"
            return f"lie in {ends[0]}{self.low}, {self.high}{ends[1]}"
        return f"be above {self.low}" if self.above else f"be at least {self.low}"


def at_least(low: float) -> dict[str, Range]:
    """Returns the metadata of a field whose value is `low` or more: `field(default=1, metadata=at_least(1))`."""
    return {_KEY: Range(low)}


def above(low: float) -> dict[str, Range]:
    """Returns the metadata of a field whose value is greater than `low`."""
    return {_KEY: Range(low, above=True)}


def within(low: float, high: float, *, above: bool = False, below: bool = True) -> dict[str, Range]:
    """Returns the metadata of a field whose value lies between two numbers.

    Args:
        low: the lower end.
        high: the upper end.
        above: whether `low` itself is excluded.
        below: whether `high` itself is excluded.
    """
    return {_KEY: Range(low, high, above, below)}


def metadata_of(config_class: type, name: str) -> dict[str, Any]:
    """Returns the metadata of a field, from the class itself or the nearest base class that has any.

    A recipe that changes the default of an inherited setting thus keeps its range.
    """
    for base in config_class.__mro__:
        found = getattr(base, "__dataclass_fields__", {}).get(name)
        if found is not None and found.metadata:
            return dict(found.metadata)
    return {}


def check_ranges(config: Any, prefix: str = "--") -> None:
    """Checks every setting that has a range, in nested groups too; None and named values, such as auto, always pass.

    Args:
        config: the settings, a dataclass.
        prefix: text before each setting's name in a message.

    Raises:
        InputError: a value is out of its range; the message names the option, the value and the range.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{prefix}{field.name}.")
            continue
        interval = metadata_of(type(config), field.name).get(_KEY)
        if (
            interval is not None
            and value is not None
            and not isinstance(value, str)
            and value not in interval
        ):
            raise InputError(f"{prefix}{field.name} is {value}, it must {interval}")
