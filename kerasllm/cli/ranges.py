"""What a setting may be, once for all recipes: a name means the same in each.

Recipes ask before they read anything, so that a slip is told at once, in the option's own words, and not
by a layer in the depths after the corpus has been tokenized.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from kerasllm.errors import InputError


@dataclasses.dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`.

    Args:
        low: the lower end.
        high: the upper end, infinity for none.
        above: whether `low` itself is left out; `high` always is.
    """

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value < self.high

    def __str__(self) -> str:
        if math.isfinite(self.high):
            return f"lie in {'(' if self.above else '['}{self.low}, {self.high})"
        return f"be above {self.low}" if self.above else f"be at least {self.low}"


_COUNT = Interval(1)

RANGES = {
    **dict.fromkeys(
        ("steps", "epochs", "repeats", "batch_size", "gradient_accumulation", "vocabulary_size"), _COUNT
    ),
    **dict.fromkeys(("eval_interval", "eval_batches", "log_interval", "patience"), _COUNT),
    **dict.fromkeys(("checkpoint_steps", "keep", "processes", "top_k"), _COUNT),
    **dict.fromkeys(("context_length", "max_new_tokens", "stride", "num_beams", "limit"), _COUNT),
    **dict.fromkeys(("sample_tokens", "lora_rank", "minimum_learning_rate"), Interval(0)),
    **dict.fromkeys(("checkpoint_minutes", "lora_alpha"), Interval(0, above=True)),
    "learning_rate": Interval(0, above=True),
    "warmup": Interval(0),
    "weight_decay": Interval(0),
    "clip_norm": Interval(0),
    **dict.fromkeys(("beta_2", "dropout"), Interval(0, 1)),
    "masking_probability": Interval(0, 1, above=True),
    "validation_fraction": Interval(0, 1),
    "seed": Interval(0, 2**31),
}
"""By the name of the setting."""


def check_ranges(config: Any) -> None:
    """Checks every setting of a recipe that has a range; null is left alone.

    Args:
        config: the recipe's settings, a dataclass.

    Raises:
        InputError: a value is out of its range; names the option, the value and the range.
    """
    for field in dataclasses.fields(config):
        value, interval = getattr(config, field.name), RANGES.get(field.name)
        if interval is not None and value is not None and value not in interval:
            raise InputError(f"--{field.name} is {value}, it must {interval}")
