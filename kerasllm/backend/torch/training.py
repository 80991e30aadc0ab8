"""Training steps on PyTorch, in which forward pass, loss and backward pass are one compiled function of the weights.

`torch.compile` cannot follow Keras' layers: it stops some twenty times a step. So the step is first recorded, operator
by operator (`make_fx`, through autograd), with the values of all variables as arguments; what has been recorded knows
nothing of Keras and compiles whole. Clipping and update follow outside, by Keras' optimizer.
"""

import shutil
import sys
import sysconfig
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from kerasllm.backend.torch.parts import boundary, compiled_in_parts
from kerasllm.backend.torch.products import recording

jit_compile = False  # compilation takes four to twenty seconds: see `kerasllm.training.hardware.compilation`


def version() -> str:
    """Returns PyTorch's version."""
    return torch.__version__


def libraries() -> list[str]:
    """Returns no packages."""
    return []


def can_compile() -> bool:
    """Returns whether there is a GPU, or what compilation for a CPU needs: a C++ compiler and Python's headers."""
    headers = Path(sysconfig.get_paths()["include"], "Python.h").exists()
    return torch.cuda.is_available() or (headers and any(map(shutil.which, ("g++", "c++", "clang++"))))


def make_train_function(model, make):
    """Calls `make()`."""
    make()


def compiled_step(model, train_step, *arguments):
    """Returns the step's results; the step is compiled if the model was compiled with `jit_compile=True`.

    The function is made anew for each shape of the data, but not for a last batch of fewer rows. Where recording fails,
    which a subclass that looks at the values of tensors may bring about, one line says so and Keras' own step is
    taken from then on.
    """
    (data,) = arguments
    data = _on_device(data)
    optimizer = model.optimizer
    if not model.jit_compile or model.run_eagerly or optimizer is None or not model.trainable_weights:
        return train_step(data)
    if getattr(model, "training_parts", 1) > 1:
        return train_step(
            data
        )  # a compiler would keep the parts' inner values instead of computing them again
    if optimizer.loss_scale_factor or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return train_step(data)  # the gradients to be recorded would be those of another loss
    gradients = _gradients_of(model)
    if gradients.failed:
        return train_step(data)
    unpacked = pytree.tree_map(_tensor, keras.utils.unpack_x_y_sample_weight(data))
    if gradients.is_rest(unpacked):
        return train_step(data)
    try:
        loss, found, logs = gradients(unpacked)
    except Exception as error:
        gradients.failed = True
        print(f"this model is trained without compilation ({_first_line(error)})", file=sys.stderr)
        return train_step(data)
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    optimizer.scale_loss(loss)  # for those who look at it here, as at Keras' own step
    with torch.no_grad():
        optimizer.apply(found, model.trainable_variables)
    return logs


def _first_line(error: BaseException) -> str:
    """Returns what kind of error it is, and the first line of its text."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:200]


def in_parts(function, weights, states, parts):
    """Returns the results for the parts of a batch; each part is computed again for the gradient."""
    states = [
        state.clone() for state in states
    ]  # the backward pass begins with them, whatever is assigned by then
    results = []
    for part in zip(*parts.values(), strict=True):
        given = dict(zip(parts, part, strict=True))
        result, states = checkpoint(
            function, weights, states, given, use_reentrant=False, preserve_rng_state=False
        )
        results.append(result)
    return torch.stack(results), states


def evaluation_step(model, test_step, *arguments):
    """Returns Keras' own step's results, of data where the weights are."""
    return test_step(*map(_on_device, arguments))


def per_step_metrics(model, train_step, *arguments):
    """Returns the step's results after a reset of the metrics."""
    model.reset_metrics()
    return train_step(*arguments)


def check_saved_model(path, inputs):
    """Checks nothing of a SavedModel, which Keras does not write with PyTorch."""


def get_random_state() -> bytes | None:
    """Returns the states of PyTorch's global generators, of the CPU and, where there is one, of the GPU."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states).numpy().tobytes()


def set_random_state(state: bytes | None) -> None:
    """Restores the states of the generators that there are.

    The state of a GPU is left out where there is none; from a machine without one, the GPU's stays as it is.
    """
    if state is None:
        return
    whole = torch.frombuffer(bytearray(state), dtype=torch.uint8)
    size = len(torch.get_rng_state())
    torch.set_rng_state(whole[:size])
    if len(whole) > size and torch.cuda.is_available():
        torch.cuda.set_rng_state(whole[size:])


def _on_device(data):
    """Returns the tensors of `data` on the device of Keras' variables: PyTorch's DataLoader makes them on the CPU."""
    return pytree.tree_map(_tensor, data) if torch.cuda.is_available() else data


def _tensor(value):
    return None if value is None else keras.ops.convert_to_tensor(value)


class _Gradients:
    """Loss, gradients and logs of a model for a batch; the variables that a step changes are changed."""

    def __init__(self, model) -> None:
        self._model: Callable[[], Any] = weakref.ref(model)
        self._programs: dict[Any, Any] = {}
        self._known: set[Any] = set()  # the shapes of their batches
        self._rows: set[int] = set()
        self.failed = False

    def is_rest(self, data) -> bool:
        """Returns whether there is a function for such a batch, but of more rows."""
        form, kinds = shapes = _shapes(data)
        rows = {shape[0] for shape, *_ in filter(None, kinds) if shape}
        if shapes in self._known or len(rows) != 1:
            return False
        (count,) = rows
        return any((form, _with_rows(kinds, more)) in self._known for more in self._rows if more > count)

    @torch.no_grad()
    def __call__(self, data):
        model = self._model()
        trainable = model.trainable_variables
        others = [*model.non_trainable_variables, *model.metrics_variables]
        leaves, form = pytree.tree_flatten(data)
        shapes = _shapes(data)
        key = (*shapes, len(trainable), len(others))
        values = [variable.value.detach() for variable in (*trainable, *others)]
        arguments = (*values, *(leaf for leaf in leaves if leaf is not None))
        if key not in self._programs:
            self._programs[key] = _compiled(model, trainable, others, (form, shapes[1]), arguments)
            self._known.add(shapes)
            self._rows |= {shape[0] for shape, *_ in filter(None, shapes[1]) if shape}
        program, changed, form_of_results = self._programs[key]
        results, new_values = pytree.tree_unflatten(program(*arguments), form_of_results)
        for index, value in zip(changed, new_values, strict=True):
            others[index].value.copy_(value)
        return results


def _shapes(data):
    """Returns the form of the data, and of each of its tensors shape, type and device."""
    leaves, form = pytree.tree_flatten(data)
    return str(form), tuple(
        None if leaf is None else (leaf.shape, leaf.dtype, leaf.device) for leaf in leaves
    )


def _with_rows(kinds, rows: int):
    return tuple(
        (torch.Size((rows, *kind[0][1:])), *kind[1:]) if kind and kind[0] else kind for kind in kinds
    )


_known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _gradients_of(model) -> _Gradients:
    """Returns the model's own, made anew where it was compiled anew."""
    compiled_with = (model.optimizer, getattr(model, "_compile_loss", None))
    known = _known.get(model)
    if known is None or any(one is not other for one, other in zip(known[0], compiled_with, strict=True)):
        known = (compiled_with, _Gradients(model))
        _known[model] = known
    return known[1]


def _compiled(model, trainable, others, data, arguments):
    """Returns the program, which of `others` it changes, and the form of its results."""
    form, kinds = data
    changed: list[int] = []
    forms: list[Any] = []

    def record(*arguments):
        values = [value.detach().requires_grad_() for value in arguments[: len(trainable)]]
        states = arguments[len(trainable) : len(trainable) + len(others)]
        given = iter(arguments[len(trainable) + len(others) :])
        leaves = [None if kind is None else next(given) for kind in kinds]
        inputs, labels, weights = pytree.tree_unflatten(leaves, form)
        with torch.enable_grad(), keras.StatelessScope(collect_losses=True) as scope:
            for variable, value in zip((*trainable, *others), (*values, *states), strict=True):
                scope.add_update((variable, value))
            loss, logs = _loss_and_logs(model, inputs, labels, weights)
            if scope.losses:
                raise ValueError("layers add losses of their own")
            gradients = torch.autograd.grad(boundary(loss), values, allow_unused=True)
        after = [scope.get_current_value(variable) for variable in others]
        changed[:] = [
            index for index, (new, old) in enumerate(zip(after, states, strict=True)) if new is not old
        ]
        found = [
            torch.zeros_like(value) if gradient is None else gradient.contiguous()
            for value, gradient in zip(values, gradients, strict=True)
        ]
        results = pytree.tree_map(lambda tensor: tensor.detach(), (loss, found, logs))
        flat, form_of_results = pytree.tree_flatten((results, [after[index].detach() for index in changed]))
        forms[:] = [form_of_results]
        return flat

    return _program(record, arguments), list(changed), forms[0]


def _program(record, arguments):
    """Returns the recorded function, compiled."""
    from kerasllm.backend.torch import compiler  # which loads PyTorch's compiler, in two seconds

    on_cpu = all(argument.device.type == "cpu" for argument in arguments)
    with compiler.short_cuts() if on_cpu else nullcontext():
        with recording():  # shapes alone are computed: no second step's memory, nor its time
            make = make_fx(
                record, compiler.decompositions(), tracing_mode="fake", _allow_non_fake_inputs=True
            )
            graph = make(*arguments)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return compiled_in_parts(graph, compiler.by_inductor)


def _loss_and_logs(model, inputs, labels, weights):
    """Returns what Keras' own step finds before it differentiates, and after."""
    outputs = model(inputs, training=True)
    loss = model._compute_loss(x=inputs, y=labels, y_pred=outputs, sample_weight=weights, training=True)
    rows = next(leaf for leaf in pytree.tree_leaves(inputs) if leaf is not None).shape[0]
    model._loss_tracker.update_state(loss.detach(), sample_weight=rows)
    return loss, model.compute_metrics(inputs, labels, outputs, sample_weight=weights)
