"""The space of a search: for each setting the range or the choices that its values are taken from."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kerasllm.cli.settings import Option, bare, convert, options, unknown
from kerasllm.errors import InputError
from kerasllm.files.json import plain
from kerasllm.search.recipe import TrainingRecipe

_RANGE = re.compile(r"(?P<low>.+?)\.\.(?P<high>.+?)(?P<log>:log)?")
_FORM = "write NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=A,B,C"
_DIGITS = 4  # of a value that is tried, so that it can be read and typed again
_NOT_SEARCHED = {
    "output": "a search has one of its own",
    "resume": "a search has one of its own",
    "judge_test": "a search judges the test data at the end",
    "seed": "seeds are not searched but repeated, see --repeats",
}


@dataclass(frozen=True)
class Choices:
    """A setting that takes one of several values.

    Args:
        values: the values, at least two.
    """

    values: tuple[Any, ...]

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values that are checked before the search begins: all of them."""
        return self.values

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def setting(self, suggested: Any) -> Any:
        """Returns the setting for a suggested value, which is the same."""
        return suggested


@dataclass(frozen=True)
class Interval:
    """A setting that takes any number between two.

    Args:
        low: the least value.
        high: the greatest value, which is above `low`.
        logarithmic: whether values are spread evenly on a logarithmic scale.
    """

    low: float
    high: float
    logarithmic: bool

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values that are checked before the search begins."""
        return self.low, self.high

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def setting(self, suggested: float) -> float:
        """Returns the setting for a suggested value: a whole number as it is, otherwise one of few digits."""
        if isinstance(self.low, int):
            return int(suggested)
        return min(max(float(f"{suggested:.{_DIGITS}g}"), self.low), self.high)


Space = Mapping[str, Choices | Interval]


def read_space(texts: Sequence[str], recipe: TrainingRecipe) -> dict[str, Choices | Interval]:
    """Returns the space that the user has written, by setting.

    Each end and each choice is read and checked as an option of the recipe, so that no trial meets a wrong one.

    Args:
        texts: such as "learning_rate=1e-5..5e-4:log", "batch_size=16,32" and "warmup=0..0.2".
        recipe: the recipe that is to be run.

    Raises:
        InputError: a text has another form, names no setting of the recipe or one that is not searched, or the recipe
            refuses a value.
    """
    if not texts:
        raise InputError(f"--space is empty: {_FORM}")
    described = {option.name: option for option in options(recipe.config_class)}
    space: dict[str, Choices | Interval] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not name or not equals or not values:
            raise InputError(f"--space {text}: {_FORM}")
        if name in _NOT_SEARCHED:
            raise InputError(f"--space {text}: {_NOT_SEARCHED[name]}")
        if name in space:
            raise InputError(f"--space names {name} twice")
        if name not in described:
            place = f"--space {text}: "
            raise InputError(unknown(f"setting {name}", name, list(described), "", place, recipe.name))
        space[name] = _values(described[name], text, values)
    first = {name: values.extremes[0] for name, values in space.items()}
    for name, tried in space.items():
        for value in tried.extremes:
            recipe.config({**first, name: value})
    return space


def _values(option: Option, text: str, values: str) -> Choices | Interval:
    """Returns the values of one setting."""
    place = f"--space {text}"
    kind = bare(option.type)
    interval = _RANGE.fullmatch(values)
    if interval is None:
        choices = tuple(plain(convert(option.type, each, place)) for each in values.split(","))
        if not all(isinstance(choice, str | int | float | None) for choice in choices):
            raise InputError(f"{place}: --{option.name} takes several values, and those are not searched")
        if len(set(choices)) < len(choices):
            raise InputError(f"{place}: a value occurs twice")
        if len(choices) < 2:
            raise InputError(
                f"{place}: one value leaves no choice: put it into the file of --config, or {_FORM}"
            )
        return Choices(choices)
    if kind not in (int, float):
        raise InputError(f"{place}: the values of --{option.name} are not numbers: give choices, NAME=A,B,C")
    low, high = (convert(kind, interval[end], place) for end in ("low", "high"))
    if low >= high:
        raise InputError(f"{place}: {low} is not below {high}")
    if interval["log"] and low <= 0:
        raise InputError(f"{place}: a logarithmic range begins above 0")
    return Interval(low, high, bool(interval["log"]))


def base_values(space: Space, config: Any) -> dict[str, Any] | None:
    """Returns the base settings as a point of the space; None if they lie outside.

    Args:
        space: the space.
        config: the base settings.
    """
    values = {name: setting_of(config, name) for name in space}
    return values if all(values[name] in space[name] for name in space) else None


def setting_of(config: Any, name: str) -> Any:
    """Returns a setting by its dotted name."""
    return functools.reduce(getattr, name.split("."), config)
