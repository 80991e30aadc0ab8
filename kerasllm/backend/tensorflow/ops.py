"""TensorFlow's operators: what is between matrix products is fused where a step is compiled in parts.

Otherwise they are plain operations for XLA, which on a CPU runs 1.3 to 1.45 times as fast as the graph executor.
"""

import math
from functools import cache, partial

import keras
import tensorflow as tf

from kerasllm.backend import formulas, hashing
from kerasllm.backend.tensorflow.fusion import fuse, is_fusing
from kerasllm.backend.tensorflow.gradients import custom_gradient


def attention(query, key, value, *, mask=None, is_causal: bool = False, dropout_rate: float = 0.0, seed=None):
    """Returns attention, the probabilities as one fused part."""
    scores = tf.matmul(query * tf.cast(query.shape[-1] ** -0.5, query.dtype), key, transpose_b=True)
    return tf.matmul(fuse(_probabilities, scores, mask, seed, is_causal=is_causal, rate=dropout_rate), value)


def _probabilities(scores, mask, seed, is_causal: bool, rate: float):
    wide = tf.cast(scores, tf.float32)
    if is_causal:
        queries, keys = tf.shape(wide)[-2], tf.shape(wide)[-1]
        allowed = tf.range(keys)[None, :] <= tf.range(queries)[:, None] + (keys - queries)
        wide = tf.where(allowed, wide, tf.float32.min)
    if mask is not None:
        wide = tf.where(mask, wide, tf.float32.min)
    return tf.cast(_dropped(tf.nn.softmax(wide, axis=-1), seed, rate), scores.dtype)


def dropout(inputs, rate: float, seed):
    """Returns `inputs` with dropout."""
    return fuse(_dropped, inputs, seed, rate=rate) if rate else inputs


def add_dropout(hidden, branch, rate: float, seed):
    """Returns `hidden` plus the branch with dropout."""
    return fuse(_sum, hidden, branch, seed, rate=rate) if rate else hidden + branch


def _dropped(inputs, seed, rate: float):
    if not rate:
        return inputs
    stays = _draws(keras.ops.shape(inputs), seed) >= hashing.least_kept(rate)
    return tf.cast(tf.where(stays, tf.cast(inputs, tf.float32) / (1 - rate), 0.0), inputs.dtype)


def _sum(hidden, branch, seed, rate: float):
    return hidden + _dropped(branch, seed, rate)


def _draws(shape, seed):
    """Returns `hashing.draws`, recorded once for each shape: in a graph that calls it, it is one operation.

    Recording is most of what a first step takes that XLA does not compile, half a millisecond an operation.
    """
    known = all(isinstance(length, int) for length in shape)
    return _program_of_draws(tuple(shape))(seed) if known else hashing.draws(shape, seed)


@cache  # one for each shape: TensorFlow warns of a function that it records again and again
def _program_of_draws(shape):
    return tf.function(partial(hashing.draws, shape), autograph=False)


def activation(inputs, name: str):
    """Returns the activation."""
    return fuse(_activation, inputs, name=name)


def _activation(inputs, name: str):
    if name in ("gelu", "gelu_tanh"):
        return formulas.gelu(inputs, approximate=name == "gelu_tanh")
    return keras.activations.get(name)(inputs)


def layer_norm(inputs, scale, bias, epsilon: float):
    """Returns the layer normalization."""
    scale = keras.ops.convert_to_tensor(scale)
    bias = tf.zeros_like(scale) if bias is None else keras.ops.convert_to_tensor(bias)
    return fuse(_layer_norm_of_part if is_fusing() else _layer_norm, inputs, scale, bias, epsilon=epsilon)


def _layer_norm(inputs, scale, bias, epsilon):
    scale, bias = tf.cast(scale, tf.float32), tf.cast(bias, tf.float32)
    hidden = tf.cast(inputs, tf.float32)
    centered = hidden - tf.reduce_mean(hidden, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
    return tf.cast(centered * tf.math.rsqrt(variance + epsilon) * scale + bias, inputs.dtype)


def _layer_norm_of_part(inputs, scale, bias, epsilon):
    """Returns the same in a program of its own on a CPU, where XLA sums four times as fast by products with ones."""
    return _normalizing(epsilon)(inputs, tf.cast(scale, tf.float32), tf.cast(bias, tf.float32))


@cache
def _normalizing(epsilon: float):
    """Returns the normalization as a function whose gradient is written out."""

    def parts(inputs):
        hidden = tf.cast(inputs, tf.float32)
        centered = hidden - _row_means(hidden)
        return centered, tf.math.rsqrt(_row_means(tf.square(centered)) + epsilon)

    @custom_gradient
    def normalize(inputs, scale, bias):
        def gradient(upstream):
            centered, factor = parts(inputs)
            normal, slope = centered * factor, tf.cast(upstream, tf.float32)
            of_scale, of_bias = _column_sums(slope * normal), _column_sums(slope)
            slope *= scale
            of_inputs = factor * (slope - _row_means(slope) - normal * _row_means(slope * normal))
            return tf.cast(of_inputs, inputs.dtype), of_scale, of_bias

        centered, factor = parts(inputs)
        return tf.cast(centered * factor * scale + bias, inputs.dtype), gradient

    return normalize


def _row_means(matrix):
    """Returns the means over the last axis, which stays, of length one."""
    width = matrix.shape[-1]
    return tf.tensordot(matrix, tf.fill((width, 1), 1.0 / width), 1)


def _column_sums(matrix):
    """Returns the sums over all axes but the last."""
    rows = tf.reshape(matrix, (-1, matrix.shape[-1]))
    return tf.matmul(tf.ones((1, tf.shape(rows)[0])), rows)[0]


def rms_norm(inputs, scale, epsilon: float):
    """Returns the normalization by the root mean square."""
    return fuse(formulas.rms_norm, inputs, keras.ops.convert_to_tensor(scale), epsilon=epsilon)


def rotate(heads, cosine, sine):
    """Returns the heads, turned."""
    return fuse(formulas.rotate, heads, cosine, sine)


def dense(inputs, kernel, bias=None, transposed: bool = False):
    """Returns the product."""
    kernel = tf.cast(keras.ops.convert_to_tensor(kernel), inputs.dtype)
    product = tf.matmul(inputs, kernel, transpose_b=transposed)
    if bias is None:
        return product
    bias = tf.cast(keras.ops.convert_to_tensor(bias), inputs.dtype)
    return _add_bias(product, bias) if is_fusing() else product + bias


@custom_gradient
def _add_bias(product, bias):
    def gradient(upstream):  # a product with ones, which oneDNN sums in float32
        ones = tf.ones((1, tf.shape(upstream)[0]), upstream.dtype)
        return upstream, tf.matmul(ones, upstream)[0]

    return tf.nn.bias_add(product, bias), gradient


def matrix_product(left, right):
    """Returns the product by the faster of what a training step may use, which is not XLA."""
    return tf.matmul(left, right)


def split(inputs, sizes: tuple[int, ...], axis: int):
    """Returns the parts."""
    return tf.split(inputs, sizes, axis=axis)


def take_rows(table, ids):
    """Returns the rows, with a gradient that is a table.

    TensorFlow's own gradient of a gather lists the rows, one entry for each id. Keras' Adam squares the
    entries one by one, and clipping takes their norm, so that a token which occurs twice in a batch would get
    the sum of squares for the square of the sum.
    """
    ids = keras.ops.cast(ids, "int32")
    value = tf.convert_to_tensor(keras.ops.convert_to_tensor(table))
    kind = value.dtype
    if is_fusing() and isinstance(table, keras.Variable):
        value = tf.convert_to_tensor(
            table._value
        )  # not in the type computed in: that would cast the whole table

    @custom_gradient
    def take(value):
        def gradient(upstream):
            return fuse(_table_of, upstream, ids, rows=value.shape[0], kind=value.dtype)

        return tf.cast(tf.gather(value, ids), kind), gradient

    taken = take(value)
    if is_fusing():  # on a CPU without XLA, where a gather fails if an id is out of range
        return taken
    # XLA takes the nearest row, and a GPU zeros.
    is_there = tf.logical_and(ids >= 0, ids < value.shape[0])
    return tf.where(is_there[..., None], taken, tf.cast(math.nan, taken.dtype))


def _table_of(upstream, ids, rows, kind):
    wide = tf.cast(tf.reshape(upstream, (-1, upstream.shape[-1])), tf.float32)  # bfloat16 cannot count to 257
    return tf.cast(tf.math.unsorted_segment_sum(wide, tf.reshape(ids, (-1,)), rows), kind)


def take_positions(hidden, positions):
    """Returns what stands at the positions."""
    return keras.ops.take_along_axis(hidden, positions[:, :, None], axis=1)


def write_slice(cache, value, position):
    """Returns the cache with `value` in it."""
    value = tf.cast(value, cache.dtype)
    if len(getattr(position, "shape", ())):
        places = tf.stack([tf.range(cache.shape[0]), position], axis=1)
        return tf.tensor_scatter_nd_update(cache, places, value[:, 0])
    return keras.ops.slice_update(cache, (0, position, 0), value)


def fill_rows(variable, parts):
    """Fills the variable in place.

    This calls the operation behind `variable[start:end].assign`, which itself reads the variable first: while what
    was read lives, writing copies the whole.
    """
    start = 0
    for part in parts:
        rows = tf.cast(part, variable.value.dtype)
        tf.raw_ops.ResourceStridedSliceAssign(
            ref=variable.value.handle, begin=[start], end=[start + len(part)], strides=[1], value=rows
        )
        start += len(part)


def boundary(hidden):
    """Returns `hidden`: XLA compiles a step whole."""
    return hidden


def is_symbolic(tensor, axis: int) -> bool:
    """Returns False: a length that is not known is None, and a tensor where it is asked for."""
    return False
