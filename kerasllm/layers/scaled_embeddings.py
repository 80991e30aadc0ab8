"""Embeddings of an encoder-decoder: tokens, scaled, and positions; padding has a row of zeros that is not trained."""

import math

import keras
import numpy as np
from keras import ops

from kerasllm.backend import is_symbolic, take_rows, whole
from kerasllm.layers.dropout import CountsCalls, dropout
from kerasllm.layers.initializers import KeyedNormal, default_seed


def sinusoids(length: int, width: int) -> np.ndarray:
    """Returns sinusoidal positions, float32 (length, width), sines in the first half and cosines in the second.

    Args:
        length: number of positions.
        width: of the embeddings, even.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5, where both alternate.
    """
    exponents = np.arange(width // 2) * 2 / width
    angles = np.arange(length)[:, None] / 10000.0**exponents
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


@keras.saving.register_keras_serializable(package="kerasllm")
class ScaledEmbeddings(CountsCalls, keras.layers.Layer):
    """The sum of scaled token embeddings and positions, then dropout.

    Args:
        vocabulary_size: number of tokens.
        max_sequence_length: number of positions; longer inputs are refused.
        hidden_dim: width, even for sinusoidal positions.
        pad_token_id: the token of padding, whose row is zero and is not trained.
        positions: "sinusoidal", or "learned", with a table for each of encoder and decoder.
        scale: whether token embeddings are multiplied by sqrt(hidden_dim).
        dropout: of the sum.
        standard_deviation: of the initial values of tokens.
        position_deviation: of the initial values of learned positions.
        seed: of the initial values and the dropout.

    Call with `token_ids` int (batch, length) and, optionally, `position_ids` int, broadcastable to the same shape
    (0, 1, 2 … where left out), and `is_target`, whether the tokens are the decoder's. Returns
    (batch, length, hidden_dim).

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, sections 3.4 and 3.5.
    """

    built: bool

    def __init__(
        self,
        *,
        vocabulary_size: int,
        max_sequence_length: int,
        hidden_dim: int,
        pad_token_id: int,
        positions: str = "sinusoidal",
        scale: bool = True,
        dropout: float = 0.0,
        standard_deviation: float = 0.02,
        position_deviation: float = 0.02,
        seed: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.max_sequence_length = max_sequence_length
        self.hidden_dim = hidden_dim
        self.pad_token_id = pad_token_id
        self.positions = positions
        self.scale = scale
        self.dropout = dropout
        self.standard_deviation = standard_deviation
        self.position_deviation = position_deviation
        self.seed = default_seed() if seed is None else seed
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        # Keras would cast ids that come as floats to the type computed in: bfloat16 has no 257.
        self._convert_input_args, self._allow_non_tensor_positional_args = False, True

    def build(self, token_ids_shape=None, position_ids_shape=None):
        """Creates the tables; the shapes of the inputs do not matter."""
        if self.built:
            return

        def table(name, rows, deviation):
            initializer = KeyedNormal(deviation, self.seed, f"{self.name}/{name}")
            return self.add_weight(name=name, shape=(rows, self.hidden_dim), initializer=initializer)

        self.token = table("token", self.vocabulary_size, self.standard_deviation)
        rows = whole(self.token).copy()
        rows[self.pad_token_id] = 0
        self.token.assign(rows)
        self.source_position = self.target_position = None
        if self.positions == "learned":
            rows = self.max_sequence_length
            self.source_position = table("source_position", rows, self.position_deviation)
            self.target_position = table("target_position", rows, self.position_deviation)
        self.built = True

    def call(self, token_ids, position_ids=None, is_target=False, training=False):
        """See the class."""
        token_ids = ops.convert_to_tensor(token_ids, "int32")
        length = token_ids.shape[1]
        if is_symbolic(token_ids, axis=1):
            if position_ids is None:
                position_ids = ops.arange(length, dtype="int32")[None]
        elif isinstance(length, int) and length > self.max_sequence_length:
            raise ValueError(
                f"the sequence is {length} tokens long, the model has {self.max_sequence_length} positions: "
                "shorten it or build the model with a larger max_sequence_length"
            )
        hidden = take_rows(self.token, token_ids)  # (batch, length, hidden_dim)
        real = ops.cast(ops.not_equal(token_ids, self.pad_token_id), hidden.dtype)
        factor = math.sqrt(self.hidden_dim) if self.scale else 1.0
        hidden = hidden * (real * factor)[:, :, None]  # by which the row of padding has no gradient
        positions = self._position_table(is_target, hidden.dtype)
        if position_ids is None:
            hidden = hidden + positions[: ops.shape(token_ids)[1]]
        else:
            hidden = hidden + ops.take(positions, position_ids, axis=0)
        return dropout(hidden, self.dropout if training else 0.0, self.seed_generator)

    def _position_table(self, is_target: bool, kind: str):
        """Returns the positions' embeddings (max_sequence_length, hidden_dim)."""
        if self.positions == "learned":
            return ops.convert_to_tensor(self.target_position if is_target else self.source_position)
        return ops.cast(sinusoids(self.max_sequence_length, self.hidden_dim), kind)

    def without_padding(self, table):
        """Returns a table (vocabulary_size, hidden_dim) with the row of padding zero, and without a gradient there."""
        real = ops.arange(self.vocabulary_size)[:, None] != self.pad_token_id
        return ops.where(real, table, ops.zeros_like(table))

    def compute_output_shape(self, token_ids_shape, position_ids_shape=None):
        """Returns (batch, length, hidden_dim)."""
        return (*token_ids_shape, self.hidden_dim)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "max_sequence_length": self.max_sequence_length,
            "hidden_dim": self.hidden_dim,
            "pad_token_id": self.pad_token_id,
            "positions": self.positions,
            "scale": self.scale,
            "dropout": self.dropout,
            "standard_deviation": self.standard_deviation,
            "position_deviation": self.position_deviation,
            "seed": self.seed,
        }
