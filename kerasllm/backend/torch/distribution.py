"""The processes of a run on PyTorch, each with one device: gradients are added up before clipping.

Started by `torchrun`. The rows of a batch are divided among the processes. Their losses are sums with weights that were
divided by the sum over the whole batch, so that the sum of the gradients is the gradient of the whole batch. Each
process has all weights, or a part of them, see `sharding`.
"""

import atexit
import os
import threading
import time
import weakref
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import keras
import numpy as np
import torch
import torch.distributed

from kerasllm import processes
from kerasllm.backend import hashing
from kerasllm.backend.gradient_watch import watch
from kerasllm.backend.torch import sharding
from kerasllm.backend.torch.products import is_recording
from kerasllm.backend.torch.sharding import differentiated, reading, stateless  # noqa: F401
from kerasllm.errors import InputError

_LONGEST_START = timedelta(minutes=5)  # until all processes are there
_LONGEST_WAIT = timedelta(hours=2)  # for a process that lives: the first one writes while the others wait
_SECONDS_BETWEEN_SIGNS = 5.0
_group: Any = None  # all processes
_kind = "gloo"


def join() -> tuple[int, int]:
    """Connects the processes, by NCCL on GPUs and else by gloo, and begins to watch them; see the contract."""
    global _group, _kind
    number, count = processes.place()
    if count == 1 or torch.distributed.is_initialized():
        return number, count
    if "RANK" not in os.environ:
        raise InputError("processes of PyTorch are started by torchrun --nproc_per_node=N SCRIPT …")
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", number)))
    _kind = kind = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    try:
        torch.distributed.init_process_group(kind, timeout=_LONGEST_START)
        _group = torch.distributed.new_group(timeout=_LONGEST_WAIT, backend=kind)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"the processes cannot be connected ({reason})") from error
    atexit.register(_leave, _Watch(number, count))
    processes.watch_for_errors()  # comes before `_leave`
    hashing.number_rows_from(number)
    return number, count


def _leave(watch: "_Watch") -> None:
    """Waits for the other processes, so that none takes another for lost that came to its end."""
    torch.distributed.barrier(_group)
    watch.ended.set()
    torch.distributed.destroy_process_group()


class _Watch:
    """Exchanges signs of life with the other processes, and ends this one when one of them is lost.

    One thread asks the store, which waits for ever where the machine that holds it is lost; so another looks at it.
    """

    def __init__(self, number: int, count: int) -> None:
        self.number = number
        now = time.monotonic()
        self.heard = {other: now for other in range(count) if other != number}
        self.ended = threading.Event()
        for target in (self._exchange, self._look):
            threading.Thread(target=target, name="kerasllm-watch", daemon=True).start()

    def _exchange(self) -> None:
        last: dict[int, bytes] = {}
        try:
            store = torch.distributed.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                wait_for_workers=False,
            )
            while not self.ended.wait(_SECONDS_BETWEEN_SIGNS):
                store.set(f"kerasllm/{self.number}", str(time.monotonic()))
                for other in self.heard:
                    name = f"kerasllm/{other}"
                    sign = store.get(name) if store.check([name]) else b""
                    if sign != last.get(other):
                        last[other], self.heard[other] = sign, time.monotonic()
        except RuntimeError as error:
            self._end(str(error).strip().splitlines()[0])

    def _look(self) -> None:
        while not self.ended.wait(_SECONDS_BETWEEN_SIGNS):
            for other, at in self.heard.items():
                if time.monotonic() - at > processes.SECONDS_UNTIL_LOST:
                    self._end(f"process {other} gives no sign of life")

    def _end(self, reason: str) -> None:
        if not self.ended.is_set():
            os.write(2, f"error: {processes.name()}another process is lost ({reason})\n".encode())
            os._exit(processes.LOST)


def device_count() -> int:
    """Returns the number of processes, each of which has one device."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def distribute(sizes, rules):
    """Divides weights among the processes of the axis fsdp, each as a flat part; batches are divided by `share`."""
    replica, fsdp, _ = sizes
    sharding.set_mesh(replica, fsdp, _LONGEST_WAIT, _kind)


def divide(model):
    """Divides the weights, which are made equal before; see the contract."""
    if sharding.parts() > 1 and model not in _started:
        _make_equal(model)
        _started.add(model)
    sharding.divide(model)


def shape(variable):
    """Returns the shape."""
    return variable.divided.shape if hasattr(variable, "divided") else tuple(variable.shape)


def assign(variable, values):
    """Assigns the values, of which a process takes its part."""
    if hasattr(variable, "divided"):
        sharding.assign(variable, values)
    else:
        variable.assign(values)


def gather(values):
    """Returns the arrays of all processes."""
    values = np.asarray(values, order="C")
    if device_count() == 1:
        return values[None]
    own = torch.from_numpy(np.frombuffer(values.tobytes(), np.uint8).copy()).to(_device())
    found = [torch.empty_like(own) for _ in range(device_count())]
    torch.distributed.all_gather(found, own, group=_group)
    together = np.stack([part.cpu().numpy() for part in found])
    return together.view(values.dtype).reshape(-1, *values.shape)


def whole(value):
    """Returns the values; of a state that has a row for each row of a batch, the rows of all processes."""
    if hasattr(value, "divided"):
        return keras.ops.convert_to_numpy(sharding.whole(value))
    array = keras.ops.convert_to_numpy(value)
    if device_count() > 1 and getattr(value, "rows_axis", None) is not None:
        return _gather_rows(array, value.rows_axis)
    return array


def _gather_rows(array, axis: int):
    """Returns an array with the rows of each process in its own place along an axis."""
    rows = array.shape[axis] // device_count()
    found = [
        np.take(part, range(number * rows, (number + 1) * rows), axis)
        for number, part in enumerate(gather(array))
    ]
    return np.concatenate(found, axis)


def pieces(variable):
    """Returns the part of this process, unless another one has the same."""
    return sharding.pieces(variable) if hasattr(variable, "divided") else None


def share():
    """Returns the part of this process."""
    count = device_count()
    return (torch.distributed.get_rank(), count, count) if count > 1 else (0, 1, 1)


def rows_of_all(values):
    """Returns the rows of all processes."""
    return _RowsOfAll.apply(values) if device_count() > 1 else values


class _RowsOfAll(torch.autograd.Function):
    """The rows of all processes, one after another; the gradients of each process's rows are added up over all."""

    @staticmethod
    def forward(ctx, values):
        ctx.rows, values = len(values), values.contiguous()
        if is_recording():
            functional = torch.ops._c10d_functional
            found = functional.all_gather_into_tensor(values, device_count(), _group.group_name)
            return functional.wait_tensor(found)
        parts = [torch.empty_like(values) for _ in range(device_count())]
        torch.distributed.all_gather(parts, values, group=_group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, upstream):
        total = _sum_over_all(upstream)
        first = torch.distributed.get_rank() * ctx.rows
        return total[first : first + ctx.rows]


def _sum_over_all(values):
    """Returns the sum over all processes."""
    if is_recording():
        functional = torch.ops._c10d_functional
        return functional.wait_tensor(functional.all_reduce(values, "sum", _group.group_name))
    total = values.clone()
    torch.distributed.all_reduce(total, group=_group)
    return total


sums_gradients = True

_started: weakref.WeakSet = weakref.WeakSet()  # models whose weights have been made equal
_seen: weakref.WeakSet = weakref.WeakSet()  # models whose losses by layers have been looked at


def reduced_step(model, train_step, *arguments):
    """Returns the step's results after one sum over all processes: of the gradients and the loss, in one tensor.

    Raises:
        InputError: a loss is no sum, so that the loss of all rows is not the sum of the processes' losses.
    """
    if device_count() == 1:
        return train_step(*arguments)
    divide(model)
    if model not in _started:
        _make_equal(model)
        _started.add(model)
    losses: list[torch.Tensor] = []
    global _is_reducing

    def on_loss(loss):
        if model not in _seen:
            sharding.refuse_added_losses(model)
            _seen.add(model)
        losses.append(loss.detach())
        return loss

    def on_gradients(apply, gradients, variables) -> None:
        summed = sharding.summed_over_replicas if sharding.is_divided(model) else _summed
        apply(summed(gradients, losses[-1]), variables)

    metrics = _Metrics(model)
    _is_reducing = True
    try:
        with watch(model.optimizer, on_loss, on_gradients):
            logs = train_step(*arguments)
    finally:
        _is_reducing = False
    return metrics.add_up(logs)


_is_reducing = False


def total_weight(weight):
    """Returns the sum over all processes within a step whose gradients are added up."""
    if not _is_reducing:
        return weight
    return _sum_over_all(weight.detach())


@torch.no_grad()
def _summed(gradients, loss):
    """Returns the gradients of all rows; none is finite in any process if the loss of all rows is not."""
    found = [gradient for gradient in gradients if gradient is not None]
    flat = torch.cat([loss.reshape(1).float(), *(gradient.reshape(-1) for gradient in found)])
    torch.distributed.all_reduce(flat, group=_group)
    flat[1] += 0 * flat[0]
    parts = iter(flat[1:].split([gradient.numel() for gradient in found]))
    return [
        None if gradient is None else next(parts).view(gradient.shape).to(gradient.dtype)
        for gradient in gradients
    ]


class _Metrics:
    """The metrics of a model, which are made from sums, and are made those of all rows after a step.

    A loss is a sum over the processes, too, but the weight that its mean gives to a batch is the same in each.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.before = {id(variable): variable.value.detach().clone() for variable in self._sums()}

    def _sums(self) -> list[Any]:
        """Returns the variables that are sums over rows; the first step makes most of them."""
        outputs = self.model.loss if isinstance(self.model.loss, dict) else ()
        losses = ("loss", *(f"{output}_loss" for output in outputs))
        return [
            variable
            for metric in self.model.metrics
            for variable in metric.variables
            if metric.name not in losses or variable is metric.variables[0]
        ]

    @torch.no_grad()
    def add_up(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Returns the logs with the figures of all processes."""
        sums = [(variable.value, self.before.get(id(variable))) for variable in self._sums()]
        added = [value if before is None else value - before for value, before in sums]
        flat = torch.cat([part.reshape(-1).float() for part in added])
        torch.distributed.all_reduce(flat, group=_group)
        parts = flat.split([value.numel() for value, _ in sums])
        for (value, before), part in zip(sums, parts, strict=True):
            part = part.view(value.shape)
            value.copy_(part if before is None else before + part)
        return logs | self.model.get_metrics_result()


@torch.no_grad()
def _make_equal(model) -> None:
    """Gives all processes the weights of the first one, which a model without a seed has drawn by itself.

    Raises:
        InputError: see `reduced_step`.
    """
    for loss in keras.tree.flatten(model.loss):
        reduction = getattr(loss, "reduction", None)
        if reduction != "sum" and not (
            reduction == "mean_with_sample_weight" and getattr(loss, "divides_by_all", False)
        ):
            raise InputError(
                f"several processes of PyTorch cannot add up a {type(loss).__name__} with reduction={reduction!r}: "
                "leave the loss out, take one of kerasllm's, or one with reduction='sum' and sample weights that are "
                "divided by their sum over the batches of all processes"
            )
    if any(getattr(variable, "regularizer", None) is not None for variable in model.trainable_variables):
        raise InputError(
            "several processes of PyTorch would add a regularizer's loss once for each: take weight decay"
        )
    for variable in model.variables:
        torch.distributed.broadcast(variable.value.data, 0, group=_group)


def whole_batch(data, is_placed=False):
    """Returns a context that gives the batch, which each process evaluates by itself."""
    return nullcontext(data)


def everywhere(outputs):
    """Returns the outputs."""
    return outputs


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
