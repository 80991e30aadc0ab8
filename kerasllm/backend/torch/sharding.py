"""Weights, gradients and the optimizer's state divided among processes: fully sharded data parallelism (FSDP).

A variable of a divided model holds the elements of this process alone, a flat part of all, filled up with zeros so
that all parts are of one length. For the optimizer they are variables of their own, which makes its state as small. A
layer's weights are gathered when one of them is read, and let go when another layer's are. What the backward pass needs
of them is not kept but gathered again; then their gradients are added up and divided (reduce-scatter). So the whole
weights and gradients of about one layer are in memory at a time.

Reference: Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054 (stage 3); Zhao et al. 2023,
https://arxiv.org/abs/2304.11277.
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import keras
import numpy as np
import torch
import torch.distributed

from kerasllm.backend.torch.products import is_recording
from kerasllm.errors import InputError

_all_gather: Any = getattr(
    torch.distributed, "all_gather_single", torch.distributed.all_gather_into_tensor
)  # before PyTorch 2.13
_reduce_scatter: Any = getattr(
    torch.distributed, "reduce_scatter_single", torch.distributed.reduce_scatter_tensor
)
_ELEMENT_BY_ELEMENT = ("Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "Lion", "Nadam", "RMSprop", "SGD")


@dataclass
class _Mesh:
    """The processes among which weights are divided, and those that have the same part."""

    parts: int = 1
    part: int = 0
    fsdp: Any = None
    replicas: int = 1
    replica: Any = None
    has_first_copy: bool = True


_mesh = _Mesh()
_divided: weakref.WeakSet = weakref.WeakSet()  # models, and the layers and optimizers in them
_reading = 0  # how many scopes gather at present
_held: "list[_Layer]" = []  # the layer whose weights the backward pass has gathered


def set_mesh(replicas: int, parts: int, timeout: timedelta, kind: str) -> None:
    """Divides the weights of models that are made from now on, among `parts` processes with successive numbers."""
    global _mesh
    count, number = torch.distributed.get_world_size(), torch.distributed.get_rank()
    rows = [list(range(first, first + parts)) for first in range(0, count, parts)]
    columns = [list(range(first, count, parts)) for first in range(parts)]
    make = torch.distributed.new_subgroups_by_enumeration
    fsdp, replica = (make(some, timeout=timeout, backend=kind)[0] for some in (rows, columns))
    _mesh = _Mesh(parts, number % parts, fsdp, replicas, replica, number < parts)


def parts() -> int:
    """Returns the number of processes among which weights are divided."""
    return _mesh.parts


@dataclass(frozen=True)
class Piece:
    """The form of a divided variable, whose value is the part of this process.

    Args:
        shape: that of the whole.
        size: the number of its elements.
        layer: of a model's variable, the layer that it belongs to; else None.
        index: its number among the layer's.
    """

    shape: tuple[int, ...]
    size: int
    layer: "_Layer | None" = None
    index: int = 0

    @property
    def length(self) -> int:
        """The number of elements of a part."""
        return -(-self.size // _mesh.parts)

    def own(self, whole: torch.Tensor) -> torch.Tensor:
        """Returns a copy of the part of this process."""
        part = whole.new_zeros(self.length)
        found = whole.reshape(-1)[_mesh.part * self.length :][: self.length]
        part[: len(found)] = found
        return part

    def joined(self, parts: torch.Tensor) -> torch.Tensor:
        """Returns the whole, of the parts of all processes (parts, length); no view, but a copy."""
        if is_recording():
            return parts.reshape(-1)[: self.size].reshape(self.shape).clone()
        whole = parts.new_empty(self.shape)
        flat = whole.view(-1)
        if parts.numel() == self.size:
            flat.view(parts.shape).copy_(parts)
        else:
            flat.copy_(parts.reshape(-1)[: self.size])
        return whole

    def cut(self, whole: torch.Tensor) -> torch.Tensor:
        """Returns the parts of all processes (parts, length), filled up with zeros."""
        flat, missing = whole.reshape(-1), _mesh.parts * self.length - self.size
        padded = torch.nn.functional.pad(flat, (0, missing)) if missing else flat
        return padded.view(_mesh.parts, self.length)


@dataclass(frozen=True)
class _Origin:
    """Where a gathered weight can be had again."""

    layer: "_Layer"
    index: int
    dtype: torch.dtype


class _Layer:
    """The weights of a layer of one dtype, which are gathered together.

    Args:
        variables: the model's.
    """

    def __init__(self, variables: list[Any]) -> None:
        self.variables = variables
        self.pieces = [
            Piece(tuple(variable.shape), variable.value.numel(), self, index)
            for index, variable in enumerate(variables)
        ]
        self.shards = []
        for variable, piece in zip(variables, self.pieces, strict=True):
            shard = keras.Variable(
                piece.own(variable.value.detach()),
                dtype=variable.dtype,
                trainable=variable.trainable,
                autocast=False,
                name=variable.name,
            )
            variable.value.data = shard.value.data
            variable.divided, shard.divided = piece, Piece(piece.shape, piece.size)
            self.shards.append(shard)
        self._values: list[torch.Tensor] = []  # of the shards that were read last
        self._again: list[torch.Tensor] | None = None

    def gather(self, shards: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """Returns the whole weights of the parts of this process."""
        parts = _all_gathered(torch.cat([shard.detach() for shard in shards]))
        parts = parts.split([piece.length for piece in self.pieces], 1)
        return [piece.joined(some) for piece, some in zip(self.pieces, parts, strict=True)]

    def read(self) -> tuple[torch.Tensor, ...]:
        """Returns the whole weights, through which gradients flow to the parts."""
        for variable, shard in zip(self.variables, self.shards, strict=True):
            if shard.trainable != variable.trainable:
                shard.trainable = variable.trainable
        self._values = [shard.value for shard in self.shards]
        whole = _Gathered.apply(self, *self._values)
        for index, weight in enumerate(whole):
            weight.origin = _Origin(self, index, weight.dtype)
        return whole

    def again(self, index: int) -> torch.Tensor:
        """Returns a whole weight for the backward pass, which is kept until the layer's gradients are there."""
        if self._again is None:
            let_go()
            self._again = self.gather(self._values)
            _held.append(self)
        return self._again[index]

    def let_go(self) -> None:
        """Lets the weights of the backward pass go."""
        self._again = None

    def scatter(self, gradients: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Returns the part of this process of the sum of all processes' gradients."""
        found = [
            (piece, gradient)
            for piece, gradient in zip(self.pieces, gradients, strict=True)
            if gradient is not None
        ]
        every = torch.cat([piece.cut(gradient.float()) for piece, gradient in found], 1)
        own = _reduce_scattered(every.view(-1))
        sums = iter(own.split([piece.length for piece, _ in found]))
        return [gradient if gradient is None else next(sums).to(gradient.dtype) for gradient in gradients]


def _all_gathered(own: torch.Tensor) -> torch.Tensor:
    """Returns what all processes have (parts, length)."""
    if is_recording():
        functional = torch.ops._c10d_functional
        found = functional.all_gather_into_tensor(own, _mesh.parts, _mesh.fsdp.group_name)
        found = functional.wait_tensor(found)
    else:
        found = own.new_empty(_mesh.parts * len(own))
        _all_gather(found, own, group=_mesh.fsdp)
    return found.view(_mesh.parts, -1)


def _reduce_scattered(every: torch.Tensor) -> torch.Tensor:
    """Returns the part of this process of the sum over all processes."""
    if is_recording():
        functional = torch.ops._c10d_functional
        own = functional.reduce_scatter_tensor(every, "sum", _mesh.parts, _mesh.fsdp.group_name)
        return functional.wait_tensor(own)
    own = every.new_empty(len(every) // _mesh.parts)
    _reduce_scatter(own, every, group=_mesh.fsdp)
    return own


def let_go() -> None:
    """Lets the weights go that the backward pass has gathered."""
    while _held:
        _held.pop().let_go()


class _Gathered(torch.autograd.Function):
    """The whole weights of a layer, whose gradients are added up and divided."""

    @staticmethod
    def forward(ctx, layer, *shards):
        ctx.layer = layer
        ctx.set_materialize_grads(False)  # what has not been read has no gradient
        whole = layer.gather(shards)
        ctx.mark_non_differentiable(
            *(weight for weight, trained in zip(whole, ctx.needs_input_grad[1:], strict=True) if not trained)
        )
        return tuple(whole)

    @staticmethod
    def backward(ctx, *gradients):
        ctx.layer.let_go()
        trained = ctx.needs_input_grad[1:]
        wanted = [some if is_trained else None for some, is_trained in zip(gradients, trained, strict=True)]
        if all(some is None for some in wanted):
            return None, *wanted
        return None, *ctx.layer.scatter(wanted)


class _Reading(keras.StatelessScope):
    """A scope in which divided weights are gathered when they are read.

    Args:
        values: pairs of a variable and its value, which other variables than divided ones may have.
        changes: whether variables have what was assigned to them when the scope ends.
    """

    def __init__(self, values: Iterable[tuple[Any, Any]] = (), changes: bool = True) -> None:
        super().__init__(values, collect_losses=True)
        self._changes = changes
        self._assigned: dict[int, tuple[Any, Any]] = {}
        self._read: tuple[Any, ...] = (None, False)
        self._whole: tuple[torch.Tensor, ...] = ()

    def add_update(self, update):
        """Notes an assigned value."""
        super().add_update(update)
        self._assigned[id(update[0])] = update

    def get_current_value(self, variable):
        """Returns the value of a variable within the scope; None for the one that it holds."""
        found = super().get_current_value(variable)
        if found is not None:
            return found
        piece = getattr(variable, "divided", None)
        if piece is None or piece.layer is None:
            return None if self.original_scope is None else self.original_scope.get_current_value(variable)
        if self._read != (piece.layer, torch.is_grad_enabled()):
            self._whole = ()
            self._whole, self._read = piece.layer.read(), (piece.layer, torch.is_grad_enabled())
        whole = self._whole[piece.index]
        dtype = getattr(torch, variable.dtype)  # within a layer, the one that is computed in
        if whole.dtype != dtype:
            whole = whole.to(dtype)
            whole.origin = _Origin(piece.layer, piece.index, dtype)
        return whole

    def __enter__(self):
        global _reading
        _reading += 1
        return super().__enter__()

    def __exit__(self, *error):
        global _reading
        _reading -= 1
        super().__exit__(*error)
        self._whole = ()
        if self._changes and error[:1] in ((), (None,)):
            for variable, value in self._assigned.values():
                variable.assign(value)


def is_divided(layer: Any) -> bool:
    """Returns whether a model, or a layer of one, is divided."""
    return layer in _divided


def reading(model: Any) -> AbstractContextManager[Any]:
    """Returns a context in which the weights of a divided model can be read."""
    is_plain = _mesh.parts == 1 or _reading or model not in _divided
    return nullcontext() if is_plain else _Reading()


def differentiated(variables: Iterable[Any]) -> list[Any]:
    """Returns the variables, of divided ones those of the parts."""
    return [_shards_of([some])[0] if hasattr(some, "divided") else some for some in variables]


def stateless(values: Iterable[tuple[Any, Any]]) -> keras.StatelessScope:
    """Returns Keras' scope, in which divided weights are gathered, too."""
    values = list(values)
    return _Reading(values, changes=False) if _reading or _mesh.parts > 1 else keras.StatelessScope(values)


def divide(model: Any) -> None:
    """Divides the weights of a compiled model, and makes its optimizer's state; see the contract."""
    if _mesh.parts == 1:
        return
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and optimizer not in _divided:
        _check_optimizer(optimizer)
    if model not in _divided:
        groups: dict[tuple[str, str], list[Any]] = {}
        for variable in model.weights:
            if getattr(variable, "rows_axis", None) is None and keras.backend.is_float_dtype(variable.dtype):
                groups.setdefault((variable.path.rpartition("/")[0], variable.dtype), []).append(variable)
        for variables in groups.values():
            _Layer(variables)
        _divided.update(model._flatten_layers())
    if optimizer is not None and optimizer not in _divided:
        _build(optimizer, _shards_of(model.trainable_variables))
        _divided.add(optimizer)


def _shards_of(variables: Iterable[Any]) -> list[Any]:
    """Returns the optimizer's variables for those of a divided model."""
    return [variable.divided.layer.shards[variable.divided.index] for variable in variables]


def _check_optimizer(optimizer: Any) -> None:
    """Refuses an optimizer of which a process cannot update its part alone.

    Raises:
        InputError: it is of such a kind, or has a state already.
    """
    known = tuple(getattr(keras.optimizers, name) for name in _ELEMENT_BY_ELEMENT)
    if not isinstance(optimizer, known):
        raise InputError(
            f"--mesh.fsdp {_mesh.parts}: {type(optimizer).__name__} updates no element by itself; take "
            f"--mesh.fsdp 1, or one of {', '.join(_ELEMENT_BY_ELEMENT)}"
        )
    if optimizer.built:
        raise InputError(
            f"--mesh.fsdp {_mesh.parts}: the optimizer has a state for the whole weights; compile the model anew"
        )


def _build(optimizer: Any, shards: list[Any]) -> None:
    """Makes the optimizer's state for parts of weights, and lets it clip by the norm of all parts."""
    own, add, finalize = (
        vars(optimizer),
        optimizer.add_variable_from_reference,
        optimizer.finalize_variable_values,
    )

    def add_like(reference_variable, *args, **settings):
        variable = add(reference_variable, *args, **settings)
        variable.divided = reference_variable.divided
        return variable

    own["add_variable_from_reference"] = add_like
    try:
        optimizer.build(shards)
    finally:
        del own["add_variable_from_reference"]
    own["finalize_variable_values"] = lambda variables: finalize(shards)
    own["_clip_gradients"] = lambda gradients: _clipped(optimizer, gradients)


def _clipped(optimizer: Any, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """Returns what Keras makes of whole gradients: clipped by the norm of all, or each by its own, or by values."""
    if optimizer.clipvalue:
        return [gradient.clamp(-optimizer.clipvalue, optimizer.clipvalue) for gradient in gradients]
    limit = optimizer.global_clipnorm or optimizer.clipnorm
    if not limit:
        return gradients
    squares = torch.stack([gradient.square().sum() for gradient in gradients])
    if optimizer.global_clipnorm:
        squares = squares.sum()
    norms = _sum_over_parts(squares).sqrt()
    scales = limit / norms.clamp(min=limit) + (norms - norms)  # not finite if the norm is not
    scales = scales.expand(len(gradients)).unbind()
    return [gradient * scale for gradient, scale in zip(gradients, scales, strict=True)]


def _sum_over_parts(values: torch.Tensor) -> torch.Tensor:
    values = values.clone()
    torch.distributed.all_reduce(values, group=_mesh.fsdp)
    return values


def norm_of_all(norm: torch.Tensor) -> torch.Tensor:
    """Returns the norm of the whole, of the norm of the part of this process."""
    return _sum_over_parts(norm.square()).sqrt()


@torch.no_grad()
def summed_over_replicas(gradients: list[Any], loss: torch.Tensor) -> list[Any]:
    """Returns parts of gradients of all rows; none is finite in any process if the loss of all rows is not."""
    found = [gradient for gradient in gradients if gradient is not None]
    loss = _sum_over_parts(loss.reshape(1).float())
    if _mesh.replicas == 1:
        found[0] += 0 * loss
        return gradients
    flat = torch.cat([loss, *found])
    torch.distributed.all_reduce(flat, group=_mesh.replica)
    flat[1] += 0 * flat[0]
    parts = iter(flat[1:].split([gradient.numel() for gradient in found]))
    return [gradient if gradient is None else next(parts).to(gradient.dtype) for gradient in gradients]


def whole(variable: Any) -> torch.Tensor:
    """Returns a divided variable's whole value."""
    return variable.divided.joined(_all_gathered(variable.value.detach()))


def pieces(variable: Any) -> list[tuple[list[tuple[int, int]], Any]]:
    """Returns the place of a divided variable's part among all elements, and a function that gives it as NumPy."""
    begin = _mesh.part * variable.divided.length
    end = min(begin + variable.divided.length, variable.divided.size)
    if not _mesh.has_first_copy or begin >= end:
        return []
    return [([(begin, end)], lambda: keras.ops.convert_to_numpy(variable.value.detach()[: end - begin]))]


@torch.no_grad()
def assign(variable: Any, values: Any) -> None:
    """Gives a divided variable the part of this process of the whole values."""
    piece = variable.divided
    own = np.reshape(values, -1)[_mesh.part * piece.length :][: piece.length]
    variable.value.zero_()
    variable.value[: len(own)] = keras.ops.convert_to_tensor(own, variable.dtype)


def refuse_added_losses(model: Any) -> None:
    """Refuses losses that layers add, of which nobody knows whether they are sums or means over the rows.

    Raises:
        InputError: there are some.
    """
    if model.losses:
        raise InputError(
            "several processes of PyTorch would add the loss of a layer's add_loss once for each: make it an output of "
            "the model with a loss of its own"
        )


@contextmanager
def step_of(model: Any, changes: bool = True) -> Iterator[keras.StatelessScope]:
    """Returns the scope in which a training step of a model is computed, its backward pass included.

    Weights that are gathered are not kept for the backward pass, but how to get them again.

    Args:
        model: divided or not.
        changes: whether variables have what was assigned to them when the scope ends; of a model that is divided.
    """
    if model not in _divided:
        with keras.StatelessScope(collect_losses=True) as scope:
            yield scope
        return
    try:
        with torch.autograd.graph.saved_tensors_hooks(_pack, _unpack), _Reading(changes=changes) as scope:
            yield scope
    finally:
        let_go()


def _pack(tensor):
    base = tensor if tensor._base is None else tensor._base
    origin = getattr(base, "origin", None)
    return tensor if origin is None else (origin, tensor.shape, tensor.stride(), tensor.storage_offset())


def _unpack(kept):
    if isinstance(kept, torch.Tensor):
        return kept
    origin, *view = kept
    return origin.layer.again(origin.index).to(origin.dtype).as_strided(*view)
