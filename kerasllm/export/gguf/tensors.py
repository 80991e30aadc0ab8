"""The names and forms of a GPT's weights in GGUF, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasllm.errors import InputError
from kerasllm.models import GPTConfig

_GPT2 = {
    "normalization": "layer_norm",
    "positions": "learned",
    "feed_forward": "dense",
    "use_bias": True,
    "activation": "gelu_tanh",
}
_LLAMA = {
    "normalization": "rms_norm",
    "positions": "rotary",
    "feed_forward": "gated",
    "use_bias": False,
    "activation": "silu",
}


def architecture_of(config: GPTConfig) -> str:
    """Returns llama.cpp's name of a GPT's architecture: "gpt2" or "llama".

    Raises:
        InputError: llama.cpp has no architecture of this shape; the message names a setting in the way.
    """
    wanted, name = (_GPT2, "gpt2") if config.positions == "learned" else (_LLAMA, "llama")
    for setting, value in wanted.items():
        if getattr(config, setting) != value:
            raise InputError(
                f"{setting} is {getattr(config, setting)!r}: with {config.positions} positions, GGUF holds a "
                f"{'GPT-2' if name == 'gpt2' else 'Llama'}, where it is {value!r}"
            )
    if name == "gpt2" and config.key_value_heads != config.num_heads:
        raise InputError("num_key_value_heads differs from num_heads: a GPT-2 in GGUF has as many of both")
    return name


@dataclass(frozen=True)
class Part:
    """A tensor in GGUF, which is one of our variables or a part of one.

    Args:
        name: its name.
        ours: our variable's name.
        start: the first of its outputs in our variable.
        end: the end of its outputs.
        heads: the number of heads whose coordinates are paired in another order; 0 for none.
    """

    name: str
    ours: str
    start: int | None = None
    end: int | None = None
    heads: int = 0

    @property
    def is_kernel(self) -> bool:
        """Whether our variable is (inputs, outputs), and the tensor (outputs, inputs)."""
        return self.ours.endswith("_kernel")

    @property
    def is_exact(self) -> bool:
        """Whether the tensor is float32 whatever the precision: norms, biases and positions."""
        return not (self.is_kernel or self.ours in ("embeddings/token", "head/kernel"))

    def write(self, value: np.ndarray) -> np.ndarray:
        """Returns the tensor for the value of our variable."""
        value = value[..., self.start : self.end]
        if not self.is_kernel:
            return np.ascontiguousarray(value, np.float32)
        value = value.T
        if self.heads:  # llama.cpp turns neighboring coordinates, ours are half a head apart
            value = value.reshape(self.heads, 2, -1, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
        return np.ascontiguousarray(value, np.float32)

    def read(self, tensor: np.ndarray) -> np.ndarray:
        """Returns the part of our variable for the tensor."""
        if not self.is_kernel:
            return tensor
        if self.heads:
            tensor = tensor.reshape(self.heads, -1, 2, tensor.shape[-1]).swapaxes(1, 2).reshape(tensor.shape)
        return tensor.T


def parts(model: Any) -> Iterator[Part]:
    """Yields the tensors of a GPT."""
    config: GPTConfig = model.config
    is_gpt2 = architecture_of(config) == "gpt2"
    yield Part("token_embd.weight", "embeddings/token")
    if is_gpt2:
        yield Part("position_embd.weight", "embeddings/position")
    blocks: Callable[[GPTConfig, str, str], Iterator[Part]] = _gpt2_block if is_gpt2 else _llama_block
    for index in range(config.num_layers):
        yield from blocks(config, f"blk.{index}.", f"block_{index}/")
    yield Part("output_norm.weight", "final_norm/norm_scale")
    if is_gpt2:
        yield Part("output_norm.bias", "final_norm/norm_bias")
    if model.head is not None:
        yield Part("output.weight", "head/kernel")


def _gpt2_block(config: GPTConfig, theirs: str, ours: str) -> Iterator[Part]:
    for name, own in (("attn_norm", "attention_norm"), ("ffn_norm", "feed_forward_norm")):
        yield Part(f"{theirs}{name}.weight", f"{ours}{own}_scale")
        yield Part(f"{theirs}{name}.bias", f"{ours}{own}_bias")
    names = {
        "attn_qkv": "query_key_value",
        "attn_output": "attention_output",
        "ffn_up": "intermediate",
        "ffn_down": "output",
    }
    for name, own in names.items():
        yield Part(f"{theirs}{name}.weight", f"{ours}{own}_kernel")
        yield Part(f"{theirs}{name}.bias", f"{ours}{own}_bias")


def _llama_block(config: GPTConfig, theirs: str, ours: str) -> Iterator[Part]:
    width, shared = config.hidden_dim, config.key_value_heads * config.head_dim
    wide = config.intermediate_dim
    joint = f"{ours}query_key_value_kernel"
    yield Part(f"{theirs}attn_norm.weight", f"{ours}attention_norm_scale")
    yield Part(f"{theirs}ffn_norm.weight", f"{ours}feed_forward_norm_scale")
    yield Part(f"{theirs}attn_q.weight", joint, 0, width, config.num_heads)
    yield Part(f"{theirs}attn_k.weight", joint, width, width + shared, config.key_value_heads)
    yield Part(f"{theirs}attn_v.weight", joint, width + shared, width + 2 * shared)
    yield Part(f"{theirs}attn_output.weight", f"{ours}attention_output_kernel")
    yield Part(f"{theirs}ffn_gate.weight", f"{ours}intermediate_kernel", 0, wide)
    yield Part(f"{theirs}ffn_up.weight", f"{ours}intermediate_kernel", wide)
    yield Part(f"{theirs}ffn_down.weight", f"{ours}output_kernel")
