"""Layers of recurrent cells, and dropout whose mask is the same at every step."""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.backend.hashing import undivided
from kerasllm.backend.recurrent_cells import GATES, STATES
from kerasllm.layers.dropout import CountsCalls, dropout
from kerasllm.layers.initializers import KeyedUniform, default_seed, name_key


def locked_dropout(inputs, rate: float, seed_generator: keras.random.SeedGenerator):
    """Returns `inputs` (batch, length, width) with dropout whose mask, (batch, 1, width), all steps share.

    Reference: Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287.
    """
    if rate == 0:
        return inputs
    ones = ops.ones_like(inputs[:, :1])
    return inputs * dropout(ones, rate, seed_generator)


@keras.saving.register_keras_serializable(package="kerasllm")
class RecurrentLayer(CountsCalls, keras.layers.Layer):
    """A layer of recurrent cells, in one direction or in both, as `torch.nn.LSTM`, `GRU` and `RNN` compute it.

    Args:
        cell: "lstm", "gru" (with the reset gate after the product), "rnn_tanh" or "rnn_relu".
        hidden_dim: units of a direction.
        bidirectional: whether a second set of cells reads from the end; its outputs stand behind the others.
        dropout: locked dropout of the inputs.
        weight_drop: share of the recurrent kernels' weights that are dropped in training, alike at every step.
        seed: seed of the initial values and of dropout.

    Call with `inputs` (batch, length, width) and, optionally, `state`: for each direction a list of the hidden state
    and, for an LSTM, the cell state, (batch, hidden_dim) each, zero by default; and `padding_mask` (batch, length), 1
    for real tokens: over padding, wherever it stands, the state stays as it is. It returns the outputs
    (batch, length, directions * hidden_dim) and the last state, float32, in the form of `state`.

    Reference: Hochreiter and Schmidhuber 1997 (LSTM); Cho et al. 2014, https://arxiv.org/abs/1406.1078 (GRU); Merity et
    al. 2018, https://arxiv.org/abs/1708.02182 (dropped weights).
    """

    built: bool

    def __init__(
        self,
        *,
        cell: str,
        hidden_dim: int,
        bidirectional: bool = False,
        dropout: float = 0.0,
        weight_drop: float = 0.0,
        seed: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if cell not in GATES:
            raise ValueError(f"cell is {cell!r}, it must be one of {', '.join(GATES)}")
        self.cell = cell
        self.hidden_dim = hidden_dim
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.weight_drop = weight_drop
        self.seed = default_seed() if seed is None else seed
        self.seed_generator = keras.random.SeedGenerator(_own_seed(self))
        self._convert_input_args, self._allow_non_tensor_positional_args = False, True  # a mask is no number

    def build(self, inputs_shape, state_shape=None, padding_mask_shape=None):
        """Creates the weights, uniform within 1 / sqrt(hidden_dim), as PyTorch's are."""
        if self.built:
            return
        rows, bound = GATES[self.cell] * self.hidden_dim, self.hidden_dim**-0.5
        shapes = {
            "input_kernel": (rows, inputs_shape[-1]),
            "recurrent_kernel": (rows, self.hidden_dim),
            "input_bias": (rows,),
            "recurrent_bias": (rows,),
        }

        def weights(prefix: str):
            return [
                self.add_weight(
                    name=prefix + name,
                    shape=shape,
                    initializer=KeyedUniform(bound, self.seed, f"{self.name}/{prefix}{name}"),
                )
                for name, shape in shapes.items()
            ]

        self.directions = [weights(prefix) for prefix in ("", "backward_")[: 1 + self.bidirectional]]
        self.built = True

    def begin(self, rows):
        """Returns the zero state of `rows` rows."""
        zeros = ops.zeros((rows, self.hidden_dim), "float32")
        return [[zeros] * STATES[self.cell] for _ in range(1 + self.bidirectional)]

    def call(self, inputs, state=None, padding_mask=None, training=False):
        """See the class."""
        inputs = ops.convert_to_tensor(inputs, self.compute_dtype)
        inputs = locked_dropout(inputs, self.dropout if training else 0.0, self.seed_generator)
        state = self.begin(ops.shape(inputs)[0]) if state is None else state
        steps = ops.transpose(inputs, (1, 0, 2))
        mask = None
        if padding_mask is not None:
            mask = ops.transpose(ops.cast(ops.convert_to_tensor(padding_mask), "bool"), (1, 0))
        outputs, last = [], []
        for weights, own, reverse in zip(self.directions, state, (False, True), strict=False):
            input_kernel, recurrent_kernel, *biases = weights
            if training and self.weight_drop:
                kernel = ops.convert_to_tensor(recurrent_kernel)
                with undivided():
                    recurrent_kernel = dropout(kernel, self.weight_drop, self.seed_generator)
            found, after = backend.recurrence(
                self.cell,
                steps,
                tuple(ops.convert_to_tensor(part, "float32") for part in own),
                input_kernel,
                recurrent_kernel,
                *biases,
                mask=mask,
                reverse=reverse,
            )
            outputs.append(found)
            last.append(list(after))
        joined = outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=-1)
        return ops.transpose(joined, (1, 0, 2)), last

    def compute_output_shape(self, inputs_shape, state_shape=None, padding_mask_shape=None):
        """Returns the shapes of the outputs and of the states."""
        rows, width, directions = inputs_shape[0], self.hidden_dim, 1 + self.bidirectional
        states = [[(rows, width)] * STATES[self.cell] for _ in range(directions)]
        return (*inputs_shape[:-1], directions * width), states

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "cell": self.cell,
            "hidden_dim": self.hidden_dim,
            "bidirectional": self.bidirectional,
            "dropout": self.dropout,
            "weight_drop": self.weight_drop,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="kerasllm")
class LockedDropout(CountsCalls, keras.layers.Layer):
    """Dropout whose mask all steps of a row share; see `locked_dropout`.

    Args:
        rate: share of the elements that are dropped.
        seed: seed of the dropout.

    Call with (batch, length, width); returns the same shape.
    """

    def __init__(self, *, rate: float, seed: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = default_seed() if seed is None else seed
        self.seed_generator = keras.random.SeedGenerator(_own_seed(self))
        self.built = True

    def build(self, inputs_shape):
        """Creates nothing; Keras records the shape, which `summary` shows."""
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        return locked_dropout(inputs, self.rate if training else 0.0, self.seed_generator)

    def compute_output_shape(self, inputs_shape):
        """Returns the shape of the input."""
        return inputs_shape

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"rate": self.rate, "seed": self.seed}


def _own_seed(layer) -> int:
    """Returns a seed of the layer's own: layers of one seed would drop the same units."""
    return name_key(layer.seed, layer.name) % 2**31


class CarriedState(keras.layers.Layer):
    """The state that a recurrent model carries from one batch to the next; a part of the training's state.

    It is no weight: it is saved in checkpoints of a training, like the numbers of dropout, and not with a model.

    Args:
        shapes: of the tensors of the state, (rows, hidden_dim) each.
        parts: number of batches of a step that have rows of their own, as with gradient accumulation.
        share: which part of the rows this process has, and of how many; the others' rows have no meaning here.
    """

    def __init__(
        self, shapes: list[tuple[int, int]], parts: int = 1, share: tuple[int, int] = (0, 1), **kwargs
    ) -> None:
        super().__init__(dtype="float32", trainable=False, **kwargs)
        self.share = share
        self.kept = [
            self.add_weight(
                name=f"state_{index}", shape=(parts, *shape), initializer="zeros", trainable=False
            )
            for index, shape in enumerate(shapes)
        ]
        for variable in self.kept if share[1] > 1 else ():
            variable.rows_axis = 1  # for `backend.whole`
        self.built = True

    @property
    def rows(self) -> int:
        """The number of rows of a batch that this process has."""
        return self.kept[0].shape[1] // self.share[1]

    @property
    def weights(self):
        """None."""
        return []

    def save_own_variables(self, store):
        """Saves nothing."""

    def load_own_variables(self, store):
        """Loads nothing."""

    def read(self, continues):
        """Returns the tensors of the state, with zeros for the rows that begin anew.

        Args:
            continues: (rows,), 1 where a row goes on from the batch before.
        """
        goes_on = ops.cast(continues, "float32")[:, None]
        first, end = self._own
        return [ops.convert_to_tensor(value)[0, first:end] * goes_on for value in self.kept]

    @property
    def _own(self) -> tuple[int, int]:
        """The first of the rows that this process has, and the end of them."""
        return self.share[0] * self.rows, (self.share[0] + 1) * self.rows

    def write(self, state):
        """Keeps the state for the same rows' next batch."""
        first, end = self._own
        for variable, value in zip(self.kept, state, strict=True):
            value = ops.stop_gradient(ops.cast(value, "float32"))[None]
            if self.share[1] > 1:
                value = ops.pad(value, ((0, 0), (first, variable.shape[1] - end), (0, 0)))
            if variable.shape[0] > 1:
                value = ops.concatenate([ops.convert_to_tensor(variable)[1:], value], axis=0)
            variable.assign(value)
