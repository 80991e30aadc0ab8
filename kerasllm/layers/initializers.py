"""Initial values drawn with NumPy, keyed by a seed and the variable's name.

Keras' own initializers draw with the backend's generator, so the same seed gives three different models.
Philox (Salmon et al. 2011) is counter-based: a key of (seed, name) gives every variable its own stream,
whatever the order of construction and whatever the backend.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import keras
import numpy as np


def default_seed() -> int:
    """Returns a seed from Python's generator, which `keras.utils.set_random_seed` sets alike on every backend."""
    return random.randrange(2**31)


def name_key(seed: int, name: str) -> int:
    """Returns a 128-bit key for the stream of `name` under `seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")


_undrawn: ContextVar[dict[str, keras.initializers.Initializer] | None] = ContextVar("undrawn", default=None)


@contextmanager
def drawing_later() -> Iterator[dict[str, keras.initializers.Initializer]]:
    """Within it keyed initializers give zeros: most weights are about to be read from a file.

    Yields:
        The initializers that were asked, by their keys, to draw what the file does not have.
    """
    undrawn: dict[str, keras.initializers.Initializer] = {}
    token = _undrawn.set(undrawn)
    try:
        yield undrawn
    finally:
        _undrawn.reset(token)


def _put_off(initializer, shape, dtype):
    """Returns zeros within `drawing_later`, else None."""
    undrawn = _undrawn.get()
    if undrawn is None:
        return None
    undrawn[initializer.key] = initializer
    return keras.ops.zeros(shape, dtype=dtype)


@keras.saving.register_keras_serializable(package="kerasllm")
class KeyedNormal(keras.initializers.Initializer):
    """Normal values, the same on every backend.

    Args:
        standard_deviation: of the normal.
        seed: the model's seed.
        key: the variable's name within the model; (seed, key) names the stream.

    Reference: Radford et al. 2019 (released code of GPT-2).
    """

    def __init__(self, standard_deviation: float = 0.02, seed: int = 0, key: str = "") -> None:
        self.standard_deviation = standard_deviation
        self.seed = seed
        self.key = key

    def __call__(self, shape, dtype=None):
        """Returns values of `shape`, drawn in float32 and cast to `dtype`."""
        if (zeros := _put_off(self, shape, dtype)) is not None:
            return zeros
        generator = np.random.Generator(np.random.Philox(key=name_key(self.seed, self.key)))
        values = generator.standard_normal(shape, dtype=np.float32)
        values *= np.float32(self.standard_deviation)  # in place: a table may be the greater part of a model
        return keras.ops.convert_to_tensor(values, dtype=dtype)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"standard_deviation": self.standard_deviation, "seed": self.seed, "key": self.key}


@keras.saving.register_keras_serializable(package="kerasllm")
class KeyedTruncatedNormal(keras.initializers.Initializer):
    """Normal values cut at two standard deviations, the same on every backend.

    Args:
        standard_deviation: of the normal before it is cut.
        seed: the model's seed.
        key: the variable's name within the model; (seed, key) names the stream.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805 (released code, `initializer_range`).
    """

    def __init__(self, standard_deviation: float = 0.02, seed: int = 0, key: str = "") -> None:
        self.standard_deviation = standard_deviation
        self.seed = seed
        self.key = key

    def __call__(self, shape, dtype=None):
        """Returns values of `shape`, drawn in float32 and cast to `dtype`."""
        if (zeros := _put_off(self, shape, dtype)) is not None:
            return zeros
        generator = np.random.Generator(np.random.Philox(key=name_key(self.seed, self.key)))
        values = generator.standard_normal(shape, dtype=np.float32)
        outside = np.abs(values) > 2
        while outside.any():
            values[outside] = generator.standard_normal(int(outside.sum()), dtype=np.float32)
            outside = np.abs(values) > 2
        values *= np.float32(self.standard_deviation)  # in place: a table may be the greater part of a model
        return keras.ops.convert_to_tensor(values, dtype=dtype)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"standard_deviation": self.standard_deviation, "seed": self.seed, "key": self.key}


@keras.saving.register_keras_serializable(package="kerasllm")
class KeyedUniform(keras.initializers.Initializer):
    """Uniform values, the same on every backend.

    Args:
        bound: values lie between -bound and bound.
        seed: the model's seed.
        key: the variable's name within the model; (seed, key) names the stream.

    Reference: the initial values of `torch.nn.LSTM`, whose bound is 1 / sqrt(hidden_dim).
    """

    def __init__(self, bound: float = 0.1, seed: int = 0, key: str = "") -> None:
        self.bound = bound
        self.seed = seed
        self.key = key

    def __call__(self, shape, dtype=None):
        """Returns values of `shape`, drawn in float32 and cast to `dtype`."""
        if (zeros := _put_off(self, shape, dtype)) is not None:
            return zeros
        generator = np.random.Generator(np.random.Philox(key=name_key(self.seed, self.key)))
        values = (2 * generator.random(shape, dtype=np.float32) - 1) * np.float32(self.bound)
        return keras.ops.convert_to_tensor(values, dtype=dtype)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"bound": self.bound, "seed": self.seed, "key": self.key}
