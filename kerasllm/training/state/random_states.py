"""Saves and restores the states of the global random generators: Python's, NumPy's and the backend's.

kerasllm draws what matters from seed and step, but a user's own data set or an unseeded Dropout on PyTorch may not.
The seed generators of Keras layers are part of the model's state and are not handled here.
"""

import base64
import random
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kerasllm import backend


def get_random_states() -> dict[str, Any]:
    """Returns the states of all global generators in a form that JSON can hold."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = backend.get_random_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, [int(key) for key in keys], position, has_gauss, cached],
        keras.backend.backend(): None if state is None else base64.b64encode(state).decode(),
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Restores what `get_random_states` returned; the state of another backend's generator is ignored."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    state = states.get(keras.backend.backend())
    if state is not None:
        backend.set_random_state(base64.b64decode(state))


def check_random_states(states: Mapping[str, Any]) -> None:
    """Checks that `set_random_states` accepts these states, and changes nothing.

    Raises:
        ValueError, TypeError, KeyError, RuntimeError: a generator refuses its state.
    """
    before = get_random_states()
    try:
        set_random_states(states)
    finally:
        set_random_states(before)
