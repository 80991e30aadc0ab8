"""Repeats settings with other seeds, and only then judges the test data."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.search.recipe import TrainingRecipe
from kerasllm.search.runs import TrainingRun

PARTS = ("validation", "test")


class Repeats:
    """A plan of runs, one for each group of settings and each seed, which judge the test data at their end.

    The seeds are other ones than that of the trials: the best trial was chosen for what its seed gave, too.

    Args:
        path: the directory of the runs, `path/GROUP-SEED`. A run that is finished there is not made again.
        recipe: the recipe with the base settings.
        groups: the settings of each group by its name, such as "best".
        seeds: the seeds.
    """

    def __init__(
        self,
        path: Path,
        recipe: TrainingRecipe,
        groups: Mapping[str, Mapping[str, Any]],
        seeds: Sequence[int],
    ) -> None:
        self.path = path
        self.seeds = list(seeds)
        self.groups = list(groups)
        self.failed: dict[str, str] = {}
        self._runs = [
            TrainingRun(
                recipe.path,
                recipe.arguments({**settings, "seed": seed, "judge_test": True}),
                path / f"{group}-{seed}",
            )
            for group, settings in groups.items()
            for seed in self.seeds
        ]
        self._waiting = [run for run in self._runs if not (run.directory / "results.json").exists()]

    def next_run(self) -> TrainingRun | None:
        """Returns the next run, or None if all have been started."""
        return self._waiting.pop(0) if self._waiting else None

    def look(self, run: TrainingRun, number: int, figures: Mapping[str, Any]) -> bool:
        """Lets the run go on."""
        return False

    def end(self, run: TrainingRun, code: int) -> None:
        """Prints that a run has ended, and notes why if it has failed."""
        name = run.directory.name
        if code:
            self.failed[name] = run.reason(code)
            print(f"{name}: failed: {self.failed[name]}", flush=True)
            return
        shutil.rmtree(run.directory / "checkpoints", ignore_errors=True)
        print(f"{name}: complete ({run.seconds:.0f} s)", flush=True)

    def figures(self) -> dict[str, dict[str, Any]]:
        """Returns, for each group, the seeds that were finished and the figures of each part over them.

        Returns:
            `{"best": {"seeds": […], "validation": {"loss": {"mean": …, "spread": …, "values": […]}}, "test": …}}`. The
            spread is the standard deviation of a seed, with n - 1 in the denominator, None for fewer than two.
        """
        found = {}
        for group in self.groups:
            seeds, results = [], []
            for run in self._runs:
                name, _, seed = run.directory.name.rpartition("-")
                if name == group and (run.directory / "results.json").exists():
                    seeds.append(int(seed))
                    results.append(run.results())
            found[group] = {"seeds": seeds} | {
                part: _over_seeds([result.get(part) or {} for result in results]) for part in PARTS
            }
        return found


def _over_seeds(figures: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns mean and spread of each figure that is a number in all of the results."""
    found = {}
    for name in figures[0] if figures else ():
        values = [each.get(name) for each in figures]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        if name != "examples" and len(numbers) == len(values):
            spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
            found[name] = {"mean": float(np.mean(numbers)), "spread": spread, "values": numbers}
    return found
