"""Measures what a training step takes around its arithmetic, with a model that has next to none.

The time of a step is the mean over a hundred of them, so that work that runs ahead counts once.
"""

from __future__ import annotations

import cProfile
import itertools
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from works import Case

LOG_INTERVAL = 100
LARGEST = 10
WARM_UP = 20


def measure(case: Case, steps: int) -> dict[str, Any]:
    """Returns the figures of one case, with the functions that took most of a step.

    Args:
        case: a case of `kerasllm` (plain `fit`), `kerasllm_callbacks` (a recipe's callbacks too), `torch_loop` or
            `torch_loop_compiled`.
        steps: measured steps after the warm-up; half as many are made again for the profile.
    """
    steps = max(steps, LARGEST)
    run, versions = (torch_loop if case.peer.startswith("torch_loop") else keras_fit)(case)
    began = time.perf_counter()
    times = run(WARM_UP + steps)
    every = min(LOG_INTERVAL, steps)
    marks = times[WARM_UP::every]
    seconds = [(after - before) / every for before, after in itertools.pairwise(marks)]
    profile = cProfile.Profile()
    profiled = run(WARM_UP + max(steps // 2, LARGEST), profile)
    return {
        "first_seconds": times[1] - began,
        "step_seconds": statistics.median(seconds),
        "tokens": float(case.shape["batch_size"] * case.shape["length"]),
        "largest": largest(profile, len(profiled)),
        "versions": versions,
    }


def largest(profile: cProfile.Profile, steps: int) -> list[tuple[str, float]]:
    """Returns the functions with most time of their own, and their milliseconds a step, profiler included."""
    found: list[tuple[str, float]] = []
    for (file, line, function), (_, _, own, *_) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        place = function if file == "~" else f"{'/'.join(Path(file).parts[-3:])}:{line} {function}"
        found.append((place, 1e3 * own / steps))
    return sorted(found, key=lambda part: -part[1])[:LARGEST]


def torch_loop(case: Case) -> tuple[Callable[..., Sequence[float]], dict[str, str]]:
    """Returns a function that trains in a plain loop, and the versions; nothing of kerasllm is loaded."""
    from torch_case import torch, training

    step = training(case)

    def run(count: int, profile: cProfile.Profile | None = None) -> list[float]:
        times = []
        for number in range(count + 1):
            if profile and number == WARM_UP:
                profile.enable()
            times.append(time.perf_counter())
            step().item()
        if profile:
            profile.disable()
        return times

    return run, {"torch": torch.__version__}


def keras_fit(case: Case) -> tuple[Callable[..., Sequence[float]], dict[str, str]]:
    """Returns a function that trains by `fit` or `fit_run`, and the versions."""
    import keras_case
    from keras_case import backend, keras

    from kerasllm.training.fit import fit_run
    from kerasllm.training.hardware.compilation import FROM_STEPS, choose_compilation
    from kerasllm.training.optimization.optimizers import adamw
    from kerasllm.training.optimization.schedules import CosineWarmupDecay
    from kerasllm.training.run.directory import RunDirectory

    class Clock(keras.callbacks.Callback):
        """Notes when steps end, and has the profile of those after the warm-up; it is not called in another thread."""

        def __init__(self, count: int, profile: cProfile.Profile | None) -> None:
            super().__init__()
            self.times: list[float] = []
            self.count, self.profile = count, profile

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.note(batch)

        def note(self, done: int) -> None:
            if done < len(self.times):
                return
            self.times.append(time.perf_counter())
            if self.profile and done == WARM_UP:
                self.profile.enable()
            if self.profile and done == self.count:  # what ends a run is no part of a step
                self.profile.disable()

    keras_case.prepare(case)
    shape = case.shape
    model = keras_case.GPTCausalLM(keras_case.GPTConfig(**keras_case.sizes_of(case, shape["length"])), seed=0)
    keras_case.CausalLanguageModeling().compile(
        model,
        adamw(CosineWarmupDecay(1e-4, steps=100_000, warmup=100)),
        jit_compile=choose_compilation(None, FROM_STEPS),
    )
    tokens = shape["batch_size"] * shape["length"]

    def run(count: int, profile: cProfile.Profile | None = None) -> list[float]:
        clock = Clock(count, profile)
        batches = keras_case.windows(case, count + 1)

        def tokens_of(step: int) -> int:  # which the callbacks ask for after each step
            clock.note(step)
            return tokens

        if case.peer == "kerasllm":
            model.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=[clock])
            return clock.times
        clock.note(0)
        with tempfile.TemporaryDirectory() as place, RunDirectory.create(place, case.shape) as directory:
            fit_run(
                model,
                lambda start_step: batches,
                directory,
                first=batches,
                steps=count + 1,
                tokens_per_step=tokens_of,
                evaluate=lambda model: {"loss": 0.0},
                log_interval=LOG_INTERVAL,
                checkpoint_minutes=10.0,
            )
        return clock.times

    return run, {"keras": keras.__version__, keras.backend.backend(): str(backend.version())}
