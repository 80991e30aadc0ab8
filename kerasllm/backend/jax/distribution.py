"""The devices of a run on JAX: a mesh, on which Keras places weights and batches."""

import re

import jax
import keras
from jax.sharding import NamedSharding, PartitionSpec

_AXES = ("replica", "fsdp", "tensor")
_DATA = _AXES[:2]  # the rows of a batch go to the devices of both


def device_count() -> int:
    """Returns the number of devices of all processes."""
    return jax.device_count()


def distribute(sizes, rules):
    """Makes Keras place the weights and batches of models that are made from now on; see the contract."""
    mesh = keras.distribution.DeviceMesh(sizes, _AXES, keras.distribution.list_devices())
    keras.distribution.set_distribution(_Distribution(mesh, rules))


class _Distribution(keras.distribution.ModelParallel):
    """Keras' own, with two axes for the rows of a batch, and weights placed by path and shape."""

    def __init__(self, mesh, rules):
        super().__init__(
            layout_map=keras.distribution.LayoutMap(mesh), batch_dim_name="fsdp", auto_shard_dataset=False
        )
        self.rules = [(re.compile(pattern), axes) for pattern, axes in rules]
        self.sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))

    @property
    def num_model_replicas(self):
        """The number of parts that a batch is divided into."""
        return self.sizes["replica"] * self.sizes["fsdp"]

    def get_data_layout(self, data_shape):
        """Returns the layout of a part of a batch, which every device has whole if it cannot be divided."""
        return _BatchLayout(data_shape, self.device_mesh, self.num_model_replicas)

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
    """A layout whose first axis goes over two axes of the mesh, which Keras' own cannot say."""

    def __init__(self, shape, mesh, parts):
        super().__init__([None] * len(shape), mesh)
        self.is_divided = bool(shape) and shape[0] % parts == 0

    @property
    def backend_layout(self):
        """JAX's sharding."""
        spec = PartitionSpec(_DATA) if self.is_divided else PartitionSpec()
        return NamedSharding(self.device_mesh.backend_mesh, spec)
