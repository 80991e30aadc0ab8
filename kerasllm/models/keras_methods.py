"""Keras' own methods for the weights of a model, which may be divided among processes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kerasllm import backend, processes
from kerasllm.errors import InputError


class KerasMethods(keras.Model):
    """A model whose weights are whole arrays to its user, whatever part of them its process holds.

    Of weights that `kerasllm.distribute` divides among processes of PyTorch, all processes call these methods, as they
    call `fit`.
    """

    def get_weights(self) -> list[np.ndarray]:
        """Returns the values of all weights as arrays, in the order of `weights`."""
        return [np.asarray(backend.whole(variable)) for variable in self.weights]

    def set_weights(self, weights: Any) -> None:
        """Gives all weights their values, arrays in the order of `weights`."""
        if not self._holds_parts():
            super().set_weights(weights)
            return
        weights = list(weights)
        shapes = [backend.shape(variable) for variable in self.weights]
        if [np.shape(values) for values in weights] != shapes:
            raise InputError(f"set_weights takes {len(shapes)} arrays of the shapes that get_weights gives")
        for variable, values in zip(self.weights, weights, strict=True):
            backend.assign(variable, values)

    def save(self, *args: Any, **settings: Any) -> None:
        """Saves the model as Keras does.

        Raises:
            InputError: this process holds a part of the weights.
        """
        self._check_whole("save")
        super().save(*args, **settings)

    def save_weights(self, *args: Any, **settings: Any) -> None:
        """Saves the weights as Keras does.

        Raises:
            InputError: this process holds a part of the weights.
        """
        self._check_whole("save_weights")
        super().save_weights(*args, **settings)

    def load_weights(self, *args: Any, **settings: Any) -> None:
        """Loads weights that `save_weights` has saved.

        Raises:
            InputError: this process holds a part of the weights.
        """
        self._check_whole("load_weights")
        super().load_weights(*args, **settings)

    def quantize(self, mode: Any = None, config: Any = None, **kwargs: Any) -> None:
        """Refuses: the layers multiply with the weights themselves, and have no quantized products.

        Raises:
            kerasllm.errors.InputError: always.
        """
        asked = mode or type(config).__name__
        raise InputError(
            f"quantize({asked!r}): the layers of {type(self).__name__} have no quantized form; for less memory "
            "make the model with dtype='bfloat16'"
        )

    def _holds_parts(self) -> bool:
        return any(backend.pieces(variable) is not None for variable in self.weights)

    def _check_whole(self, method: str) -> None:
        if self._holds_parts():
            raise InputError(
                f"{method} is for whole weights, and each of {processes.place()[1]} processes holds a part of these: "
                "call save_pretrained in all processes, which gathers them, or from_pretrained before fit divides them"
            )
