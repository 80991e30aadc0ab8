"""The devices of a run on JAX: a mesh, on which Keras places weights and batches, over all processes."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import jax
import keras
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from kerasllm import processes
from kerasllm.backend.undivided import assign as assign
from kerasllm.backend.undivided import differentiated as differentiated
from kerasllm.backend.undivided import divide as divide
from kerasllm.backend.undivided import reading as reading
from kerasllm.backend.undivided import shape as shape
from kerasllm.backend.undivided import stateless as stateless
from kerasllm.backend.undivided import total_weight as total_weight
from kerasllm.errors import InputError, counted

_AXES = ("replica", "fsdp", "tensor")
_DATA = _AXES[:2]  # the rows of a batch go to the devices of both
_SECONDS_UNTIL_ALL_END = 3600  # after the last step, in which the first process writes the model
_joined = False


def join() -> tuple[int, int]:
    """Connects the processes, which a thread of JAX's watches from then on; see the contract."""
    global _joined
    number, count = processes.place()
    if count == 1 or _joined:
        return number, count
    addresses = os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES", "")
    if "KERAS_DISTRIBUTION_NUM_PROCESSES" not in os.environ or not re.search(
        r":\d+$", addresses.split(",")[0]
    ):
        raise InputError(
            f"processes of JAX are started with KERAS_DISTRIBUTION_JOB_ADDRESSES (HOST:PORT of process 0, here "
            f"{addresses!r}), KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID"
        )
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is for the run itself
    try:
        jax.distributed.initialize(
            addresses.split(",")[0],
            count,
            number,
            heartbeat_timeout_seconds=processes.SECONDS_UNTIL_LOST,
            shutdown_timeout_seconds=_SECONDS_UNTIL_ALL_END,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"the processes cannot be connected at {addresses} ({reason})") from error
    _joined = True
    processes.watch_for_errors()
    return number, count


def device_count() -> int:
    """Returns the number of devices of all processes."""
    return jax.device_count()


def gather(values):
    """Returns the arrays of all processes, by JAX's own devices; 64 bits, which JAX cuts off, travel as bytes."""
    values = np.asarray(values, order="C")
    if jax.process_count() == 1:
        return values[None]
    found = _gathered(np.frombuffer(values.tobytes(), np.uint8))
    return np.ascontiguousarray(found).view(values.dtype).reshape(-1, *values.shape)


def _gathered(value, tiled: bool = False):
    from jax.experimental import multihost_utils  # which a process that is alone does without

    return multihost_utils.process_allgather(value, tiled=tiled)


def whole(value):
    """Returns the values of a variable, of which other processes may hold parts."""
    value = value.value if isinstance(value, keras.Variable) else value
    return _gathered(value, tiled=True) if _is_divided(value) else keras.ops.convert_to_numpy(value)


def _is_divided(value) -> bool:
    """Returns whether other processes hold parts of a value that this one has not."""
    return isinstance(value, jax.Array) and not value.is_fully_addressable and not value.is_fully_replicated


def pieces(variable):
    """Returns the parts on this process's devices of which no other device has the first copy."""
    value = variable.value
    if not _is_divided(value):
        return None
    return [
        (
            [some.indices(size)[:2] for some, size in zip(shard.index, value.shape, strict=True)],
            partial(np.asarray, shard.data),
        )
        for shard in value.addressable_shards
        if shard.replica_id == 0
    ]


def share():
    """Returns which part of a batch's rows this process delivers, of how many, and of what the rows are a multiple."""
    placed = keras.distribution.distribution()
    if not isinstance(placed, _Distribution):
        return 0, 1, 1
    rows, own = placed.num_model_replicas, jax.local_device_count()
    first = jax.process_index() * own // placed.sizes["tensor"]
    parts = max(own // placed.sizes["tensor"], 1)
    return first // parts, rows // parts, rows


sums_gradients = False  # the loss is that of all rows: XLA adds up what the devices have


def rows_of_all(values):
    """Returns the rows, which are those of all."""
    return values


def reduced_step(model, train_step, *arguments):
    """Returns the step's results, which are those of all processes."""
    return train_step(*arguments)


@contextmanager
def whole_batch(data, is_placed: bool = False) -> Iterator[tuple]:
    """Yields the rows of this process where the devices divide the batch; otherwise each device has all of it."""
    placed = keras.distribution.distribution()
    if jax.process_count() == 1 or not isinstance(placed, _Distribution):
        yield data
        return
    part, parts, multiple = share()
    counts = {len(array) for array in keras.tree.flatten(data) if array is not None}
    placed.is_divided = all(count % multiple == 0 for count in counts)

    def own(array):
        if array is None:
            return None
        if placed.is_divided:
            rows = len(array) // parts
            array = array[part * rows : (part + 1) * rows]
        if is_placed:
            layout = placed.get_data_layout(array.shape).backend_layout
            return jax.make_array_from_process_local_data(layout, np.asarray(array))
        return array

    try:
        yield keras.tree.map_structure(own, data)
    finally:
        placed.is_divided = True


def everywhere(outputs):
    """Returns the outputs of a compiled function, which each process is to have whole."""
    placed = keras.distribution.distribution()
    if jax.process_count() == 1 or not isinstance(placed, _Distribution):
        return outputs
    layout = NamedSharding(placed.device_mesh.backend_mesh, PartitionSpec())
    return keras.tree.map_structure(lambda array: jax.lax.with_sharding_constraint(array, layout), outputs)


def distribute(sizes, rules):
    """Makes Keras place the weights and batches of models that are made from now on; see the contract."""
    own, tensor = jax.local_device_count(), sizes[-1]
    if own % tensor and tensor % own:
        raise InputError(
            f"--mesh.tensor {tensor}: each process has {counted(own, 'device')}, and one of the two numbers "
            "must divide the other"
        )
    mesh = keras.distribution.DeviceMesh(sizes, _AXES, keras.distribution.list_devices())
    keras.distribution.set_distribution(_Distribution(mesh, rules))


class _Distribution(keras.distribution.ModelParallel):
    """Keras' own, with two axes for the rows of a batch, and weights placed by path and shape."""

    def __init__(self, mesh, rules):
        self.sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))  # which Keras asks for
        super().__init__(
            layout_map=keras.distribution.LayoutMap(mesh), batch_dim_name="fsdp", auto_shard_dataset=False
        )
        self.rules = [(re.compile(pattern), axes) for pattern, axes in rules]
        self.is_divided = True  # whether processes give their own rows of a batch, or all give the whole

    @property
    def num_model_replicas(self):
        """The number of parts that a batch is divided into."""
        return self.sizes["replica"] * self.sizes["fsdp"]

    def get_data_layout(self, data_shape):
        """Returns the layout of a part of a batch, which every device has whole if it cannot be divided."""
        own = self.num_model_replicas // share()[1]
        return _BatchLayout(data_shape if self.is_divided else (), self.device_mesh, own)

    def get_variable_layout(self, variable):
        """Returns the layout of a weight by the first rule that its path matches."""
        if getattr(variable, "_layout", None) is not None:
            return variable._layout
        axes = next((axes for pattern, axes in self.rules if pattern.fullmatch(variable.path)), ())
        shape = tuple(variable.shape)
        if len(axes) != len(shape):
            axes = [None] * len(shape)
        placed = [
            axis if axis and self.sizes[axis] > 1 and size % self.sizes[axis] == 0 else None
            for axis, size in zip(axes, shape, strict=True)
        ]
        return keras.distribution.TensorLayout(placed, self.device_mesh)


class _BatchLayout(keras.distribution.TensorLayout):
    """A layout whose first axis goes over two axes of the mesh, which Keras' own cannot say.

    Args:
        shape: that of the rows of this process.
        mesh: the devices.
        parts: the number of parts into which the devices of this process divide its rows.
    """

    def __init__(self, shape, mesh, parts):
        super().__init__([None] * len(shape), mesh)
        self.is_divided = bool(shape) and shape[0] % parts == 0

    @property
    def backend_layout(self):
        """JAX's sharding."""
        spec = PartitionSpec(_DATA) if self.is_divided else PartitionSpec()
        return NamedSharding(self.device_mesh.backend_mesh, spec)
