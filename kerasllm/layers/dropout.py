"""Dropout whose mask is a hash of (seed, call number, element number): the same on every backend."""

import keras
from keras import ops

from kerasllm import backend


def dropout(inputs, rate: float, seed_generator: keras.random.SeedGenerator):
    """Returns `inputs` with a share `rate` of their elements zeroed and the others divided by 1 - rate.

    Args:
        inputs: floating, any shape.
        rate: in [0, 1); with 0, `inputs` come back and nothing is drawn.
        seed_generator: each call takes its next number, so that no two masks are alike.

    Reference: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.
    """
    if rate == 0:
        return inputs
    return backend.dropout(ops.convert_to_tensor(inputs), rate, seed_generator.next())


def add_dropout(hidden, branch, rate: float, seed_generator: keras.random.SeedGenerator):
    """Returns `hidden + dropout(branch)`."""
    if rate == 0:
        return hidden + branch
    return backend.add_dropout(hidden, branch, rate, seed_generator.next())
