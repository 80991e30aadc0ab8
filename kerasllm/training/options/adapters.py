"""Settings of low-rank adapters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from kerasllm.cli.ranges import above, at_least, within
from kerasllm.errors import InputError


@dataclass(kw_only=True)
class LowRankOptions:
    """Settings of low-rank adapters."""

    group: ClassVar[str] = "model"

    lora_rank: int = field(default=0, metadata=at_least(0))
    """Above 0, train only low-rank adapters of this rank (and new heads); they are merged into the saved model."""

    lora_alpha: float | None = field(default=None, metadata=above(0))
    """The adapters' output is scaled by alpha / rank; alpha is twice the rank if null."""

    def check_adapters(self, init: str | None) -> None:
        """Refuses adapters of a new model, and a scale of adapters if there are none.

        Args:
            init: the checkpoint that is adapted; None for a new model.

        Raises:
            InputError: `--lora_rank` is given for a new model, or `--lora_alpha` without it.
        """
        if self.lora_rank and not init:
            raise InputError(f"--lora_rank {self.lora_rank} adapts a checkpoint: name it with --init")
        if self.lora_alpha is not None and not self.lora_rank:
            raise InputError(
                f"--lora_alpha {self.lora_alpha} means nothing without --lora_rank: give that too"
            )

    @property
    def adapters(self) -> dict[str, Any]:
        """The arguments of a model that are options of this group."""
        return {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha}


@dataclass(kw_only=True)
class AdapterOptions(LowRankOptions):
    """Settings for how a checkpoint is trained: its dropout, and low-rank adapters."""

    group: ClassVar[str] = "model"

    dropout: float | None = field(default=None, metadata=within(0, 1))
    """Dropout in place of the checkpoint's; null keeps that."""

    seed: int = 0

    @property
    def model_settings(self) -> dict[str, Any]:
        """The arguments of `from_pretrained` that are options of this group."""
        changes = {} if self.dropout is None else {"dropout": self.dropout}
        return {**self.adapters, "seed": self.seed, **changes}
