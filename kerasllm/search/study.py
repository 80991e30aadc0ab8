"""A study: trials of settings that Optuna proposes, each a training run, judged by a validation figure.

The journal on the disk holds all that has been proposed and found. A study that was killed continues from there, and
the runs that were cut go on from their own checkpoints. A proposal depends on the seed, the trial's number and what
the journal holds, so that a study with one worker proposes the same whether it was interrupted or not.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kerasllm.errors import InputError
from kerasllm.search.outcomes import VALIDATION, Trial, check_metric, in_a_line
from kerasllm.search.recipe import TrainingRecipe
from kerasllm.search.runs import TrainingRun
from kerasllm.search.space import Interval, Space, base_values
from kerasllm.training.callbacks.evaluation import less_is_better

try:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
except ImportError as error:
    raise InputError("a search needs the package optuna: pip install 'kerasllm[search]'") from error

State = optuna.trial.TrialState

_RANDOM_TRIALS = 5  # before TPE and the pruner have something to go by
_HOPELESS = 3  # failed trials, before any other outcome


class Study:
    """The trials of a search, kept in a journal; a plan of runs that `carry_out` carries out.

    Args:
        path: the directory of the search, which one process at a time uses.
        recipe: the recipe, whose base settings are those of `path`.
        space: the settings that are searched.
        metric: the figure in results.json that decides, such as "validation.accuracy".
        trials: how many trials there are to be in all.
        sampler: "tpe" or "random".
        pruning: whether a trial is stopped whose figure is worse than the median of the others after as many
            validations.
        seed: the seed of the proposals.

    Raises:
        InputError: the metric is no validation figure, or the journal cannot be read.
    """

    def __init__(
        self,
        path: Path,
        recipe: TrainingRecipe,
        space: Space,
        *,
        metric: str,
        trials: int,
        sampler: Literal["tpe", "random"] = "tpe",
        pruning: bool = True,
        seed: int = 0,
    ) -> None:
        self.path = path
        self.recipe = recipe
        self.space = space
        self.metric = check_metric(metric)
        self.trials = trials
        self.sampler = sampler
        self.seed = seed
        self._storage = _open_journal(path / "journal.log")
        self.optuna = optuna.create_study(
            study_name="search",
            storage=self._storage,
            direction="minimize" if less_is_better(metric) else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_RANDOM_TRIALS) if pruning else _never(),
            load_if_exists=True,
        )
        self._cut = [
            trial.number for trial in self.optuna.get_trials(deepcopy=False, states=(State.RUNNING,))
        ]
        self._running: dict[TrainingRun, optuna.Trial] = {}
        base = base_values(space, recipe.config())
        self._begins_with_base = base is not None
        if base is not None and not self.optuna.get_trials(deepcopy=False):
            self.optuna.enqueue_trial(base)  # so that the best is no worse than what one had

    def next_run(self) -> TrainingRun | None:
        """Returns the next trial's run: one that was cut, or else a new one, or None if there are enough."""
        trial = self._again(self._cut.pop(0)) if self._cut else self._new()
        if trial is None:
            return None
        run = TrainingRun(
            self.recipe.path,
            self.recipe.arguments({**self.settings(trial), "judge_test": False}),
            self.path / "trials" / _name(trial),
        )
        self._running[run] = trial
        return run

    def look(self, run: TrainingRun, number: int, figures: Mapping[str, Any]) -> bool:
        """Reports a validation of the run, and returns whether it is too bad for the run to go on."""
        trial = self._running[run]
        value = figures.get(self.metric.removeprefix(VALIDATION))
        if not isinstance(value, int | float):  # it is not finite, or there is none, as the end will tell
            return False
        if number not in self.optuna.get_trials(deepcopy=False)[trial.number].intermediate_values:
            trial.report(value, number)
        if not trial.should_prune() or self._leads(value):
            return False
        print(f"trial {_name(trial)}: worse than the median, stopped", flush=True)
        return True

    def end(self, run: TrainingRun, code: int) -> None:
        """Records the outcome of a trial, prints it, and removes the checkpoints that nobody will go on from.

        Raises:
            InputError: nothing comes of the trials, or their runs have no such figure.
        """
        trial = self._running.pop(run)
        trial.set_user_attr("seconds", round(run.seconds, 1))
        if run.ended_here:
            self.optuna.tell(trial, state=State.PRUNED)
        elif code:
            self._fail(trial, run.reason(code))
        else:
            self._complete(run, trial)
        found = self.record(trial.number)
        if found.state != "failed":  # a failed one may be looked into
            shutil.rmtree(run.directory / "checkpoints", ignore_errors=True)
        print(f"trial {in_a_line(found, self.metric)}", flush=True)
        outcomes = [each.state for each in self.outcomes()]
        if len(outcomes) >= _HOPELESS and set(outcomes) == {"failed"}:
            raise InputError(f"the first {len(outcomes)} trials have failed, the last one: {found.reason}")

    def outcomes(self) -> list[Trial]:
        """Returns all trials that were started, by number."""
        return [self.record(trial.number) for trial in self._asked()]

    def best(self) -> Trial:
        """Returns the trial with the best figure, the earliest of equal ones.

        Raises:
            InputError: no trial is complete.
        """
        complete = [trial for trial in self.outcomes() if trial.state == "complete"]
        if not complete:
            raise InputError(f"no trial was completed, the last one failed: {self.outcomes()[-1].reason}")
        sign = 1 if less_is_better(self.metric) else -1
        return min(complete, key=lambda trial: sign * (trial.value or 0.0))

    def is_base(self, trial: Trial) -> bool:
        """Returns whether a trial's settings are those that the search began with."""
        return self._begins_with_base and trial.settings == self.record(0).settings

    def settings(self, trial: Any) -> dict[str, Any]:
        """Returns the settings of one of Optuna's trials, by dotted name."""
        return {name: values.setting(trial.params[name]) for name, values in self.space.items()}

    def importances(self) -> dict[str, float]:
        """Returns how much of the figure's variation each setting explains, in [0, 1]; empty if that cannot be told.

        Reference: PED-ANOVA, Watanabe et al. 2023, https://arxiv.org/abs/2304.10255.
        """
        complete = self.optuna.get_trials(deepcopy=False, states=(State.COMPLETE,))
        if len(complete) < _RANDOM_TRIALS or len({trial.value for trial in complete}) < 2:
            return {}
        return optuna.importance.get_param_importances(self.optuna)

    def record(self, number: int) -> Trial:
        """Returns what is known of a trial, by Optuna's number."""
        trial = self.optuna.get_trials(deepcopy=False)[number]
        states = {State.COMPLETE: "complete", State.PRUNED: "pruned"}
        reason = trial.user_attrs.get("reason", "")
        return Trial(
            name=_name(trial),
            state="failed" if reason else states.get(trial.state, "cut"),
            value=None if reason else trial.value,
            settings=self.settings(trial) if self.space.keys() <= trial.params.keys() else {},
            reason=reason,
            validations=dict(sorted(trial.intermediate_values.items())),
            seconds=trial.user_attrs.get("seconds"),
        )

    def _asked(self) -> list[optuna.trial.FrozenTrial]:
        trials = self.optuna.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state != State.WAITING]

    def _new(self) -> optuna.Trial | None:
        """Returns a trial of new settings; those that were tried already have the outcome that they had."""
        while len(self._asked()) < self.trials:
            trial = self._ask()
            settings = self.settings(trial)
            ended = (one for one in self.outcomes() if one.state != "cut")
            known = next((one for one in ended if one.settings == settings), None)
            if known is None:
                return trial
            for number, value in known.validations.items():
                trial.report(value, number)
            trial.set_user_attr("seconds", 0.0)
            if known.state == "complete":
                self.optuna.tell(trial, known.value)
            elif known.state == "failed":
                self._fail(trial, known.reason)
            else:
                self.optuna.tell(trial, state=State.PRUNED)
            print(f"trial {_name(trial)}: the settings of trial {known.name}, not run again", flush=True)
        return None

    def _leads(self, value: float) -> bool:
        """Returns whether a figure is better than that of each complete trial."""
        sign = 1 if less_is_better(self.metric) else -1
        complete = self.optuna.get_trials(deepcopy=False, states=(State.COMPLETE,))
        return all(sign * value < sign * (trial.value or 0.0) for trial in complete)

    def _ask(self) -> optuna.Trial:
        self.optuna.sampler = self._sampler(len(self._asked()))
        return self.optuna.ask(_distributions(self.space))

    def _again(self, number: int) -> optuna.Trial:
        """Returns a trial of the journal that was cut, with the values that may not have been proposed yet."""
        self.optuna.sampler = self._sampler(number)
        study = self._storage.get_study_id_from_name(self.optuna.study_name)
        trial = optuna.Trial(
            self.optuna, self._storage.get_trial_id_from_study_id_trial_number(study, number)
        )
        for name, distribution in _distributions(self.space).items():
            _suggest(trial, name, distribution)
        return trial

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)

    def _complete(self, run: TrainingRun, trial: optuna.Trial) -> None:
        """Records the final figure of a run that has ended by itself, or that it has none."""
        results = run.results()
        figures = results.get("validation") or {}
        name = self.metric.removeprefix(VALIDATION)
        if name not in figures:
            known = ", ".join(VALIDATION + each for each in figures) or "none: it has no validation data"
            self._fail(trial, f"--metric {self.metric} is no figure of the run; it has {known}")
            raise InputError(f"--metric {self.metric} is no figure of {run.directory}; it has {known}")
        value = figures[name]
        if isinstance(results.get("seconds"), int | float):  # of all sessions, if the run was cut
            trial.set_user_attr("seconds", round(results["seconds"], 1))
        if isinstance(value, int | float):
            self.optuna.tell(trial, float(value))
        else:
            self._fail(trial, f"{self.metric} is not finite")

    def _fail(self, trial: optuna.Trial, reason: str) -> None:
        """Records that a trial has failed, for Optuna as one that is worse than all complete ones.

        Samplers do not look at what Optuna itself calls failed, so that TPE would propose a learning rate that diverges
        again and again.
        """
        trial.set_user_attr("reason", reason)
        self.optuna.tell(trial, state=State.PRUNED)


def _name(trial: Any) -> str:
    return f"{trial.number + 1:03d}"


def _never() -> optuna.pruners.BasePruner:
    return optuna.pruners.NopPruner()


def _distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for name, values in space.items():
        if not isinstance(values, Interval):
            found[name] = optuna.distributions.CategoricalDistribution(values.values)
        elif isinstance(values.low, int):
            high = int(values.high)
            found[name] = optuna.distributions.IntDistribution(values.low, high, log=values.logarithmic)
        else:
            found[name] = optuna.distributions.FloatDistribution(
                values.low, values.high, log=values.logarithmic
            )
    return found


def _suggest(trial: optuna.Trial, name: str, distribution: Any) -> None:
    """Lets a trial propose a value, or keep the one that it has."""
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
        return
    suggest = (
        trial.suggest_int
        if isinstance(distribution, optuna.distributions.IntDistribution)
        else trial.suggest_float
    )
    suggest(name, distribution.low, distribution.high, log=distribution.log)


def _open_journal(path: Path) -> JournalStorage:
    """Returns the storage of a journal, after removing what a killed process may have left of a line or a lock.

    Raises:
        InputError: the journal cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("rb+") as file:
                file.truncate(whole)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as the journal of a search: {error}") from error
