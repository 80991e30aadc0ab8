"""The only place that imports jax, torch or tensorflow: one module a backend, the same names in each.

`engine` is the module of the chosen backend (`KERAS_BACKEND`); nothing of the others is imported.
"""

from importlib import import_module

from kerasllm.backend.choice import choose

name = choose()
engine = import_module(f"kerasllm.backend.{name}.ops")
_cross_entropy = import_module(f"kerasllm.backend.{name}.losses")
cross_entropy = _cross_entropy.cross_entropy
linear_cross_entropy = _cross_entropy.linear_cross_entropy
recall_hits = _cross_entropy.recall_hits
guarded_step = import_module(f"kerasllm.backend.{name}.guard").guarded_step
decoding = import_module(f"kerasllm.backend.{name}.decoding")

attend = engine.attend
attention = engine.attention
attention_scores = engine.attention_scores
boundary = engine.boundary
can_compile = engine.can_compile
compiled_step = engine.compiled_step
dense = engine.dense
drop = engine.drop
evaluation_step = engine.evaluation_step
fence = engine.fence
fill_rows = engine.fill_rows
fuse = engine.fuse
gelu = engine.gelu
layer_norm = engine.layer_norm
libraries = engine.libraries
make_train_function = engine.make_train_function
masked_softmax = engine.masked_softmax
matrix_product = engine.matrix_product
per_step_metrics = engine.per_step_metrics
recall_losses = engine.recall_losses
recorded_once = engine.recorded_once
remember_losses = engine.remember_losses
get_random_state = engine.get_random_state
set_random_state = engine.set_random_state
self_attention = engine.self_attention
split = engine.split
sum_and_norm = engine.sum_and_norm
take_rows = engine.take_rows
version = engine.version
write_slice = engine.write_slice
jit_compile = engine.jit_compile

__all__ = [
    "attend",
    "attention",
    "attention_scores",
    "boundary",
    "can_compile",
    "compiled_step",
    "cross_entropy",
    "decoding",
    "dense",
    "drop",
    "evaluation_step",
    "fence",
    "fill_rows",
    "fuse",
    "gelu",
    "get_random_state",
    "guarded_step",
    "jit_compile",
    "layer_norm",
    "libraries",
    "linear_cross_entropy",
    "make_train_function",
    "masked_softmax",
    "matrix_product",
    "name",
    "per_step_metrics",
    "recall_hits",
    "recall_losses",
    "recorded_once",
    "remember_losses",
    "self_attention",
    "set_random_state",
    "split",
    "sum_and_norm",
    "take_rows",
    "version",
    "write_slice",
]
