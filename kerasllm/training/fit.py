"""Calls `model.fit` with everything that a run needs: log, progress, validation, checkpoints and resume.

All steps of a run are one call of `fit` over one long data set. Validation and checkpoints are callbacks, so they
may come at any step, and a resumed run makes the same call over the remaining batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from kerasllm import backend, processes
from kerasllm.data.batches.share import Share
from kerasllm.errors import InputError
from kerasllm.training.callbacks.averaging import WeightAverage
from kerasllm.training.callbacks.checkpoint import Checkpoint, restore
from kerasllm.training.callbacks.evaluation import Evaluation
from kerasllm.training.callbacks.metrics_log import MetricsLog
from kerasllm.training.callbacks.number_guard import WENT_WRONG, GuardOptions, NumberGuard
from kerasllm.training.callbacks.progress import Progress
from kerasllm.training.hardware.throughput import Utilization
from kerasllm.training.run import together
from kerasllm.training.run.directory import RunDirectory
from kerasllm.training.state.bad_batch import batch_hash, replay_bad_batch, save_bad_batch


@dataclass(frozen=True)
class FitResult:
    """The outcome of `fit_run`.

    Args:
        seconds: training time, over all sessions of the run.
        figures: figures of the last validation; empty without one.
        best_step: step of the best validation; 0 without one.
        interrupted: None, or the exit code of a run that was told to stop or whose numbers went wrong; 0 after
            a replay.
        last_step: the last optimizer step that was made.
    """

    seconds: float
    figures: dict[str, float]
    best_step: int
    interrupted: int | None
    last_step: int


def fit_run(
    model: keras.Model,
    make_batches: Callable[..., keras.utils.PyDataset],
    run: RunDirectory,
    *,
    steps: int,
    tokens_per_step: float | Callable[[int], float],
    first: keras.utils.PyDataset | None = None,
    gradient_accumulation: int = 1,
    evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    sample: Callable[[Any, int], str | None] | None = None,
    on_validation: Callable[[int, Mapping[str, float]], None] | None = None,
    eval_interval: int | None = None,
    restore_best: bool = False,
    patience: int | None = None,
    monitor: str = "loss",
    log_interval: int | None = None,
    checkpoint_steps: int | None = None,
    checkpoint_minutes: float | None = None,
    keep: int = 2,
    resume: bool = False,
    guard: GuardOptions | None = None,
    average: int = 1,
) -> FitResult:
    """Trains a compiled model up to step `steps`, in the run directory `run`.

    Args:
        model: a compiled model with `per_step_metrics` set.
        make_batches: function of `start_step`, the number of steps done, that returns the remaining batches.
        run: the directory of the log, the checkpoints and the curves.
        steps: the last optimizer step, counted from 1.
        tokens_per_step: tokens that a step trains on, without padding, or a function from the step to them.
        first: the batches from the first step on, if they have been made already.
        gradient_accumulation: batches per optimizer step.
        evaluate: function from the model to the validation figures; None for no validation.
        sample: function of the model and the step, called at each validation or, without any, when one is due.
        on_validation: function called with the step and the validation figures, when they are in the log and the best
            step is marked; see `Evaluation`.
        eval_interval: steps between validations; None for one at the end only.
        restore_best: whether to end with the weights of the best validation.
        patience: validations without improvement after which training stops; None for never.
        monitor: the validation figure that decides which is best.
        log_interval: steps between lines of metrics.jsonl; None to choose by the length of the run.
        checkpoint_steps: steps between checkpoints.
        checkpoint_minutes: minutes between checkpoints.
        keep: number of newest checkpoints to keep.
        resume: whether to continue from the newest intact checkpoint, if there is one.
        guard: what to do about a loss or gradient that is not finite; None to stop the run.
        average: number of last steps over whose weights the mean is taken at the end, see `averaging_interval`; 1
            for the last weights.

    Raises:
        InputError: the resumed run was started with other data, its checkpoint is of another model, or there is no
            batch to replay.
    """
    guard = guard or GuardOptions()
    if guard.replay:
        if processes.place()[1] > 1:
            raise InputError("--guard.replay runs the whole batch: start one process")
        print(replay_bad_batch(run.bad_batch, model))
        return FitResult(0.0, {}, 0, interrupted=0, last_step=0)
    backend.divide(model)
    restored = restore(model, run.checkpoints) if resume else None
    start = restored.step if restored else 0
    together.check_equal("the newest intact checkpoint", str(start))
    if resume:
        print(
            f"resuming from step {start}" if restored else "no checkpoint yet: starting from step 0",
            flush=True,
        )
    common: dict[str, Any] = {"gradient_accumulation": gradient_accumulation, "start_step": start}
    first = make_batches(start_step=0) if first is None else first
    run.record(first_batch_sha256=batch_hash(first[0]))
    batches = None if start >= steps else make_batches(start_step=start) if start else first
    log = progress = None
    if processes.is_first():
        log = MetricsLog(
            run.path, total_steps=steps, log_interval=log_interval, tokens_per_step=tokens_per_step, **common
        )
        progress = Progress(
            steps,
            tokens_per_step=tokens_per_step,
            utilization=None if batches is None else Utilization.of(model, batches[0][0]).share,
            compiles=keras.backend.backend() != "torch" or bool(model.jit_compile),
            **common,
        )
        log.on_exclude, progress.pause = progress.exclude, log.exclude
    share = own_share(gradient_accumulation)
    if batches is not None and hasattr(batches, "set_share"):
        batches.set_share(share)
    elif batches is not None and share.parts > 1:
        raise InputError(
            "several processes need batches of kerasllm.data, which know the rows of each process"
        )
    callbacks: list[keras.callbacks.Callback] = [some for some in (log, progress) if some is not None]
    evaluation = None
    if evaluate is not None or sample is not None:
        evaluation = Evaluation(
            evaluate=evaluate or (lambda model: {}),
            sample=sample,
            interval=eval_interval,
            total_steps=steps,
            restore_best=restore_best,
            patience=patience,
            monitor=monitor,
            metrics_log=log,
            progress=progress,
            **common,
        )
        callbacks.append(evaluation)
    numbers = NumberGuard(
        guard,
        metrics_log=log,
        save_batch=lambda batch, step, figures: save_bad_batch(
            run.bad_batch,
            numbers.model,  # on JAX, reading it copies the training state into the variables
            _undivided(batches, batch),
            step,
            figures,
        ),
        **common,
    )
    callbacks.append(numbers)
    average_weights = None
    if average > 1:
        # It is recorded, as a resumed run may have other checkpoints.
        interval = run.resolved.get("average_interval") or averaging_interval(
            average, steps, checkpoint_steps
        )
        run.record(average_interval=interval)
        average_weights = WeightAverage(average, interval=interval, total_steps=steps, **common)
        callbacks.append(average_weights)
    checkpoint = Checkpoint(
        run.checkpoints,
        steps=checkpoint_steps,
        minutes=checkpoint_minutes,
        keep=keep,
        total_steps=steps,
        callbacks=[some for some in (log, evaluation, numbers, average_weights) if some is not None],
        gradient_accumulation=gradient_accumulation,
        restored=restored,
    )
    callbacks.append(checkpoint)
    numbers.checkpoint = checkpoint
    try:
        if evaluation:
            evaluation.set_model(model)
            evaluation.on_validation = on_validation
            evaluation.on_better = checkpoint.mark_restored_best
            evaluation.make_up()
            evaluation.on_better = checkpoint.mark_best
        if batches is not None and not (evaluation and evaluation.stopped):
            if progress is not None:
                progress.start()
            model.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)
        else:  # all steps were made before, but the results were not written
            model.optimizer.finalize_variable_values(model.trainable_variables)
            for callback in (log, evaluation, average_weights):
                if callback is not None:
                    callback.set_model(model)
                    callback.on_train_end()
            checkpoint.prune()
    finally:
        for some in (log, progress, checkpoint):
            if some is not None:
                some.close()
    return FitResult(
        seconds=checkpoint.seconds,
        figures=dict(evaluation.figures) if evaluation else {},
        best_step=evaluation.best_step if evaluation else 0,
        interrupted=WENT_WRONG if numbers.stopped else checkpoint.interrupted,
        last_step=checkpoint.step,
    )


def _undivided(batches: Any, number: int) -> Any:
    """Returns a batch with the rows of all processes."""
    return batches.undivided(number) if hasattr(batches, "undivided") else batches[number]


def own_share(gradient_accumulation: int) -> Share:
    """Returns which rows of each batch this process delivers; all where no other process and no mesh takes part."""
    part, parts, multiple = backend.share()
    # With accumulation the weights are divided by their sum over the whole step already.
    normalize = backend.sums_gradients and parts > 1 and gradient_accumulation == 1
    return Share(part, parts, multiple, normalize)


def averaging_interval(count: int, steps: int, checkpoint_steps: int | None) -> int:
    """Returns the steps between those whose weights are averaged: as between checkpoints, else a hundredth of all.

    Args:
        count: number of the averaged steps.
        steps: the last step.
        checkpoint_steps: steps between checkpoints, if they were chosen.

    Raises:
        InputError: the first of the averaged steps would be before the first step.
    """
    interval = checkpoint_steps or max(steps // 100, 1)
    if (count - 1) * interval >= steps:
        raise InputError(
            f"--average {count}: checkpoints {interval} steps apart do not fit into {steps} steps; "
            f"average at most {(steps - 1) // interval + 1}, or set --checkpoint_steps"
        )
    return interval
