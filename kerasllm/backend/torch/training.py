"""Training steps on PyTorch: Keras' own, or compiled ones, see `recorded`."""

import shutil
import sys
import sysconfig
import weakref
from pathlib import Path

import keras
import torch
from torch.utils import _pytree as pytree

from kerasllm.backend.gradient_watch import can_watch
from kerasllm.backend.torch.distribution import device_count
from kerasllm.backend.torch.loading import loading  # noqa: F401
from kerasllm.backend.torch.recorded import RecordedSteps, loss_and_logs
from kerasllm.backend.torch.sharding import (
    differentiated,
    is_divided,
    reading,
    refuse_added_losses,
    step_of,
)

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
    """Calls `make()`; the model's variables are looked up again, of which there may be others since the last `fit`."""
    if model in _known:
        _known[model][1].forget_variables()
    make_function(model, "train_function", make)


def make_function(model, name, make):
    """Calls `make()`, and has the function that it makes take the several batches of `steps_per_execution` in turn.

    Keras' own function refuses them. What it returns is joined where it is predictions, else that of the last batch.
    """
    known, count = getattr(model, name), model.steps_per_execution
    model.steps_per_execution = 1
    try:
        make()
    finally:
        model.steps_per_execution = count
    one = getattr(model, name)
    if count == 1 or one is known:
        return

    def several(batches):
        results = [one([batch]) for batch in batches]
        if name != "predict_function":
            return results[-1]
        return pytree.tree_map(lambda *parts: torch.cat(parts), *results)

    setattr(model, name, several)


def whole_step(model, train_step, *arguments):
    """Returns the step's results, with forward and backward pass, metrics, guard and update compiled where they can be.

    It is for a model with `jit_compile=True` and an optimizer of Keras'. `compiled_step` says when a step is not
    compiled; and where the update alone cannot be, `train_step` calls it.
    """
    (data,) = arguments
    steps = None if device_count() > 1 else _recorded_steps(model)  # gradients are added up before the update
    if steps is None:
        return train_step(data)
    guarded = model.catch_non_finite and can_watch(model)
    logs = _tried(steps, lambda batch: steps.whole(batch, model.per_step_metrics, guarded), data)
    return train_step(data) if logs is None else logs


def compiled_step(model, train_step, *arguments):
    """Returns the step's results; forward and backward pass are compiled if the model has `jit_compile=True`.

    The function is made anew for each shape of the data, but not for a last batch of fewer rows. Where recording fails,
    which a subclass that looks at the values of tensors may bring about, one line says so and Keras' own step is
    taken from then on.
    """
    (data,) = arguments
    data = _on_device(data)
    steps = _recorded_steps(model)
    found = None if steps is None else _tried(steps, steps.gradients, data)
    if found is None and not is_divided(model):
        return train_step(data)
    variables = differentiated(model.trainable_variables)
    if found is None:
        with step_of(model):
            loss, logs = loss_and_logs(model, *keras.utils.unpack_x_y_sample_weight(data))
            refuse_added_losses(model)
            values = [variable.value for variable in variables]
            loss = model.optimizer.scale_loss(loss)
            gradients = torch.autograd.grad(loss, values, allow_unused=True)
        logs = pytree.tree_map(torch.Tensor.detach, logs)
    else:
        loss, gradients, logs = found
        model.optimizer.scale_loss(loss)  # for those who look at it here, as at Keras' own step
    with torch.no_grad():
        model.optimizer.apply(list(gradients), variables)
    return logs


def _recorded_steps(model) -> RecordedSteps | None:
    """Returns the model's compiled steps; None if it is trained by Keras' own step."""
    optimizer = model.optimizer
    if not model.jit_compile or model.run_eagerly or optimizer is None:
        return None
    if getattr(model, "training_parts", 1) > 1:
        return None  # a compiler would keep the parts' inner values instead of computing them again
    if optimizer.loss_scale_factor or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return None  # the gradients to be recorded would be those of another loss
    compiled_with = (optimizer, getattr(model, "_compile_loss", None))
    known = _known.get(model)
    if known is None or any(one is not other for one, other in zip(known[0], compiled_with, strict=True)):
        known = _known[model] = (compiled_with, RecordedSteps(model))
    steps = known[1]
    return None if steps.failed or not steps.trains() else steps


_known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _tried(steps, step, data):
    """Returns the result of a recorded step; None if it is not for such data, or for the first time cannot be made."""
    batch = steps.read(data)
    if batch is None:
        return None
    try:
        return step(batch)
    except Exception as error:
        steps.failed = True
        print(f"this model is trained without compilation ({_first_line(error)})", file=sys.stderr)
        return None


def _first_line(error: BaseException) -> str:
    """Returns what kind of error it is, and the first line of its text."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:200]


def in_parts(function, weights, states, parts):
    """Returns the results for the parts of a batch; each part is computed again for the gradient."""
    results = []
    for part in zip(*parts.values(), strict=True):
        given = dict(zip(parts, part, strict=True))
        result, states = recomputed(lambda *all, given=given: function(*all[:2], given), weights, states, [])
        results.append(result)
    return torch.stack(results), states


def recomputed(function, weights, states, inputs):
    """Returns the result and the new states."""
    states = [
        state.clone() for state in states
    ]  # the backward pass begins with them, whatever is assigned by then
    result, *after = _Recomputed.apply(function, len(weights), states, *weights, *inputs)
    return result, after


class _Recomputed(torch.autograd.Function):
    """A function that keeps its inputs alone; `checkpoint` kept the inner values, too, where Keras' layers compute."""

    @staticmethod
    def forward(ctx, function, count, states, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.given = function, count, states
        result, after = function(list(tensors[:count]), states, list(tensors[count:]))
        ctx.mark_non_differentiable(*after)
        return result, *after

    @staticmethod
    def backward(ctx, upstream, *_):
        function, count, states = ctx.given
        with torch.enable_grad():
            again = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            result, _ = function(again[:count], states, again[count:])
            gradients = torch.autograd.grad(result, again, upstream, allow_unused=True)
        return None, None, None, *gradients


def evaluation_step(model, test_step, *arguments):
    """Returns Keras' own step's results, of data where the weights are."""
    with reading(model):
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
