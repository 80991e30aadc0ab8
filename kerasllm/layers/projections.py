"""Raw weights of a fat layer by name: kernels and biases, norms, and low-rank adapters beside them.

A block that is one Keras layer keeps its weights as attributes (`output_kernel`, `output_bias`), made and used
by the functions here, so that encoder and decoder blocks share them without sharing a base class.
"""

from typing import Any

from keras import ops

from kerasllm import backend
from kerasllm.layers.dropout import add_dropped
from kerasllm.layers.feed_forward import dense
from kerasllm.layers.initializers import KeyedNormal, KeyedTruncatedNormal


def add_projection(
    layer: Any,
    name: str,
    inputs: int,
    outputs: int,
    *,
    deviation: float,
    bias: bool = True,
    truncated: bool = False,
    lora_rank: int = 0,
) -> None:
    """Adds `NAME_kernel` (inputs, outputs) and, with `bias`, `NAME_bias` to a layer that has a seed.

    Args:
        layer: under construction.
        name: of the projection.
        inputs: width of what comes in.
        outputs: width of what goes out.
        deviation: standard deviation of the initial kernel.
        bias: whether there is one; else the attribute is None.
        truncated: whether the initial values are cut at two deviations, as BERT's are; GPT-2's are not.
        lora_rank: above 0, kernel and bias are frozen, and `NAME_lora_a` (inputs, rank), `NAME_lora_b`
            (rank, outputs), which is zero at first, are trained instead.
    """
    normal = KeyedTruncatedNormal if truncated else KeyedNormal

    def add(suffix: str, shape: tuple[int, ...], initializer: Any, trainable: bool) -> None:
        weight = layer.add_weight(
            name=f"{name}_{suffix}", shape=shape, initializer=initializer, trainable=trainable
        )
        setattr(layer, f"{name}_{suffix}", weight)

    setattr(layer, f"{name}_bias", None)
    setattr(layer, f"{name}_lora_b", None)
    key = f"{layer.name}/{name}"
    add("kernel", (inputs, outputs), normal(deviation, layer.seed, f"{key}_kernel"), not lora_rank)
    if bias:
        add("bias", (outputs,), "zeros", not lora_rank)
    if lora_rank:
        add("lora_a", (inputs, lora_rank), KeyedNormal(inputs**-0.5, layer.seed, f"{key}_lora_a"), True)
        add("lora_b", (lora_rank, outputs), "zeros", True)


def project(layer: Any, name: str, hidden):
    """Applies projection `NAME` to (..., inputs); with an adapter, adds (hidden @ a) @ b * alpha / rank.

    Reference: Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1.
    """
    projected = dense(hidden, getattr(layer, f"{name}_kernel"), getattr(layer, f"{name}_bias"))
    lora_b = getattr(layer, f"{name}_lora_b")
    if lora_b is None:
        return projected
    low = dense(hidden, getattr(layer, f"{name}_lora_a"), None)
    return projected + dense(low, lora_b, None) * (layer.lora_alpha / layer.lora_rank)


def add_norm(layer: Any, name: str, width: int, *, bias: bool = True, trainable: bool = True) -> None:
    """Adds `NAME_scale` and, with `bias`, `NAME_bias` (width,) to a layer; without, the latter is None."""
    scale = layer.add_weight(name=f"{name}_scale", shape=(width,), initializer="ones", trainable=trainable)
    setattr(layer, f"{name}_scale", scale)
    setattr(layer, f"{name}_bias", None)
    if bias:
        shift = layer.add_weight(
            name=f"{name}_bias", shape=(width,), initializer="zeros", trainable=trainable
        )
        setattr(layer, f"{name}_bias", shift)


def normalize(layer: Any, name: str, hidden, *, kind: str, epsilon: float):
    """Applies norm `NAME`: "layer_norm" or "rms_norm", over the last axis, in float32.

    Reference: Ba et al. 2016, https://arxiv.org/abs/1607.06450; Zhang and Sennrich 2019,
    https://arxiv.org/abs/1910.07467.
    """
    scale, bias = getattr(layer, f"{name}_scale"), getattr(layer, f"{name}_bias")
    if kind == "layer_norm":
        return backend.layer_norm(hidden, scale, bias, epsilon)
    return backend.fuse(_rms_norm, hidden, ops.convert_to_tensor(scale), epsilon=epsilon)


def add_and_normalize(layer: Any, name: str, hidden, branch, rate: float, *, kind: str, epsilon: float):
    """`hidden + dropout(branch)`, with dropout by the layer's `seed_generator`, and its `normalize`."""
    if kind == "layer_norm":
        weights = getattr(layer, f"{name}_scale"), getattr(layer, f"{name}_bias")
        both = backend.sum_and_norm(hidden, branch, *weights, epsilon, rate, layer.seed_generator)
        if both is not None:
            return both
    hidden = add_dropped(hidden, branch, rate, layer.seed_generator)
    return hidden, normalize(layer, name, hidden, kind=kind, epsilon=epsilon)


def _rms_norm(hidden, scale, epsilon: float):
    wide = ops.cast(hidden, "float32")
    normal = wide * ops.rsqrt(ops.mean(ops.square(wide), axis=-1, keepdims=True) + epsilon)
    return ops.cast(normal * ops.cast(scale, "float32"), hidden.dtype)


def merged_kernel(layer: Any, name: str) -> Any:
    """The kernel with its adapter added, a NumPy array (inputs, outputs) in float32; else the kernel's own."""
    kernel = ops.convert_to_numpy(getattr(layer, f"{name}_kernel"))
    if getattr(layer, f"{name}_lora_b") is None:
        return kernel
    low, high = (ops.convert_to_numpy(getattr(layer, f"{name}_lora_{part}")) for part in "ab")
    return kernel + (low @ high) * (layer.lora_alpha / layer.lora_rank)
