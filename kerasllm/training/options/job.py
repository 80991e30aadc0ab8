"""Settings of the optimization, the validation and the run, which all training recipes have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from kerasllm.cli.ranges import above, at_least, within
from kerasllm.cli.settings import continues, in_group
from kerasllm.errors import InputError
from kerasllm.training.callbacks.number_guard import GuardOptions
from kerasllm.training.run.settings import MAY_GROW

BatchSize: Any = int | Literal["auto"]


@dataclass(kw_only=True)
class BatchOptions:
    """The size of batches with a fixed number of rows."""

    group: ClassVar[str] = "optimization"

    batch_size: BatchSize = field(default=32, metadata=at_least(1))
    """Rows of a batch; a step sees batch_size * gradient_accumulation. auto measures and records the most that fit."""


@dataclass(kw_only=True)
class OptimizerOptions:
    """Settings of AdamW and its schedule."""

    group: ClassVar[str] = "optimization"

    gradient_accumulation: int = field(default=1, metadata=at_least(1))
    """Batches whose gradients are averaged for one optimizer step."""

    learning_rate: float = field(default=1e-4, metadata=above(0))
    """Peak learning rate."""

    warmup: float = field(default=0.1, metadata=at_least(0))
    """Steps of linear warm-up; below 1, a share of all steps."""

    weight_decay: float = field(default=0.01, metadata=at_least(0))
    """Decoupled weight decay, on matrices only."""

    beta_2: float = field(default=0.999, metadata=within(0, 1))
    """Decay of AdamW's second moment."""

    clip_norm: float = field(default=1.0, metadata=at_least(0))
    """Largest global norm of the gradient; 0 for no clipping."""

    average: int = field(default=1, metadata=at_least(1))
    """End with the mean of the weights at the last so many checkpoints; without --checkpoint_steps, 1 % apart."""

    ema: float = field(default=0.0, metadata=within(0, 1))
    """Decay of an exponential moving average of the weights, with which the run ends; 0 for none."""


@dataclass(kw_only=True)
class ValidationOptions:
    """Settings for when a run is validated, and what follows from it."""

    group: ClassVar[str] = "validation"

    eval_interval: int | None = field(default=None, metadata=at_least(1))
    """Steps between validations; if null, a tenth of all steps in pretraining and an epoch in fine-tuning."""

    restore_best: bool = False
    """End with the weights of the best validation."""

    patience: int | None = field(default=None, metadata=at_least(1))
    """Validations without improvement after which training stops; null for never."""

    judge_test: bool = True
    """Evaluate the test data, if there are any, at the end; false while settings are still being chosen."""

    def check_validation(self) -> None:
        """Refuses settings that need validation data if there is none.

        The recipe's options for its data say whether there is some (`has_validation`) and which options give it
        (`validation_options`).

        Raises:
            InputError: `--patience`, `--restore_best` or `--monitor` is given without validation.
        """
        given = [name for name in ("patience", "restore_best") if getattr(self, name)]
        if getattr(self, "monitor", "loss") != "loss":
            given.append(f"monitor {self.monitor}")  # type: ignore[attr-defined]
        if given and not self.has_validation:  # type: ignore[attr-defined]
            raise InputError(f"--{given[0]} needs {self.validation_options}")  # type: ignore[attr-defined]


@dataclass(frozen=True)
class MeshOptions:
    """Settings for how several devices share the work; `--batch_size` is that of all together."""

    group: ClassVar[str] = "devices"

    replica: int = 1
    """Devices with all weights each, among which a batch is divided."""

    fsdp: int = -1
    """Devices among which batches and weights are divided; -1 for the devices that are left."""

    tensor: int = 1
    """Devices that compute each matrix product together."""


@dataclass(kw_only=True)
class RunOptions:
    """Settings of the run directory, the machine, and everything else around the training."""

    group: ClassVar[str] = "run"

    output: str
    """Directory of the run: settings, log, checkpoints, model, results."""

    precision: Literal["float32", "tf32", "mixed_bfloat16", "auto"] = "float32"
    """Precision of training; tf32 lets a GPU round factors of float32 products, auto takes the faster of the others."""

    memory_limit: float | None = field(default=None, metadata=above(0))
    """GiB for auto batches: of this whole process on a CPU, of each device else; if null, what is free."""

    deterministic: bool = False
    """Repeat a run bit by bit on a GPU, too, where the fastest kernels do not. A run keeps it when it is resumed."""

    jit_compile: bool | None = None
    """Compile the training step; if null, on PyTorch only for a long run with a C++ compiler, elsewhere always."""

    recompute: bool = False
    """Compute the inner values of each block again in the backward pass: less memory, up to a third more time."""

    log_interval: int | None = field(default=None, metadata=at_least(1))
    """Steps between lines of metrics.jsonl; if null, 1 for a run of up to 100 steps, else 10."""

    checkpoint_steps: int | None = field(default=None, metadata=at_least(1) | in_group("checkpoints"))
    """Steps between checkpoints."""

    checkpoint_minutes: float | None = field(default=10.0, metadata=above(0) | in_group("checkpoints"))
    """Minutes between checkpoints."""

    keep: int = field(default=2, metadata=at_least(1) | in_group("checkpoints"))
    """Number of newest checkpoints to keep."""

    mesh: MeshOptions = field(default_factory=MeshOptions)

    layout: str | None = field(default=None, metadata=in_group("devices"))
    """YAML file of rules for where weights lie on several devices, which go before the model's own."""

    seed: int = field(default=0, metadata=within(0, 2**31))
    """Seed of initial values, dropout and the order of the data."""

    guard: GuardOptions = field(default_factory=GuardOptions)

    resume: bool = field(default=False, metadata=continues("output") | in_group("checkpoints"))
    """Continue the interrupted run in --output, with its settings; no other option is needed."""

    @property
    def for_fit(self) -> dict[str, Any]:
        """The arguments of `fit_run` that are options of this group."""
        names = ("log_interval", "checkpoint_steps", "checkpoint_minutes", "keep", "resume", "guard")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class JobOptions(OptimizerOptions, ValidationOptions, RunOptions):
    """The settings that every training recipe has."""

    may_grow: ClassVar[frozenset[str]] = MAY_GROW
    """Settings that a resumed run may raise."""

    def check_final_weights(self) -> None:
        """Refuses settings that ask for several kinds of final weights.

        Raises:
            InputError: the message names two of `--average`, `--ema`, `--restore_best` and `--patience`.
        """
        asked = {"average": self.average > 1, "ema": self.ema > 0, "restore_best": self.restore_best}
        given = [f"--{name}" for name, is_given in asked.items() if is_given]
        if len(given) > 1:
            raise InputError(
                f"{given[0]} and {given[1]} end the run with different weights: give one of them"
            )
        if self.ema and self.gradient_accumulation > 1:
            raise InputError(
                "--ema averages after each batch, and --gradient_accumulation changes the weights after several: leave "
                "one of them out"
            )
        if self.average > 1 and self.patience:
            raise InputError(
                "--average takes the last checkpoints, and --patience may end the run before them"
            )


@dataclass(kw_only=True)
class TrainingOptions(BatchOptions, JobOptions):
    """The settings of a training recipe whose batches have a fixed number of rows."""
