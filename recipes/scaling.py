"""Estimates memory, step time and speed of a training on many chips, before anybody rents them.

KERAS_BACKEND=jax python recipes/scaling.py --size llama3_8b --mesh.fsdp 128 --chip h100 --sequence_length 8192 \
    --batch_size 2 --recompute selective

The estimate is arithmetic; recipes/benchmark/SCALING.md says how far it is from published measurements.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

from kerasllm import cli
from kerasllm.cli.ranges import at_least, within
from kerasllm.training.hardware.scaling import (
    CHIPS,
    GIB,
    Estimate,
    Mesh,
    Recompute,
    Work,
    estimate,
    shape_of_size,
)


@dataclass(kw_only=True)
class MeshOptions:
    """The numbers of chips along each axis."""

    replica: int = field(default=1, metadata=at_least(1))
    """Groups that hold the whole model and share the batch."""

    fsdp: int = field(default=1, metadata=at_least(1))
    """Chips that share the batch and the weights."""

    tensor: int = field(default=1, metadata=at_least(1))
    """Chips of a machine that share each matrix product."""

    pipeline: int = field(default=1, metadata=at_least(1))
    """Stages, each with some of the blocks."""


@dataclass(kw_only=True)
class Config:
    """Estimates memory, step time and speed of a training on many chips."""

    size: str = "gpt_7b"
    """The model: gpt_7b, gpt_70b, llama3_8b, llama3_70b, llama3_405b, a size of GPT, or bert_ and a size of BERT."""

    chip: Literal["a100", "h100", "h200", "b200"] = "h100"
    """The kind of chip, in machines of eight."""

    sequence_length: int = field(default=4096, metadata=at_least(1))
    """Tokens in a sequence."""

    batch_size: int = field(default=1, metadata=at_least(1))
    """Sequences of a step for each of the mesh.replica * mesh.fsdp groups that share the batch."""

    microbatches: int = field(default=1, metadata=at_least(1))
    """Parts of these sequences that are computed one after another."""

    recompute: Recompute = "none"
    """Activations that are computed again in the backward pass: none, half of them, or whole blocks."""

    whole_logits: bool = False
    """The logits of all tokens are in memory at once; kerasllm's chunked loss avoids that."""

    efficiency: float = field(default=0.4, metadata=within(0, 1, above=True, below=False))
    """Share of the chip's peak that products reach while nothing is waited for: measure it on one machine."""

    mesh: MeshOptions = field(default_factory=MeshOptions)


def main(config: Config) -> int:
    """Prints the estimate."""
    mesh = Mesh(config.mesh.replica, config.mesh.fsdp, config.mesh.tensor, config.mesh.pipeline)
    shape = shape_of_size(config.size)
    work = Work(
        sequence_length=config.sequence_length,
        batch_size=config.batch_size,
        microbatches=config.microbatches,
        recompute=config.recompute,
        whole_logits=config.whole_logits,
        efficiency=config.efficiency,
    )
    found = estimate(shape, mesh, CHIPS[config.chip], work)
    print(f"{config.size}: {shape.parameters / 1e9:,.2f} billion weights on {mesh.chips:,} {config.chip}")
    show(found, CHIPS[config.chip].memory, mesh)
    return 0


def show(found: Estimate, memory: float, mesh: Mesh) -> None:
    """Prints the parts of the memory and of the step, and the speed."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, held in found.memory.items():
        table.add_row(f"memory: {name}", f"{held / GIB:,.1f} GiB")
    fits = "it fits" if found.memory_bytes <= memory else "it does not fit"
    table.add_row("memory of a chip", f"{found.memory_bytes / GIB:,.1f} of {memory / GIB:,.1f} GiB: {fits}")
    for name, seconds in found.seconds.items():
        if seconds:
            table.add_row(f"time: {name}", f"{1000 * seconds:,.1f} ms")
    table.add_row("time of a step", f"{1000 * found.step_seconds:,.1f} ms, most of it {found.bound}")
    table.add_row("tokens per second", f"{found.tokens_per_second:,.0f}")
    table.add_row("of them a chip", f"{found.tokens_per_second / mesh.chips:,.0f}")
    table.add_row("model FLOP/s utilization", f"{found.utilization:.1%}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    cli.run(main, Config)
