"""Estimates memory, step time and speed of training a Transformer on many chips, from its shape and the mesh.

It is arithmetic, not measurement: what each chip has to hold, compute and send, divided by what the chip and its links
can do. `recipes/benchmark/SCALING.md` compares it with published tables and says where it is wrong.

Assumed are bfloat16 arithmetic with float32 weights, gradients and AdamW moments; attention that never holds its
scores; weights that are gathered in bfloat16 block by block, or once a step beside a pipeline, and gradients that are
reduced in float32; activations that the chips of a tensor group share; and, of the axes, tensor as the innermost, then
fsdp, replica and pipeline, so that tensor groups lie within a machine.

References: Rajbhandari et al. 2020, "ZeRO", https://arxiv.org/abs/1910.02054; Korthikanti et al. 2022, "Reducing
Activation Recomputation", https://arxiv.org/abs/2205.05198; Narayanan et al. 2021, https://arxiv.org/abs/2104.04473.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from kerasllm.errors import InputError
from kerasllm.models.bert.config import BERT_SIZES, BertConfig
from kerasllm.models.gpt.config import GPT_SIZES, GPTConfig

Recompute = Literal["none", "selective", "full"]

GIB = 2**30

_STATE_BYTES = 16  # of a weight: the weight, its gradient and two moments, each in float32
_COMPUTED_BYTES = 2  # of a number in bfloat16
_REDUCED_BYTES = 4  # of a gradient on its way
_LOGIT_BYTES = 10  # in bfloat16, as float32, and their gradient
_LINK_SHARE = 0.8  # of a link's speed that collectives reach
_HOP_SECONDS = 5e-6  # from one chip of a ring to the next


@dataclass(frozen=True)
class Chip:
    """A chip and its connections.

    Args:
        flops: the peak of dense bfloat16 products, in FLOP/s.
        memory: in bytes.
        link: speed to the other chips of its machine, in one direction, in bytes/s.
        network: speed to other machines, in one direction, in bytes/s.
        machine: chips in a machine.
    """

    flops: float
    memory: float
    link: float
    network: float
    machine: int = 8


CHIPS = {
    "a100": Chip(flops=312e12, memory=80e9, link=300e9, network=25e9),
    "h100": Chip(flops=989e12, memory=80e9, link=450e9, network=50e9),
    "h200": Chip(flops=989e12, memory=141e9, link=450e9, network=50e9),
    "b200": Chip(flops=2250e12, memory=180e9, link=900e9, network=50e9),
}
"""Chips by name, with the figures of their data sheets and the network of the usual machines of eight."""


@dataclass(frozen=True)
class Mesh:
    """The numbers of chips along each axis.

    Args:
        replica: groups that hold everything and share the batch.
        fsdp: chips that share the batch, and the weights and what belongs to them.
        tensor: chips that share each matrix product.
        pipeline: groups of chips that each have some of the blocks.
    """

    replica: int = 1
    fsdp: int = 1
    tensor: int = 1
    pipeline: int = 1

    @property
    def chips(self) -> int:
        """The number of chips."""
        return self.replica * self.fsdp * self.tensor * self.pipeline


@dataclass(frozen=True)
class Shape:
    """What of a model's architecture costs memory and time.

    Args:
        num_layers: blocks.
        hidden_dim: width of the hidden states.
        key_value_dim: width of the keys, and of the values.
        intermediate_dim: width of the feed-forward network.
        vocabulary_size: tokens in the vocabulary.
        gated: whether the feed-forward network has three matrices rather than two.
        tied: whether the output projection is the token embedding.
    """

    num_layers: int
    hidden_dim: int
    key_value_dim: int
    intermediate_dim: int
    vocabulary_size: int
    gated: bool = False
    tied: bool = True

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Returns the shape of a `BertConfig` or `GPTConfig`."""
        heads = config.num_heads
        key_value_heads = getattr(config, "num_key_value_heads", heads)
        return cls(
            num_layers=config.num_layers,
            hidden_dim=config.hidden_dim,
            key_value_dim=config.hidden_dim * key_value_heads // heads,
            intermediate_dim=config.intermediate_dim,
            vocabulary_size=config.vocabulary_size,
            gated=getattr(config, "feed_forward", "dense") == "gated",
            tied=getattr(config, "tie_embeddings", True),
        )

    @property
    def block(self) -> int:
        """Weights in the matrices of a block."""
        attention = 2 * self.hidden_dim * (self.hidden_dim + self.key_value_dim)
        return attention + (3 if self.gated else 2) * self.hidden_dim * self.intermediate_dim

    @property
    def embedding(self) -> int:
        """Weights of the token embedding."""
        return self.vocabulary_size * self.hidden_dim

    @property
    def parameters(self) -> int:
        """Weights in all matrices."""
        return self.num_layers * self.block + self.embedding * (1 if self.tied else 2)

    def flops_per_token(self, length: int) -> float:
        """Returns the FLOPs of a training step per token, see `kerasllm.models.flops`."""
        products = 6 * (self.num_layers * self.block + self.embedding)
        return products + 12 * self.num_layers * self.hidden_dim * length

    def activation_bytes(self) -> float:
        """Returns the bytes of a token that a block keeps for its backward pass, without dropout masks."""
        attention = 2 * self.hidden_dim + 2 * self.key_value_dim  # query, mixed values; keys, values
        feed_forward = (4 if self.gated else 2) * self.intermediate_dim
        residual = 5 * self.hidden_dim  # inputs and outputs of normalization, sums
        return _COMPUTED_BYTES * (attention + feed_forward + residual)


SHAPES = {
    "gpt_7b": Shape(32, 4096, 4096, 11008, 32000, gated=True, tied=False),
    "gpt_70b": Shape(80, 8192, 1024, 28672, 32000, gated=True, tied=False),
    "llama3_8b": Shape(32, 4096, 1024, 14336, 128256, gated=True, tied=False),
    "llama3_70b": Shape(80, 8192, 1024, 28672, 128256, gated=True, tied=False),
    "llama3_405b": Shape(126, 16384, 1024, 53248, 128256, gated=True, tied=False),
}
"""Shapes beside the named sizes of BERT and GPT: Llama 2's 7B and 70B, and Llama 3's."""


def shape_of_size(size: str) -> Shape:
    """Returns the shape of a named size: one of `SHAPES` or `GPT_SIZES`, or "bert_" and one of `BERT_SIZES`.

    Raises:
        InputError: there is no such size.
    """
    if size in SHAPES:
        return SHAPES[size]
    if size in GPT_SIZES:
        return Shape.of(GPTConfig.from_size(size))
    if size.removeprefix("bert_") in BERT_SIZES and size.startswith("bert_"):
        return Shape.of(BertConfig.from_size(size.removeprefix("bert_")))
    known = [*SHAPES, *GPT_SIZES, *(f"bert_{name}" for name in BERT_SIZES)]
    raise InputError(f"--size {size}: there is no such size; choose one of {', '.join(known)}")


@dataclass(frozen=True)
class Work:
    """What a step does.

    Args:
        sequence_length: tokens in a sequence.
        batch_size: sequences of a step for each of the `replica * fsdp` groups that share the batch.
        microbatches: parts of these that are computed one after another.
        recompute: which activations are computed again in the backward pass: none, half of them, or whole blocks.
        whole_logits: whether the logits of all tokens are in memory at once, as they are without a chunked loss.
        efficiency: the share of the chip's peak that its products reach while nothing is waited for.
        interleaved: parts of its blocks that each pipeline stage takes turns with.
    """

    sequence_length: int
    batch_size: int
    microbatches: int = 1
    recompute: Recompute = "none"
    whole_logits: bool = False
    efficiency: float = 0.4
    interleaved: int = 1


@dataclass(frozen=True)
class Estimate:
    """The estimate of a training.

    Args:
        memory: bytes of a chip by what they hold.
        seconds: seconds of a step by what they are spent on; those of "fsdp" and "replica" pass beside "compute".
        step_seconds: seconds of a step.
        bound: what the step waits for most: "compute", "fsdp", "replica", "tensor" or "pipeline".
        tokens_per_second: of all chips.
        utilization: the share of the chips' peak that is used, MFU.
    """

    memory: dict[str, float]
    seconds: dict[str, float]
    step_seconds: float
    bound: str
    tokens_per_second: float
    utilization: float

    @property
    def memory_bytes(self) -> float:
        """Bytes of a chip."""
        return sum(self.memory.values())


def estimate(shape: Shape, mesh: Mesh, chip: Chip, work: Work) -> Estimate:
    """Returns memory, time and speed of a training.

    Args:
        shape: the model.
        mesh: how many chips share what.
        chip: the kind of chip.
        work: what a step does.

    Raises:
        InputError: the mesh does not suit the model, the machine or the batch.
    """
    _check(shape, mesh, chip, work)
    seconds = _seconds(shape, mesh, chip, work)
    beside = max(seconds["compute"] + seconds["tensor"], seconds["fsdp"] + seconds["replica"])
    first = (
        (seconds["fsdp"] + seconds["replica"]) * mesh.pipeline / shape.num_layers
    )  # nothing to compute beside it
    step = (beside + first) + seconds["pipeline"]
    tokens = work.batch_size * work.sequence_length * mesh.replica * mesh.fsdp
    flops = tokens * shape.flops_per_token(work.sequence_length)
    return Estimate(
        memory=_memory(shape, mesh, work),
        seconds=seconds,
        step_seconds=step,
        bound=max(seconds, key=lambda name: seconds[name]),
        tokens_per_second=tokens / step,
        utilization=flops / step / mesh.chips / chip.flops,
    )


def _check(shape: Shape, mesh: Mesh, chip: Chip, work: Work) -> None:
    for name in ("replica", "fsdp", "tensor", "pipeline"):
        if getattr(mesh, name) < 1:
            raise InputError(f"--mesh.{name} is {getattr(mesh, name)}, it must be at least 1")
    if mesh.tensor > chip.machine or shape.hidden_dim % mesh.tensor:
        raise InputError(
            f"--mesh.tensor {mesh.tensor} must divide the width of {shape.hidden_dim:,} and lie within a machine of "
            f"{chip.machine} chips"
        )
    if mesh.pipeline > shape.num_layers:
        raise InputError(f"--mesh.pipeline {mesh.pipeline} is above the {shape.num_layers} blocks")
    if work.batch_size % work.microbatches:
        raise InputError(f"--microbatches {work.microbatches} does not divide the batch of {work.batch_size}")


def _memory(shape: Shape, mesh: Mesh, work: Work) -> dict[str, float]:
    """Returns the bytes of a chip by what they hold."""
    layers = math.ceil(shape.num_layers / mesh.pipeline)
    tokens = work.batch_size // work.microbatches * work.sequence_length
    whole = shape.activation_bytes()
    kept = {"none": whole, "selective": whole / 2, "full": _COMPUTED_BYTES * shape.hidden_dim}[work.recompute]
    in_flight = min(mesh.pipeline, work.microbatches)  # one forward, one backward
    working = whole if work.recompute != "none" else 0.0
    memory = {
        "states": _STATE_BYTES * shape.parameters / (mesh.fsdp * mesh.tensor * mesh.pipeline),
        "activations": tokens * (kept * layers * in_flight + working) / mesh.tensor,
        "logits": _LOGIT_BYTES * tokens * shape.vocabulary_size / mesh.tensor if work.whole_logits else 0.0,
    }
    if mesh.fsdp > 1 and mesh.pipeline > 1:  # the weights and gradients of all blocks, until the step ends
        weights = shape.parameters / (mesh.tensor * mesh.pipeline)
        memory["gathered"] = (_COMPUTED_BYTES + _REDUCED_BYTES) * weights
    elif mesh.fsdp > 1:  # two blocks, the gradients of one, and the embedding
        gathered = 2 * _COMPUTED_BYTES * shape.block + _REDUCED_BYTES * shape.block
        memory["gathered"] = (gathered + _COMPUTED_BYTES * shape.embedding) / mesh.tensor
    return memory


def _seconds(shape: Shape, mesh: Mesh, chip: Chip, work: Work) -> dict[str, float]:
    """Returns the seconds of a step by what they are spent on."""
    tokens = work.batch_size * work.sequence_length
    again = {"none": 1.0, "selective": 1.0, "full": 4 / 3}[work.recompute]
    flops = again * tokens * shape.flops_per_token(work.sequence_length) / (mesh.tensor * mesh.pipeline)
    compute = flops / (chip.flops * work.efficiency)

    weights = shape.parameters / (mesh.tensor * mesh.pipeline)
    layers = math.ceil(shape.num_layers / mesh.pipeline)
    passes, times = (2, work.microbatches) if mesh.pipeline == 1 else (1, 1)  # forward and backward, or once
    size = (passes * _COMPUTED_BYTES + _REDUCED_BYTES) * weights
    fsdp = times * _collective(size, mesh.fsdp, mesh.tensor, chip, count=(passes + 1) * layers)
    replica = _collective(
        2 * _REDUCED_BYTES * weights / mesh.fsdp, mesh.replica, mesh.tensor * mesh.fsdp, chip, count=2
    )
    products = {"none": 4, "selective": 4, "full": 6}[work.recompute]  # all-reduces in a block
    hidden = _COMPUTED_BYTES * tokens * shape.hidden_dim
    tensor = _collective(
        2 * products * layers * hidden, mesh.tensor, 1, chip, count=2 * products * layers * work.microbatches
    )
    bubble = (mesh.pipeline - 1) / (work.microbatches * work.interleaved) * (compute + tensor)
    return {"compute": compute, "fsdp": fsdp, "replica": replica, "tensor": tensor, "pipeline": bubble}


def _collective(size: float, members: int, stride: int, chip: Chip, count: int) -> float:
    """Returns the seconds of ring collectives in which each member receives `size` bytes in all, less its own share.

    Args:
        size: bytes.
        members: chips of the group.
        stride: the distance between two of them, so that those at most `machine / stride` apart share a machine.
        chip: the kind of chip.
        count: collectives that the bytes are divided among.
    """
    if members == 1:
        return 0.0
    together = max(min(chip.machine // stride, members), 1)
    # Each of the chips in a machine has a connection of its own to the network, and a ring uses them all.
    speed = chip.link if together == members else min(chip.link, together * chip.network)
    return size * (members - 1) / members / (speed * _LINK_SHARE) + count * (members - 1) * _HOP_SECONDS
