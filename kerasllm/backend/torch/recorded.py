"""Training steps on PyTorch as compiled functions of the weights, recorded operator by operator.

`torch.compile` cannot follow Keras' layers: it stops some twenty times a step. So the step is first recorded
(`make_fx`, through autograd), with the values of all variables as arguments; what has been recorded knows nothing of
Keras and compiles whole. One program gives the loss and the gradients, another changes the weights (`update`).
"""

import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import keras
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from kerasllm.backend.torch import sharding, update
from kerasllm.backend.torch.parts import boundary, by_boundaries, compiled_in_parts
from kerasllm.backend.torch.products import recording


class _Variables(NamedTuple):
    """The variables of a model that a step reads and changes."""

    trainable: list[Any]
    states: list[Any]  # not trained, such as the numbers of dropout's calls
    metrics: list[Any]
    tensors: list[torch.Tensor]  # of all of them, in this order
    optimizer: list[torch.Tensor]
    are_trained: list[bool]
    trained: tuple[int, ...]  # the places of `trainable` among the model's variables


class Batch(NamedTuple):
    """A batch as Keras gives it, its tensors, and their form and shapes."""

    data: Any
    tensors: list[torch.Tensor]
    shapes: Hashable


class _Program(NamedTuple):
    """A program for loss, gradients and logs, and for the new values of some states and metrics, by their places."""

    run: Callable[..., list[torch.Tensor]]
    named: Callable[[list[torch.Tensor]], Any]
    states: list[int]
    metrics: list[int]


class RecordedSteps:
    """The compiled steps of a model, made anew for each shape of its batches.

    Args:
        model: a compiled model, which is not kept alive.

    Attributes:
        failed: whether a step could not be recorded.
    """

    def __init__(self, model: Any) -> None:
        self._model: Callable[[], Any] = weakref.ref(model)
        self._programs: dict[Any, _Program] = {}
        self._updates: dict[Any, Callable[..., list[torch.Tensor]]] = {}
        self._updates_failed = False
        self._known: set[Any] = set()  # the shapes of batches
        self._rows: set[int] = set()
        self._variables: _Variables | None = None
        self.failed = False

    def forget_variables(self) -> None:
        """Looks up the model's variables again at the next step."""
        self._variables = None

    def trains(self) -> bool:
        """Returns whether there is anything to train."""
        return bool(self._bound().trainable)

    def read(self, data: Any) -> Batch | None:
        """Returns a batch as Keras gives it; None if there is a program for such a batch, but of more rows."""
        leaves: list[Any] = []
        form = _flat(data, leaves, self._bound().tensors[0].device)
        kinds = tuple([(leaf.shape, leaf.dtype) for leaf in leaves])
        batch = Batch(data, leaves, (form, kinds))
        if batch.shapes in self._known:
            return batch
        rows = {shape[0] for shape, _ in kinds if shape}
        if len(rows) == 1:
            (count,) = rows
            larger = (more for more in self._rows if more > count)
            if any((form, _with_rows(kinds, more)) in self._known for more in larger):
                return None
        return batch

    @torch.no_grad()
    def gradients(self, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor], dict[str, torch.Tensor]]:
        """Returns loss, gradients and logs for a batch; the states and metrics that a step changes are changed.

        Args:
            batch: inputs, labels and weights.
        """
        (loss, found, logs), states, metrics = self._computed(batch, fresh_metrics=False)
        for old, new in (*states, *metrics):
            old.copy_(new)
        return loss, found, logs

    @torch.no_grad()
    def whole(self, batch: Batch, fresh_metrics: bool, guarded: bool) -> dict[str, torch.Tensor] | None:
        """Returns the logs of a whole step; None, and nothing is changed, if the optimizer's update is no program.

        Args:
            batch: inputs, labels and weights.
            fresh_metrics: whether the metrics begin anew with this batch.
            guarded: whether a batch whose loss or gradient is not finite changes neither weights nor states; the logs
                then have `gradient_norm`.
        """
        optimizer = self._model().optimizer
        settings = None if self._updates_failed else update.settings_of(optimizer)
        if settings is None:
            return None
        (loss, found, logs), states, metrics = self._computed(batch, fresh_metrics)
        variables = self._bound()
        arguments = (loss, *found, *variables.tensors[: len(found)], *variables.optimizer)
        key = (guarded, variables.trained, settings)
        if key not in self._updates:
            try:
                program = update.compiled(optimizer, variables.trainable, guarded, arguments)
            except Exception:  # such as of an optimizer that looks at values
                self._updates_failed = True
                return None
            self._updates[key] = program
        results = self._updates[key](*arguments)
        for old, new in metrics:
            old.copy_(new)
        if not guarded:
            for old, new in states:
                old.copy_(new)
            return logs
        norm, is_good = results
        for old, new in states:
            old.copy_(torch.where(is_good, new, old))
        return {**logs, "gradient_norm": norm}

    def _computed(self, batch: Batch, fresh_metrics: bool) -> Any:
        """Returns loss, gradients and logs, and pairs of a tensor and its next value, of states and of metrics."""
        variables = self._bound()
        tensors, count = variables.tensors, len(variables.trainable)
        arguments = [*tensors, *batch.tensors]
        key = (batch.shapes, fresh_metrics, variables.trained, len(tensors))
        program = self._programs.get(key)
        if program is None:
            program = _recorded(self._model(), variables, batch, fresh_metrics)
            self._programs[key] = program
            self._known.add(batch.shapes)
            self._rows |= {tensor.shape[0] for tensor in batch.tensors if tensor.dim()}
        loss, *others = program.run(*arguments)
        logs = others[count:]
        news = [logs.pop() for _ in (*program.metrics, *program.states)]
        states = [(tensors[place], news.pop()) for place in program.states]
        metrics = [(tensors[place], news.pop()) for place in program.metrics]
        return (loss, others[:count], program.named(logs)), states, metrics

    def _bound(self) -> _Variables:
        """Returns the model's variables: those of the last step, unless one was frozen or freed since."""
        bound = self._variables
        if bound is not None:
            flags = [variable.trainable for variable in (*bound.trainable, *bound.states)]
            if flags == bound.are_trained:
                return bound
        model = self._model()
        trainable = sharding.differentiated(model.trainable_variables)
        states = sharding.differentiated(model.non_trainable_variables)
        if trainable and not model.optimizer.built:
            model.optimizer.build(trainable)
        metrics = model.metrics_variables
        places = {id(one): place for place, one in enumerate(sharding.differentiated(model.variables))}
        self._variables = _Variables(
            trainable,
            states,
            metrics,
            [variable.value for variable in (*trainable, *states, *metrics)],
            [variable.value for variable in model.optimizer.variables],
            [variable.trainable for variable in (*trainable, *states)],
            tuple(places[id(variable)] for variable in trainable),
        )
        return self._variables


def _flat(value: Any, leaves: list[Any], device: torch.device) -> Hashable:
    """Adds the tensors in nested data to `leaves`, on the device, and returns the form of the data."""
    if value is None:
        return None
    if isinstance(value, dict):
        return ("dict", *[(name, _flat(each, leaves, device)) for name, each in value.items()])
    if isinstance(value, list | tuple):
        return (type(value), *[_flat(each, leaves, device) for each in value])
    if not isinstance(value, torch.Tensor) or value.device != device:
        value = keras.ops.convert_to_tensor(value)
    leaves.append(value.contiguous())
    return "tensor"


def _nested(data: Any, leaves: Iterator[Any]) -> Any:
    """Returns data of the same form with other tensors, see `_flat`."""
    if data is None:
        return None
    if isinstance(data, dict):
        return {name: _nested(each, leaves) for name, each in data.items()}
    if isinstance(data, list | tuple):
        return type(data)([_nested(each, leaves) for each in data])
    return next(leaves)


def _with_rows(kinds: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    return tuple((torch.Size((rows, *shape[1:])) if shape else shape, dtype) for shape, dtype in kinds)


def _recorded(model: Any, variables: _Variables, batch: Batch, fresh_metrics: bool) -> _Program:
    """Returns the program of the forward and the backward pass."""
    owners = [*variables.trainable, *variables.states, *variables.metrics]
    count, metrics_from = len(variables.trainable), len(owners) - len(variables.metrics)
    changed: list[int] = []
    forms: list[Any] = []

    def record(*arguments: torch.Tensor) -> list[torch.Tensor]:
        values = [value.detach().requires_grad_() for value in arguments[:count]]
        states = [value.detach() for value in arguments[count : len(owners)]]
        data = _nested(batch.data, iter(arguments[len(owners) :]))
        with torch.enable_grad(), sharding.step_of(model, changes=False) as scope:
            for variable, value in zip(owners, (*values, *states), strict=True):
                scope.add_update((variable, value))
            if fresh_metrics:
                model.reset_metrics()
            loss, logs = loss_and_logs(model, *keras.utils.unpack_x_y_sample_weight(data))
            if scope.losses:
                raise ValueError("layers add losses of their own")
            gradients = torch.autograd.grad(boundary(loss), values, allow_unused=True)
        after = [scope.get_current_value(variable) for variable in owners[count:]]
        changed[:] = [
            place for place, (new, old) in enumerate(zip(after, states, strict=True), count) if new is not old
        ]
        found = [
            torch.zeros_like(value) if gradient is None else gradient.contiguous()
            for value, gradient in zip(values, gradients, strict=True)
        ]
        logged, form = pytree.tree_flatten(logs)
        forms[:] = [form]
        return [
            value.detach() for value in (loss, *found, *logged, *(after[place - count] for place in changed))
        ]

    run = compiled(record, [argument.detach() for argument in (*variables.tensors, *batch.tensors)])
    return _Program(
        run,
        _naming(forms[0]),
        [place for place in changed if place < metrics_from],
        [place for place in changed if place >= metrics_from],
    )


def _naming(form: Any) -> Callable[[list[Any]], Any]:
    """Returns a function from flat logs to logs of the given form."""
    names = pytree.tree_unflatten(list(range(form.num_leaves)), form)
    if isinstance(names, dict) and list(names.values()) == list(range(form.num_leaves)):
        return lambda values: dict(zip(names, values, strict=True))
    return lambda values: pytree.tree_unflatten(values, form)


def compiled(
    record: Callable[..., list[torch.Tensor]], arguments: list[torch.Tensor]
) -> Callable[..., list[torch.Tensor]]:
    """Returns the recorded function, compiled in parts.

    Args:
        record: a function of tensors that returns a list of tensors.
        arguments: its arguments, of which the shapes count.
    """
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
        return compiled_in_parts(graph, by_boundaries(graph), compiler.by_inductor)


def loss_and_logs(model: Any, inputs: Any, labels: Any, weights: Any) -> tuple[Any, Any]:
    """Returns what Keras' own step finds before it differentiates, and after."""
    outputs = model(inputs, training=True)
    loss = model._compute_loss(x=inputs, y=labels, y_pred=outputs, sample_weight=weights, training=True)
    rows = next(leaf for leaf in pytree.tree_leaves(inputs) if leaf is not None).shape[0]
    model._loss_tracker.update_state(loss.detach(), sample_weight=rows)
    return loss, model.compute_metrics(inputs, labels, outputs, sample_weight=weights)
