"""Measures what a training step takes around its arithmetic, with a model that has next to none.

The time of a step is that from one request of a batch to the next, as the mean over a hundred steps, so that nothing
has to be called in between and work that runs ahead counts once.
"""

from __future__ import annotations

import cProfile
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
    seconds = [(after - before) / every for before, after in zip(marks, marks[1:], strict=False)]
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
            step()
        if profile:
            profile.disable()
        return times

    return run, {"torch": torch.__version__}


def keras_fit(case: Case) -> tuple[Callable[..., Sequence[float]], dict[str, str]]:
    """Returns a function that trains by `fit` or `fit_run`, and the versions."""
    import keras_case
    from keras_case import backend, keras

    from kerasllm.data.batches.causal_lm import CausalBatches
    from kerasllm.training.fit import fit_run
    from kerasllm.training.hardware.compilation import FROM_STEPS, choose_compilation
    from kerasllm.training.optimization.optimizers import adamw
    from kerasllm.training.optimization.schedules import CosineWarmupDecay
    from kerasllm.training.run.directory import RunDirectory

    class TimedWindows(CausalBatches):
        """Windows that note when they are requested, and start the profile after the warm-up."""

        def __init__(self, *given: Any, profile: cProfile.Profile | None = None, **settings: Any) -> None:
            super().__init__(*given, **settings)
            self.times: list[float] = []
            self.profile = profile

        def __getitem__(self, index: int) -> Any:
            if index == len(self.times):  # `fit` looks at the first ones twice
                self.times.append(time.perf_counter())
            if self.profile and index == WARM_UP:
                self.profile.enable()
            if self.profile and index == len(self) - 1:  # what ends a run is no part of a step
                self.profile.disable()
            return super().__getitem__(index)

    shape = case.shape
    model = keras_case.GPTCausalLM(keras_case.GPTConfig(**keras_case.sizes_of(case, shape["length"])), seed=0)
    keras_case.CausalLanguageModeling().compile(
        model,
        adamw(CosineWarmupDecay(1e-4, steps=100_000, warmup=100)),
        jit_compile=choose_compilation(None, FROM_STEPS),
    )
    stream = keras_case.windows(case, 1).stream

    def run(count: int, profile: cProfile.Profile | None = None) -> list[float]:
        batches = TimedWindows(
            stream,
            context_length=shape["length"],
            batch_size=shape["batch_size"],
            steps=count + 1,
            seed=0,
            profile=profile,
        )
        if case.peer == "kerasllm_callbacks":
            with tempfile.TemporaryDirectory() as place, RunDirectory.create(place, case.shape) as directory:
                fit_run(
                    model,
                    lambda start_step: batches,
                    directory,
                    first=batches,
                    steps=count + 1,
                    tokens_per_step=shape["batch_size"] * shape["length"],
                    evaluate=lambda model: {"loss": 0.0},
                    log_interval=LOG_INTERVAL,
                    checkpoint_minutes=10.0,
                )
        else:
            model.fit(batches, epochs=1, shuffle=False, verbose=0)
        return batches.times

    return run, {"keras": keras.__version__, keras.backend.backend(): str(backend.version())}
