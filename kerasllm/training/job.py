"""The driver that all training recipes share: precision, model, compilation, training, saving, results.

A recipe reads its data and describes the rest as a `Job`; everything after that is the same for every task.
"""

from __future__ import annotations

import dataclasses
import math
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from kerasllm import backend, processes
from kerasllm.checkpoints import write_model
from kerasllm.checkpoints.adapters import has_peft_form
from kerasllm.cli.commands import command
from kerasllm.errors import InputError, counted
from kerasllm.files.atomic import write_atomically
from kerasllm.files.json import to_json
from kerasllm.models.devices import check_rows, check_weights, distribute, mesh_sizes, read_layout
from kerasllm.tasks import Task, numbers
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.training.auto_batch import AutoBatch, asked_option, take_recorded
from kerasllm.training.callbacks.interruption import Interruptible
from kerasllm.training.callbacks.progress import in_words
from kerasllm.training.callbacks.samples import SampleLog
from kerasllm.training.fit import FitResult, averaging_interval, fit_run
from kerasllm.training.hardware.compilation import choose_compilation
from kerasllm.training.hardware.precision import choose_precision
from kerasllm.training.hardware.throughput import flops_per_token
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import LinearWarmupDecay, warmup_steps
from kerasllm.training.options import JobOptions
from kerasllm.training.run.directory import RunDirectory
from kerasllm.training.run.listener import listener
from kerasllm.training.run.settings import nothing_to_resume

_NO_JUDGE = "nothing will judge this run, as it has no validation and no test data; see"


@dataclass(kw_only=True)
class Job:
    """A training run as its recipe describes it.

    Args:
        task: the task, which has the loss, the metrics and the figures.
        make_model: function that returns the initial model, not compiled, under the current dtype policy.
        batches: the training batches from the first step on.
        make_batches: function of `start_step`, the number of optimizer steps done, that returns the remaining batches.
        tokens_per_step: tokens that a step trains on, without padding, or a function from the step to them; None for
            those that the batches tell.
        tokenizer: the tokenizer to save beside the model.
        chat_template: the chat template to save with the tokenizer; by default the one that it was loaded with.
        held_out: batches by part, "validation" and "test"; None for a part that this run lacks.
        final_figures: a function of the model and the name of a held-out part that returns further figures for
            results.json, which take too long for each validation; None for none.
        eval_interval: steps between validations if the settings name none; an epoch if None.
        monitor: the validation figure that decides which weights are best.
        schedule: function from peak, steps, warm-up and gradient accumulation to a learning-rate schedule.
        epsilon: AdamW's epsilon.
        sample_prompt: token ids that samples begin with; the model writes a sample at each validation.
        sample_tokens: tokens per sample; 0 for no samples.
        recorded: facts about the data for config.yaml and, if `results` names them, for results.json.
        results: names in `recorded` that results.json holds, too.
        example: arguments of the task's recipe that show how the model is used; None for the task's own.
    """

    task: Task
    make_model: Callable[[], keras.Model]
    batches: Any
    make_batches: Callable[..., Any]
    tokenizer: Any
    chat_template: str | None = None
    tokens_per_step: float | Callable[[int], float] | None = None
    held_out: Mapping[str, Any] = field(default_factory=dict)
    final_figures: Callable[[keras.Model, str], dict[str, Any]] | None = None
    eval_interval: int | None = None
    monitor: str = "loss"
    schedule: Callable[..., Any] = LinearWarmupDecay
    epsilon: float = 1e-6
    sample_prompt: list[int] = field(default_factory=list)
    sample_tokens: int = 0
    recorded: Mapping[str, Any] = field(default_factory=dict)
    results: tuple[str, ...] = ()
    example: tuple[str, ...] | None = None

    @property
    def tokens_of(self) -> float | Callable[[int], float]:
        """The tokens of a step, or a function from the step, counted from 1, to them."""
        if self.tokens_per_step is not None:
            return self.tokens_per_step
        return lambda step: self.batches.real_tokens(step - 1)


def is_finished(config: JobOptions) -> bool:
    """Returns whether the run is finished and, if so, prints that; recipes call it first, before the slow parts.

    Args:
        config: the recipe's settings.

    Raises:
        InputError: the run directory cannot be written to, or holds a run that these settings do not continue.
    """
    config.check_final_weights()
    if config.deterministic:
        if config.precision == "auto":
            raise InputError(
                "--precision auto goes by the time that steps take, which --deterministic cannot repeat: give float32 "
                "or mixed_bfloat16"
            )
        backend.make_deterministic()
    take_recorded(config)
    check_mesh(config)
    _check_averaging(config, getattr(config, "steps", None))
    finished = RunDirectory.check(config.output, config, resume=config.resume, may_grow=config.may_grow)
    if finished:
        print(nothing_to_resume(config.output, config))
    return finished


def check_mesh(config: JobOptions) -> dict[str, int]:
    """Connects the processes of the run, and returns the number of devices of each axis of their mesh.

    Raises:
        InputError: the devices do not fit the options, or cannot divide the batches, or the layout is wrong.
    """
    backend.join()
    mesh = mesh_sizes(dataclasses.asdict(config.mesh), backend.device_count())
    check_weights(mesh)
    asked = asked_option(config)
    if asked is None:
        check_rows(getattr(config, "batch_size", 0), mesh)
    if config.layout:
        read_layout(config.layout)
    if processes.place()[1] > 1 and config.precision == "auto":
        raise InputError("--precision auto measures one process: of several, give float32 or mixed_bfloat16")
    if processes.place()[1] > 1 and asked is not None:
        raise InputError(f"--{asked} auto measures one process: of several, give a number")
    return mesh


def train(config: JobOptions, make_job: Callable[[], Job]) -> int:
    """Trains, saves and evaluates; returns the exit code.

    Args:
        config: the recipe's settings, already checked.
        make_job: function that returns the run as the recipe describes it, by the batch size that `config` has when it
            is called: `--batch_size auto` is replaced by the sizes that are tried, and then by the one that is chosen.
    """
    given = dataclasses.replace(config)  # what is recorded, "auto" too until there is a number
    mesh = check_mesh(config)
    distribute(**mesh, layout=config.layout)
    batch = AutoBatch.of(config, mesh)
    job = make_job()
    _check_averaging(config, job.batches.steps)
    with RunDirectory.create(config.output, given, resume=config.resume, may_grow=config.may_grow) as run:
        asked = run.resolved.get("precision", config.precision)
        if batch is not None and asked == "auto":
            job = batch.of_usual_size(make_job)
        precision = choose_precision(asked, _compiled(config, job), job.batches[0])
        if batch is not None:
            job = batch.of_largest_size(make_job, lambda job: _compiled(config, job, measured=True), run)
        make_model = _compiled(config, job)
        model = make_model()
        sizes = _sizes(model)
        if math.prod(mesh.values()) > 1:
            print("devices: " + ", ".join(f"{name} {size}" for name, size in mesh.items()), flush=True)
        run.record(precision=precision, model=dataclasses.asdict(model.config), **sizes, **job.recorded)
        print(_model_line(sizes, job.batches), flush=True)
        if all(part is None for part in job.held_out.values()):
            print(_NO_JUDGE, config.validation_options, flush=True)  # type: ignore[attr-defined]
        result = _fit(config, job, model, run)
        if result.interrupted is not None:
            return result.interrupted
        with model.gathered():
            if processes.is_first():
                _write_model(config, job, model, run)
        figures: dict[str, Any] = {}
        for name, held_out in job.held_out.items():
            if name == "test" and not config.judge_test:
                continue
            figures[name] = _figures(job, model, name)
            if held_out and processes.is_first():
                prefix = "" if name == "validation" else f"{name}_"
                for file, content in job.task.kept_predictions().items():
                    write_atomically(run.path / f"{prefix}{file}.json", to_json(content, indent=4) + "\n")
        run.write_results(
            figures
            | {"task": job.task.name, "steps": result.last_step, "best_step": result.best_step}
            | {"precision": precision, "peak_memory_mib": _peak_memory(), **sizes}
            | {name: job.recorded[name] for name in job.results},
            seconds=result.seconds,
        )
        for name, values in figures.items():
            if values is not None:
                print(f"{name}: {in_words(values)}")
        print(f"written to {run.path} (peak memory {_peak_memory():,} MiB)")
        example = job.task.example if job.example is None else job.example
        print(f"to use it: {command(job.task.recipe, ['--model', str(run.path), *example])}", flush=True)
    return 0


def _check_averaging(config: JobOptions, steps: int | None) -> None:
    """Refuses weights to be averaged that a new run of so many steps cannot have; a resumed one has recorded which."""
    if config.average > 1 and steps is not None and not config.resume:
        averaging_interval(config.average, steps, config.checkpoint_steps)


def _write_model(config: JobOptions, job: Job, model: keras.Model, run: RunDirectory) -> None:
    """Writes the trained model with its tokenizer."""
    write_model(model, run.model)
    _write_adapter(config, model, run)
    length = model.config.max_sequence_length
    save_tokenizer(job.tokenizer, run.model, max_length=length, chat_template=job.chat_template)


def _write_adapter(config: JobOptions, model: keras.Model, run: RunDirectory) -> None:
    """Writes low-rank adapters by themselves, too, beside the model into which they are merged."""
    base = getattr(config, "init", None)
    if base and getattr(config, "lora_rank", 0) and has_peft_form(model):
        model.save_adapter(run.path / "adapter", str(Path(base).resolve()) if Path(base).exists() else base)


def _figures(job: Job, model: keras.Model, name: str) -> dict[str, Any] | None:
    """Returns the figures of the trained model on a held-out part; None if the run lacks it."""
    held_out = job.held_out[name]
    if not held_out:
        return None
    further = job.final_figures(model, name) if job.final_figures else {}
    return job.task.evaluate(model, held_out) | further


def _compiled(config: JobOptions, job: Job, *, measured: bool = False) -> Callable[[], keras.Model]:
    """Returns a function that makes the job's model and compiles it, with its optimizer and schedule.

    Args:
        config: the recipe's settings.
        job: the run as the recipe describes it.
        measured: whether a step of it is measured only, which is not worth PyTorch's long compilation.
    """
    steps, count = job.batches.steps, job.tokens_of
    tokens = sum(map(count, range(1, steps + 1))) if callable(count) else count * steps
    accumulation = config.gradient_accumulation
    adds_up = backend.sums_gradients and backend.share()[1] > 1
    are_normalized = accumulation > 1 or adds_up
    schedule = job.schedule(
        config.learning_rate,
        steps=steps,
        warmup=warmup_steps(config.warmup, steps),
        gradient_accumulation=accumulation,
    )

    def make() -> keras.Model:
        model = job.make_model()
        optimizer = adamw(
            schedule,
            weight_decay=config.weight_decay,
            beta_2=config.beta_2,
            epsilon=job.epsilon,
            clip_norm=config.clip_norm or None,
            gradient_accumulation=accumulation,
            ema=config.ema,
        )
        if config.recompute:
            backbone = getattr(model, "backbone", model)
            if not (hasattr(backbone, "blocks") or hasattr(backbone, "encoder_blocks")):
                raise InputError(f"--recompute: {type(model).__name__} has no blocks; leave it out")
            backbone.recompute = True
        parts, processes = getattr(model, "training_parts", 1), backend.share()[1]
        if adds_up and parts > 1 and parts % processes:
            raise InputError(
                f"--mini_batch_size: a batch has {parts} parts, which {processes} processes cannot share evenly"
            )
        flops = tokens * flops_per_token(model, job.batches[0][0])
        compilation = choose_compilation(config.jit_compile, steps, flops, job.batches.shapes)
        if measured and config.jit_compile is None:
            compilation = backend.jit_compile
        job.task.compile(model, optimizer, normalized_weights=are_normalized, jit_compile=compilation)
        return model

    return make


def _fit(config: JobOptions, job: Job, model: keras.Model, run: RunDirectory) -> FitResult:
    """Trains the model, with the job's validation and samples."""
    validation = job.held_out.get("validation")
    evaluate = sample = None
    if validation:

        def evaluate(model: keras.Model) -> dict[str, float]:
            return numbers(job.task.evaluate(model, Interruptible(validation)))

    if job.sample_tokens:
        sample = SampleLog(run.path / "samples.jsonl", job.tokenizer, job.sample_prompt, job.sample_tokens)
    interval = config.eval_interval or job.eval_interval or job.batches.steps_per_epoch
    return fit_run(
        model,
        job.make_batches,
        run,
        first=job.batches,
        steps=job.batches.steps,
        tokens_per_step=job.tokens_of,
        gradient_accumulation=config.gradient_accumulation,
        evaluate=evaluate,
        sample=sample,
        on_validation=listener(interval),
        eval_interval=interval,
        restore_best=config.restore_best,
        patience=config.patience,
        average=config.average,
        monitor=job.monitor,
        **config.for_fit,
    )


def _sizes(model: keras.Model) -> dict[str, int]:
    """Returns the number of weights, and of those that are trained."""
    trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return {"parameters": model.count_params(), "trainable_parameters": trained}


def _model_line(sizes: Mapping[str, int], batches: Any) -> str:
    """Returns the line that is printed about a model before it is trained."""
    parameters = f"{sizes['parameters']:,} parameters"
    line = parameters
    if sizes["trainable_parameters"] < sizes["parameters"]:
        share = 100 * sizes["trainable_parameters"] / sizes["parameters"]
        line = f"{sizes['trainable_parameters']:,} of {parameters} are trained ({share:.2f} %)"
    an_epoch = getattr(batches, "steps_per_epoch", None)
    return line if an_epoch is None else f"{line}; {counted(an_epoch, 'step')} an epoch"


def _peak_memory() -> int:
    """Returns the peak memory of this process, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
