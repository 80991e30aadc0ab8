"""Searches for the settings of a training recipe that give the best validation figure.

KERAS_BACKEND=jax python recipes/search.py --recipe finetune_bert --config base.yaml \
    --space learning_rate=1e-5..5e-4:log batch_size=16,32 warmup=0..0.2 --trials 20 --output runs/search
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kerasllm import cli
from kerasllm.cli.commands import command
from kerasllm.cli.ranges import at_least, within
from kerasllm.cli.settings import continues
from kerasllm.errors import InputError
from kerasllm.files.atomic import write_atomically
from kerasllm.files.json import to_json
from kerasllm.search.directory import check_directory, search_directory
from kerasllm.search.outcomes import check_metric
from kerasllm.search.picture import plot_search
from kerasllm.search.recipe import TrainingRecipe
from kerasllm.search.repeats import Repeats
from kerasllm.search.report import print_tables, results
from kerasllm.search.runs import carry_out
from kerasllm.search.space import Space, read_space
from kerasllm.training.callbacks.evaluation import less_is_better
from kerasllm.training.run.settings import nothing_to_resume

if TYPE_CHECKING:
    from kerasllm.search.study import Study


@dataclass(kw_only=True)
class Config:
    """Searches for the settings of a training recipe that give the best validation figure."""

    recipe: str
    """The training recipe, such as finetune_bert."""

    config: list[str]
    """YAML file of the recipe's settings, with the data to train and to validate on; later ones override."""

    space: list[str]
    """What is searched: NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=A,B,C, for any option of the recipe."""

    output: str
    """Directory of the search: the trials' runs, journal, best.yaml, search.png, results.json."""

    metric: str | None = None
    """Figure that decides, such as validation.accuracy; if null, the one that the recipe's --monitor names."""

    trials: int = field(default=20, metadata=at_least(1))
    """Trials in all, each a training run."""

    sampler: Literal["tpe", "random"] = "tpe"
    """tpe proposes what is likely to be better than the trials before; random does not look at them."""

    pruning: bool = True
    """Stop a trial whose best figure so far is worse than the median of the others after as many validations."""

    workers: int = field(default=1, metadata=at_least(1))
    """Trials that run at once."""

    repeats: int = field(default=3, metadata=at_least(0))
    """Runs of the best settings with other seeds at the end, which judge the test data."""

    compare_base: bool = False
    """Repeat the settings of --config too, for comparison."""

    seed: int = field(default=0, metadata=within(0, 2**31))
    """Seed of the proposals; the runs have the seed of --config."""

    resume: bool = field(default=False, metadata=continues("output"))
    """Continue the interrupted search in --output, with its settings; no other option is needed."""


def main(config: Config) -> int:
    """Carries out the trials, repeats the best, and writes what was found."""
    from kerasllm.search.study import Study  # which says so if Optuna is not installed

    if check_directory(config):
        print(nothing_to_resume(config.output, config))
        return 0
    began = time.monotonic()
    kept = Path(config.output) / "base.yaml"  # the user's files may change while the search goes on
    recipe = TrainingRecipe.find(config.recipe, [kept] if kept.exists() else config.config)
    base = recipe.config()
    check_validation(base)
    space = read_space(config.space, recipe)
    metric = check_metric(config.metric or f"validation.{getattr(base, 'monitor', 'loss')}")
    with search_directory(config) as path:
        recipe.write(kept)
        recipe = dataclasses.replace(recipe, files=(kept,))
        chosen: dict[str, Any] = {"sampler": config.sampler, "pruning": config.pruning, "seed": config.seed}
        study = Study(path, recipe, space, metric=metric, trials=config.trials, **chosen)
        stopped = carry_out(study, config.workers)
        if stopped is None or any(trial.state == "complete" for trial in study.outcomes()):
            write_best(study, recipe, space, path)
        if stopped is not None:
            print(f"stopped: {command('search', ['--output', config.output, '--resume'])} goes on from here")
            return stopped
        best = study.best()
        compares = config.compare_base and not study.is_base(best)  # which would be the same runs
        groups = {"best": best.settings} | ({"base": {}} if compares else {})
        seeds = range(base.seed + 1, base.seed + 1 + config.repeats)
        repeats = Repeats(path / "repeats", recipe, groups, seeds)
        stopped = carry_out(repeats, config.workers)
        if stopped is not None:
            return stopped
        figures = repeats.figures()
        found = results(study.outcomes(), best, metric, study.importances(), figures)
        found |= {"failed_repeats": repeats.failed, "seconds": round(time.monotonic() - began, 1)}
        write_atomically(path / "results.json", to_json(found, indent=2) + "\n")
        print_tables(study.outcomes(), best, metric, figures)
    print(f"written to {path}; to train with the best settings:")
    print(command(config.recipe, ["--config", str(path / "best.yaml"), "--output", "NEW"]))
    return 0


def check_validation(base: Any) -> None:
    """Refuses base settings without validation data, since nothing could be chosen."""
    if not base.has_validation:
        raise InputError(
            f"settings are chosen by a validation figure: --config needs {base.validation_options}"
        )


def write_best(study: Study, recipe: TrainingRecipe, space: Space, path: Path) -> None:
    """Writes best.yaml and search.png for the trials so far."""
    best = study.best()
    about = f"trial {best.name} of {path}: {study.metric} {best.value:.4f}"
    recipe.write(path / "best.yaml", best.settings, about)
    plot_search(
        study.outcomes(),
        best,
        space,
        study.importances(),
        metric=study.metric,
        less_is_better=less_is_better(study.metric),
        path=path / "search.png",
        title=f"{path.absolute().name}: {recipe.name}",
    )


if __name__ == "__main__":
    cli.run(main, Config)
