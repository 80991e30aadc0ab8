"""The devices of a run: one, and one process."""

from contextlib import nullcontext

import keras
import numpy as np

from kerasllm import processes
from kerasllm.backend.undivided import assign as assign
from kerasllm.backend.undivided import differentiated as differentiated
from kerasllm.backend.undivided import divide as divide
from kerasllm.backend.undivided import reading as reading
from kerasllm.backend.undivided import shape as shape
from kerasllm.backend.undivided import stateless as stateless
from kerasllm.backend.undivided import total_weight as total_weight
from kerasllm.errors import InputError

sums_gradients = False


def join() -> tuple[int, int]:
    """Returns (0, 1).

    Raises:
        InputError: the process was started as one of several.
    """
    if processes.place()[1] > 1:
        raise InputError(
            "several processes need KERAS_BACKEND=jax or torch: TensorFlow's strategies refuse the compiled step, and "
            "without it Keras clips before the replicas' gradients are added up, so that the curve is another"
        )
    return 0, 1


def device_count() -> int:
    """Returns 1, as a run takes one device."""
    return 1


def distribute(sizes, rules):
    """Does nothing: there is one device."""


def gather(values):
    """Returns the array of the only process."""
    return np.asarray(values)[None]


def whole(value):
    """Returns the values."""
    return keras.ops.convert_to_numpy(value)


def pieces(variable):
    """Returns None."""


def share():
    """Returns the whole batch."""
    return 0, 1, 1


def rows_of_all(values):
    """Returns the rows, which are those of all."""
    return values


def reduced_step(model, train_step, *arguments):
    """Returns the step's results."""
    return train_step(*arguments)


def whole_batch(data, is_placed=False):
    """Returns a context that gives the batch."""
    return nullcontext(data)


def everywhere(outputs):
    """Returns the outputs."""
    return outputs
