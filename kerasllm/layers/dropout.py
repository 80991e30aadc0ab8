"""Dropout whose mask is a hash of (seed, call number, element number): the same on every backend."""

from typing import Any

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


class CountsCalls:
    """Part of a layer with a `seed_generator`: the number of its calls so far is saved with the layer's weights.

    A model that is loaded goes on with other masks than those it has had, as it would without having been saved.
    """

    seed_generator: keras.random.SeedGenerator

    def save_own_variables(self, store: Any) -> None:
        """Adds the number of calls to what Keras saves of a layer."""
        super().save_own_variables(store)  # type: ignore[misc]
        store["dropout_calls"] = ops.convert_to_numpy(self.seed_generator.state[1])

    def load_own_variables(self, store: Any) -> None:
        """Reads what was saved; files of before have no number of calls."""
        weights = {key: store[key] for key in store.keys() if key != "dropout_calls"}  # noqa: SIM118
        super().load_own_variables(weights)  # type: ignore[misc]
        if "dropout_calls" in store.keys():  # noqa: SIM118
            state = self.seed_generator.state
            calls = ops.cast(store["dropout_calls"][()], state.dtype)
            state.assign(ops.stack([state[0], calls]))
