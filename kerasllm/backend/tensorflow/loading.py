"""Small batches of a PyDataset as a `tf.data.Dataset`, several of which are fetched at once."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_BYTES = 2**20
_MOST = 16  # batches at once


def loading(batches: Any) -> Any:
    """Returns a data set of the same batches in their order, or `batches` itself unless they are small and alike.

    TensorFlow calls Python for each element of a generator, which takes most of a millisecond, in a thread that the
    training waits for. Here an element is several batches, which TensorFlow takes apart itself.
    """
    if getattr(batches, "shapes", 0) != 1 or not isinstance(batches, keras.utils.PyDataset):
        return batches
    if batches.workers > 1 or len(batches) < 2 or tf.distribute.has_strategy():
        return batches
    first, last = batches[0], batches[len(batches) - 1]
    arrays = keras.tree.flatten(first)
    if not all(isinstance(array, np.ndarray) for array in arrays):
        return batches
    if [array.shape for array in arrays] != [array.shape for array in keras.tree.flatten(last)]:
        return batches
    count = min(_BYTES // max(sum(array.nbytes for array in arrays), 1), _MOST, len(batches))
    if count < 2:
        return batches

    def blocks() -> Iterator[Any]:
        for start in range(0, len(batches), count):
            block = [batches[index] for index in range(start, min(start + count, len(batches)))]
            yield keras.tree.map_structure(lambda *parts: np.stack(parts), *block)

    signature = keras.tree.map_structure(
        lambda array: tf.TensorSpec((None, *array.shape), tf.as_dtype(array.dtype)), first
    )
    made = tf.data.Dataset.from_generator(blocks, output_signature=signature)
    single = made.prefetch(1).unbatch()
    return single.apply(tf.data.experimental.assert_cardinality(len(batches))).prefetch(tf.data.AUTOTUNE)
