"""TensorFlow: plain operations for XLA, which on the CPU runs 1.3 to 1.45 times as fast as the graph executor."""

import math
from functools import cache, partial, wraps

import keras
import tensorflow as tf

from kerasllm.backend.tensorflow.fusion import compiled_step, fuse, is_fusing, make_train_function  # noqa: F401
from kerasllm.backend.tensorflow.gradients import custom_gradient

jit_compile = True


def version() -> str:
    """The backend's version."""
    return tf.__version__


def libraries() -> list[str]:
    """Packages beside TensorFlow that a training step computes with: none."""
    return []


def attention(query, key, value, mask=None, is_causal: bool = False):
    """Scaled dot-product attention, (batch, heads, length, head_dim) in and out; both first axes may be one.

    Args:
        query, key, value: the same floating type; the scores and the softmax are in float32.
        mask: boolean, broadcastable to (batch, heads, queries, keys), True where attention is allowed.
        is_causal: a query sees no later key.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.1.
    """
    probabilities = fuse(_probabilities, attention_scores(query, key), mask, is_causal=is_causal)
    return attend(probabilities, value)


def self_attention(query_key_value, num_heads: int, *settings) -> None:
    """Self-attention of (batch, length, 3 * hidden_dim), or None where its parts do as well: always."""


def attend(probabilities, value):
    """The values (batch, heads, keys, head_dim) in sums weighted by (batch, heads, queries, keys)."""
    return tf.matmul(probabilities, value)


def attention_scores(query, key):
    """The scaled scores (batch, heads, queries, keys)."""
    return tf.matmul(query * tf.cast(query.shape[-1] ** -0.5, query.dtype), key, transpose_b=True)


def _probabilities(scores, mask, is_causal):
    return tf.cast(masked_softmax(scores, mask, is_causal), scores.dtype)


def masked_softmax(scores, mask=None, is_causal: bool = False):
    """The softmax of the masked scores, float32 (batch, heads, queries, keys)."""
    scores = tf.cast(scores, tf.float32)
    if is_causal:
        queries, keys = tf.shape(scores)[-2], tf.shape(scores)[-1]
        allowed = tf.range(keys)[None, :] <= tf.range(queries)[:, None] + (keys - queries)
        scores = tf.where(allowed, scores, tf.float32.min)
    if mask is not None:
        scores = tf.where(mask, scores, tf.float32.min)
    return tf.nn.softmax(scores, axis=-1)


def recorded_once(function):
    """A function of a shape and tensors, recorded once for each shape: in a graph that calls it, it is one operation.

    Recording is most of what a first step takes that XLA does not compile, half a millisecond an operation.
    """

    @cache  # one each: TensorFlow warns of a function that it records again and again
    def program(shape):
        return tf.function(partial(function, shape), autograph=False)

    @wraps(function)
    def call(shape, *tensors):
        known = all(isinstance(length, int) for length in shape)
        return (program(tuple(shape)) if known else partial(function, shape))(*tensors)

    return call


def drop(inputs, draws, least: int, kept: float):
    """`inputs` / `kept` where the `draws`, int32 from 0 on and of the same shape, are `least` or more; elsewhere 0."""
    wide = tf.cast(inputs, tf.float32)
    return tf.cast(tf.where(draws >= least, wide / kept, 0.0), inputs.dtype)


def gelu(inputs, approximate: bool = False):
    """The exact one (erf), or its approximation by tanh, in float32 in between.

    Written out: TensorFlow's own takes a cube for a power, and the complement of the error function, which costs more.

    Reference: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415.
    """
    wide = tf.cast(inputs, tf.float32)
    if approximate:
        share = 1.0 + tf.tanh((2 / math.pi) ** 0.5 * wide * (1.0 + 0.044715 * (wide * wide)))
    else:
        share = 1.0 + tf.math.erf(wide * 2**-0.5)
    return tf.cast(0.5 * wide * share, inputs.dtype)


def sum_and_norm(hidden, branch, scale, bias, epsilon: float, rate: float, seed_generator) -> None:
    """A residual sum and its `layer_norm`, or None where its parts do as well: always."""


def layer_norm(inputs, scale, bias, epsilon: float):
    """Layer normalisation over the last axis, computed in float32; without a bias where that is None.

    Reference: Ba et al. 2016, https://arxiv.org/abs/1607.06450.
    """
    scale = keras.ops.convert_to_tensor(scale)
    bias = tf.zeros_like(scale) if bias is None else keras.ops.convert_to_tensor(bias)
    return fuse(_layer_norm_of_part if is_fusing() else _layer_norm, inputs, scale, bias, epsilon=epsilon)


def _layer_norm(inputs, scale, bias, epsilon):
    scale, bias = tf.cast(scale, tf.float32), tf.cast(bias, tf.float32)
    hidden = tf.cast(inputs, tf.float32)
    centred = hidden - tf.reduce_mean(hidden, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return tf.cast(centred * tf.math.rsqrt(variance + epsilon) * scale + bias, inputs.dtype)


def _layer_norm_of_part(inputs, scale, bias, epsilon):
    """The same for a program of its own on a CPU, where XLA sums four times as fast by products with ones."""
    return _normalizing(epsilon)(inputs, tf.cast(scale, tf.float32), tf.cast(bias, tf.float32))


@cache
def _normalizing(epsilon: float):
    """The normalisation, and its gradient written out."""

    def parts(inputs):
        hidden = tf.cast(inputs, tf.float32)
        centred = hidden - _row_means(hidden)
        return centred, tf.math.rsqrt(_row_means(tf.square(centred)) + epsilon)

    @custom_gradient
    def normalize(inputs, scale, bias):
        def gradient(upstream):
            centred, factor = parts(inputs)
            normal, slope = centred * factor, tf.cast(upstream, tf.float32)
            of_scale, of_bias = _column_sums(slope * normal), _column_sums(slope)
            slope *= scale
            of_inputs = factor * (slope - _row_means(slope) - normal * _row_means(slope * normal))
            return tf.cast(of_inputs, inputs.dtype), of_scale, of_bias

        centred, factor = parts(inputs)
        return tf.cast(centred * factor * scale + bias, inputs.dtype), gradient

    return normalize


def _row_means(matrix):
    """The means over the last axis, which stays, of length one."""
    width = matrix.shape[-1]
    return tf.tensordot(matrix, tf.fill((width, 1), 1.0 / width), 1)


def _column_sums(matrix):
    """The sums over all axes but the last."""
    rows = tf.reshape(matrix, (-1, matrix.shape[-1]))
    return tf.matmul(tf.ones((1, tf.shape(rows)[0])), rows)[0]


def dense(inputs, kernel, bias=None, transposed: bool = False):
    """(rows, in) @ kernel (in, out), plus bias (out,) if there is one; Keras variables or tensors.

    A `transposed` kernel is (out, in).
    """
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
    """`left @ right`, by the faster of what a training step may use: not by XLA."""
    return tf.matmul(left, right)


def split(inputs, sizes: tuple[int, ...], axis: int):
    """Parts of `inputs`, `sizes` wide each, along an axis."""
    return tf.split(inputs, sizes, axis=axis)


def take_rows(table, ids):
    """The rows of a table (rows, hidden_dim) at `ids`, any shape; a Keras variable or tensor.

    TensorFlow's own gradient of a gather lists the rows, one entry for each id. Keras' Adam squares the
    entries one by one, and clipping takes their norm, so that a token which occurs twice in a batch would get
    the sum of squares for the square of the sum. This gradient is a table, as on the other backends.
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

    return take(value)


def _table_of(upstream, ids, rows, kind):
    wide = tf.cast(tf.reshape(upstream, (-1, upstream.shape[-1])), tf.float32)  # bfloat16 cannot count to 257
    return tf.cast(tf.math.unsorted_segment_sum(wide, tf.reshape(ids, (-1,)), rows), kind)


def write_slice(cache, value, position):
    """The cache (batch * heads, capacity, head_dim) with `value` written at column `position` and after."""
    return keras.ops.slice_update(cache, (0, position, 0), tf.cast(value, cache.dtype))


def fill_rows(variable, parts):
    """Fills a Keras variable with its rows, NumPy parts of them one after another, in place.

    By the operation behind `variable[start:end].assign`, which reads the variable first: while what was read
    lives, writing copies the whole.
    """
    start = 0
    for part in parts:
        rows = tf.cast(part, variable.value.dtype)
        tf.raw_ops.ResourceStridedSliceAssign(
            ref=variable.value.handle, begin=[start], end=[start + len(part)], strides=[1], value=rows
        )
        start += len(part)


def fence(inputs):
    """Nothing: only XLA on JAX's CPU needs it."""
    return inputs


def boundary(hidden):
    """`hidden`: XLA compiles a step whole."""
    return hidden


def per_step_metrics(model, train_step, data):
    """Runs `train_step` with every metric reset first: the logs are this batch's, not a running mean.

    In the one step that is traced, too, in which Keras first looks at the metrics it was given and makes its own:
    those begin anew where they are made, see `compiled_step`.
    """
    model.reset_metrics()
    known = model._compile_metrics
    if known is not None and not known.built:
        for metric in keras.tree.flatten((known._user_metrics, known._user_weighted_metrics)):
            if isinstance(metric, keras.metrics.Metric):
                metric.reset_state()
    return train_step(data)


def can_compile() -> bool:
    """Whether `jit_compile=True` is possible here: always."""
    return True


def evaluation_step(model, test_step, *arguments):
    """Keras' own step."""
    return test_step(*arguments)


def get_random_state() -> bytes | None:
    """The state of TensorFlow's global generator, where one was used; kerasllm's layers use none."""
    return None


def set_random_state(state: bytes | None) -> None:
    """Nothing to restore, see `get_random_state`."""


def remember_losses(labels, logits, losses) -> None:
    """Nothing to do: within a compiled step XLA merges equal expressions."""


def recall_losses(labels, logits) -> None:
    """Nothing is kept, see `remember_losses`."""
