"""Parts of a layer that hold weights: projections with their low-rank adapters, norms, and feed-forward networks.

A block is one Keras layer with raw weights: on torch, half the time of a small model built from many Keras layers goes
into entering and leaving them. The classes here are plain objects that create variables of such a layer, in the order
in which they are constructed, and apply them.
"""

from collections.abc import Sequence
from typing import Any

from keras import ops

from kerasllm import backend
from kerasllm.layers.initializers import KeyedNormal, KeyedTruncatedNormal


def dense(inputs, kernel, bias=None, transposed: bool = False):
    """Returns inputs @ kernel + bias, (..., in) → (..., out), as one product of two matrices.

    A `transposed` kernel is (out, in). The leading axes are folded into one first: XLA on the CPU runs a gradient
    that contracts over two axes (batch and length) as a plain loop, at half the speed of its matrix product.
    """
    shape = ops.shape(inputs)
    product = backend.dense(ops.reshape(inputs, (-1, shape[-1])), kernel, bias, transposed)
    return ops.reshape(product, (*shape[:-1], product.shape[-1]))


class Projection:
    """`hidden @ kernel + bias`; with an adapter of rank r, `(hidden @ a) @ b * alpha / r` is added.

    The variables are `NAME_kernel` (inputs, outputs) and `NAME_bias` (outputs,), and with an adapter `NAME_lora_a`
    (inputs, r) and `NAME_lora_b` (r, outputs). The attributes of those that do not exist are None.

    Args:
        layer: a Keras layer under construction, which has a `seed`.
        name: of the projection.
        inputs: width of what comes in.
        outputs: width of what goes out.
        deviation: standard deviation of the initial kernel.
        use_bias: whether there is a bias.
        truncated: whether the initial values are cut at two deviations, as BERT's are; GPT-2's are not.
        lora_rank: above 0, kernel and bias are frozen, and an adapter, whose b is zero at first, is trained instead.
        lora_alpha: alpha above.

    Reference: Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1.
    """

    def __init__(
        self,
        layer: Any,
        name: str,
        inputs: int,
        outputs: int,
        *,
        deviation: float,
        use_bias: bool = True,
        truncated: bool = False,
        lora_rank: int = 0,
        lora_alpha: float = 0.0,
    ) -> None:
        normal = KeyedTruncatedNormal if truncated else KeyedNormal
        key = f"{layer.name}/{name}"

        def add(suffix: str, shape: tuple[int, ...], initializer: Any, trainable: bool) -> Any:
            return layer.add_weight(
                name=f"{name}_{suffix}", shape=shape, initializer=initializer, trainable=trainable
            )

        self.bias = self.lora_a = self.lora_b = None
        self.kernel = add(
            "kernel", (inputs, outputs), normal(deviation, layer.seed, f"{key}_kernel"), not lora_rank
        )
        if use_bias:
            self.bias = add("bias", (outputs,), "zeros", not lora_rank)
        if lora_rank:
            low = KeyedNormal(inputs**-0.5, layer.seed, f"{key}_lora_a")
            self.lora_a = add("lora_a", (inputs, lora_rank), low, True)
            self.lora_b = add("lora_b", (lora_rank, outputs), "zeros", True)
            self.lora_scale = lora_alpha / lora_rank

    def __call__(self, hidden):
        """Returns the projection of (..., inputs), (..., outputs)."""
        return self._project(hidden, self.kernel, self.bias, self.lora_b)

    def parts(self, inputs: Sequence, widths: tuple[int, ...]):
        """Returns the projection of each of `inputs` to the next of the outputs, `widths` wide each."""
        weights = [
            [None] * len(widths)
            if weight is None
            else backend.split(ops.convert_to_tensor(weight), widths, axis=-1)
            for weight in (self.kernel, self.bias, self.lora_b)
        ]
        return [self._project(hidden, *some) for hidden, *some in zip(inputs, *weights, strict=True)]

    def _project(self, hidden, kernel, bias, lora_b):
        projected = dense(hidden, kernel, bias)
        if lora_b is None:
            return projected
        return projected + dense(dense(hidden, self.lora_a), lora_b) * self.lora_scale


class Norm:
    """Layer normalization, or normalization by the root mean square, over the last axis, computed in float32.

    The variables are `NAME_scale` (width,) and, for a layer norm with bias, `NAME_bias` (width,).

    Args:
        layer: a Keras layer under construction.
        name: of the norm.
        width: of the last axis.
        kind: "layer_norm" or "rms_norm".
        epsilon: added to the variance, or the mean square.
        use_bias: whether a layer norm has a bias.
        trainable: whether the variables are trained.

    Reference: Ba et al. 2016, https://arxiv.org/abs/1607.06450; Zhang and Sennrich 2019,
    https://arxiv.org/abs/1910.07467.
    """

    def __init__(
        self,
        layer: Any,
        name: str,
        width: int,
        *,
        kind: str = "layer_norm",
        epsilon: float,
        use_bias: bool = True,
        trainable: bool = True,
    ) -> None:
        self.kind, self.epsilon, self.bias = kind, epsilon, None
        settings = {"shape": (width,), "trainable": trainable}
        self.scale = layer.add_weight(name=f"{name}_scale", initializer="ones", **settings)
        if use_bias and kind == "layer_norm":
            self.bias = layer.add_weight(name=f"{name}_bias", initializer="zeros", **settings)

    def __call__(self, hidden):
        """Returns the normalized (..., width)."""
        if self.kind == "rms_norm":
            return backend.rms_norm(hidden, self.scale, self.epsilon)
        return backend.layer_norm(hidden, self.scale, self.bias, self.epsilon)


class FeedForward:
    """`output(activation(intermediate(x)))`; a gated one is `output(activation(gate(x)) * up(x))`.

    The projections are `intermediate`, which holds gate and up side by side, and `output`.

    Args:
        layer: a Keras layer under construction, which has a `seed`.
        width: of what comes in and goes out.
        intermediate_dim: width in between.
        activation: name of it, see `backend.activation`.
        is_gated: whether it is gated (Shazeer 2020, https://arxiv.org/abs/2002.05202).
        into, back: settings of `intermediate` and of `output`, see `Projection`.
    """

    def __init__(
        self,
        layer: Any,
        width: int,
        intermediate_dim: int,
        *,
        activation: str,
        is_gated: bool,
        into: dict[str, Any],
        back: dict[str, Any],
    ) -> None:
        self.activation, self.is_gated = activation, is_gated
        parts = 2 if is_gated else 1
        self.intermediate = Projection(layer, "intermediate", width, parts * intermediate_dim, **into)
        self.output = Projection(layer, "output", intermediate_dim, width, **back)

    def __call__(self, hidden):
        """Returns the shape of `hidden`, (batch, length, width)."""
        wide = self.intermediate(hidden)  # (batch, length, intermediate_dim), or twice that
        if not self.is_gated:
            return self.output(backend.activation(wide, self.activation))
        gate, up = ops.split(wide, 2, axis=-1)
        return self.output(backend.activation(gate, self.activation) * up)


def merged_kernel(layer: Any, name: str) -> Any:
    """Returns the kernel of a layer's projection as NumPy (inputs, outputs), with its adapter added if it has one."""
    weights = {weight.name: weight for weight in layer.weights}
    kernel = backend.whole(weights[f"{name}_kernel"])
    if f"{name}_lora_b" not in weights:
        return kernel
    low, high = (backend.whole(weights[f"{name}_lora_{part}"]) for part in "ab")
    return kernel + (low @ high) * (layer.lora_alpha / layer.lora_rank)
