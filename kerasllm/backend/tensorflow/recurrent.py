"""Recurrences on TensorFlow: a loop over the steps, which XLA compiles, with a gradient of its own.

The gradient of the kernel is one product over all steps, where TensorFlow's own would add a product to the whole
kernel's gradient at each step.
"""

from functools import partial

import keras
import tensorflow as tf

from kerasllm.backend import recurrent_cells as cells
from kerasllm.backend.tensorflow.gradients import custom_gradient
from kerasllm.backend.tensorflow.ops import dense

_FUNCTIONS = cells.Functions(
    sigmoid=tf.sigmoid,
    tanh=tf.tanh,
    relu=tf.nn.relu,
    concatenate=partial(tf.concat, axis=-1),
    is_positive=lambda values: tf.cast(values > 0, values.dtype),
)


def recurrence(
    cell: str,
    inputs,
    state,
    input_kernel,
    recurrent_kernel,
    input_bias,
    recurrent_bias,
    mask=None,
    reverse: bool = False,
):
    """Returns the outputs and the last state."""
    length, rows = keras.ops.shape(inputs)[:2]
    input_bias, recurrent_bias = map(keras.ops.convert_to_tensor, (input_bias, recurrent_bias))
    is_gru = cell == "gru"
    bias = input_bias if is_gru else input_bias + recurrent_bias
    projected = dense(tf.reshape(inputs, (-1, inputs.shape[-1])), input_kernel, bias, transposed=True)
    projected = tf.cast(tf.reshape(projected, (length, rows, projected.shape[-1])), tf.float32)
    kernel = tf.cast(keras.ops.convert_to_tensor(recurrent_kernel), inputs.dtype)
    tensors = [projected, kernel, *(tf.cast(part, tf.float32) for part in state)]
    if is_gru:
        tensors.append(tf.cast(recurrent_bias, tf.float32))
    mask = None if mask is None else mask[..., None]
    outputs, *last = _with_gradient(cell, length, reverse, mask)(*tensors)
    return tf.cast(outputs, inputs.dtype), tuple(last)


def _with_gradient(cell: str, length, reverse: bool, mask):
    """Returns the recurrence as a function of the projected inputs, the kernel, the state and a GRU's bias."""
    count = cells.STATES[cell]

    @custom_gradient
    def run(projected, kernel, *others):
        state, bias = others[:count], others[count:]
        turned = tf.transpose(kernel)

        def step(place, before):
            recurrent = tf.cast(tf.matmul(tf.cast(before[0], kernel.dtype), turned), tf.float32)
            recurrent = recurrent + bias[0] if bias else recurrent
            after, kept = cells.advance(_FUNCTIONS, cell, projected[place], recurrent, before)
            if mask is not None:
                after = tuple(tf.where(mask[place], *pair) for pair in zip(after, before, strict=True))
            return after, (*after, *kept)

        last, (*states, kept) = _loop(step, state, length, count + 1, reverse)

        def gradient(of_outputs, *of_last):
            before = [
                tf.concat([after[1:], first[None]] if reverse else [first[None], after[:-1]], axis=0)
                for first, after in zip(state, states, strict=True)
            ]

            def back(place, slopes):
                slopes = (slopes[0] + of_outputs[place], *slopes[1:])
                real = slopes
                if mask is not None:
                    real = tuple(tf.where(mask[place], slope, 0.0) for slope in slopes)
                earlier = tuple(part[place] for part in before)
                own, recurrent, direct = cells.retreat(
                    _FUNCTIONS, cell, real, (kept[place],), earlier, states[-1][place]
                )
                through = own if recurrent is None else recurrent
                of_hidden = tf.cast(tf.matmul(tf.cast(through, kernel.dtype), kernel), tf.float32)
                found = (of_hidden if direct[0] is None else of_hidden + direct[0], *direct[1:])
                if mask is not None:
                    found = tuple(
                        new + tf.where(mask[place], 0.0, slope)
                        for new, slope in zip(found, slopes, strict=True)
                    )
                return found, (own,) if recurrent is None else (own, recurrent)

            of_state, found = _loop(back, tuple(of_last), length, 2 if cell == "gru" else 1, not reverse)
            flat = tf.reshape(found[-1], (-1, found[-1].shape[-1]))
            hidden = tf.reshape(before[0], (-1, before[0].shape[-1]))
            of_kernel = tf.matmul(
                tf.cast(flat, kernel.dtype), tf.cast(hidden, kernel.dtype), transpose_a=True
            )
            of_bias = [tf.reduce_sum(flat, axis=0)] if bias else []
            return found[0], of_kernel, *of_state, *of_bias

        return (states[0], *last), gradient

    return run


def _loop(step, state, length, kept: int, reverse: bool):
    """Returns the last state of a loop over places, and each of what `step` returns beside the state, stacked."""
    arrays = tuple(tf.TensorArray(tf.float32, size=length) for _ in range(kept))

    def body(count, state, arrays):
        place = length - 1 - count if reverse else count
        state, values = step(place, state)
        written = tuple(array.write(place, value) for array, value in zip(arrays, values, strict=True))
        return count + 1, state, written

    _, state, arrays = tf.while_loop(
        lambda count, *_: count < length,
        body,
        (0, tuple(state), arrays),
        maximum_iterations=length,
        parallel_iterations=1,
    )
    return state, [array.stack() for array in arrays]
