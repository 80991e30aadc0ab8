"""The only place that imports jax, torch or tensorflow: one module a backend, the same names in each.

`engine` is the module of the chosen backend (`KERAS_BACKEND`); nothing of the others is imported.
"""

from importlib import import_module

import keras

_MODULES = {"jax": "jax_engine", "torch": "torch_engine", "tensorflow": "tensorflow_engine"}

name = keras.backend.backend()
if name not in _MODULES:
    raise ImportError(
        f"kerasllm runs on the backends {', '.join(_MODULES)}; KERAS_BACKEND (or ~/.keras/keras.json) says {name!r}"
    )
engine = import_module(f"kerasllm.backend.{_MODULES[name]}")

attention = engine.attention
attention_probabilities = engine.attention_probabilities
fence = engine.fence
layer_norm = engine.layer_norm
per_step_metrics = engine.per_step_metrics
recall_losses = engine.recall_losses
remember_losses = engine.remember_losses
get_random_state = engine.get_random_state
set_random_state = engine.set_random_state
version = engine.version
jit_compile = engine.jit_compile

__all__ = [
    "attention",
    "attention_probabilities",
    "fence",
    "get_random_state",
    "jit_compile",
    "layer_norm",
    "name",
    "per_step_metrics",
    "recall_losses",
    "remember_losses",
    "set_random_state",
    "version",
]
