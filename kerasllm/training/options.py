"""The options that every training recipe has, and what `fit_run` is told of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kerasllm.training.callbacks.number_guard import GuardOptions


@dataclass(kw_only=True)
class RunOptions:
    """What a run does around its training; a recipe's own options come before these."""

    clip_norm: float = 1.0
    """Largest global norm of the gradient; 0 for no clipping."""

    precision: Literal["float32", "mixed_bfloat16", "auto"] = "float32"
    """auto measures both, takes the faster and records it."""

    jit_compile: bool | None = None
    """Compile the training step; null: on PyTorch if the run is long and there is a C++ compiler, elsewhere always."""

    restore_best: bool = False
    """End with the weights of the best validation."""

    patience: int | None = None
    """Validations without a better one after which training stops; null for never."""

    log_interval: int | None = None
    """Steps between lines of metrics.jsonl; 1 up to 100 steps, else 10, if null."""

    checkpoint_steps: int | None = None
    """Steps between checkpoints."""

    checkpoint_minutes: float | None = 10.0
    """Minutes between checkpoints."""

    keep: int = 2
    """Checkpoints that stay."""

    guard: GuardOptions = field(default_factory=GuardOptions)

    resume: bool = False
    """Go on with an interrupted run."""

    @property
    def for_fit(self) -> dict[str, Any]:
        """The arguments of `fit_run` that are options."""
        names = (
            *("restore_best", "patience", "log_interval", "checkpoint_steps", "checkpoint_minutes", "keep"),
            *("resume", "guard"),
        )
        return {name: getattr(self, name) for name in names}
