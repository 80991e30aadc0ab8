"""Token, position and segment embeddings in one layer: their sum is normalised once."""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.dropout import dropout
from kerasllm.layers.initializers import KeyedTruncatedNormal, default_seed


@keras.saving.register_keras_serializable(package="kerasllm")
class TransformerEmbeddings(keras.layers.Layer):
    """The sum of token, learned position and segment embeddings, layer-normalised, then dropped out.

    Args:
        vocabulary_size: number of tokens.
        max_sequence_length: number of positions; longer inputs are refused.
        hidden_dim: width.
        num_segments: number of segment embeddings; 0 for none.
        dropout: of the sum.
        layer_norm_epsilon: added to the variance.
        standard_deviation: of the initial values.
        seed: of the initial values and the dropout.

    Call with `token_ids` int (batch, length) and, optionally, `segment_ids` of the same shape (0 where left
    out). Returns (batch, length, hidden_dim).

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, figure 2.
    """

    built: bool

    def __init__(
        self,
        *,
        vocabulary_size: int,
        max_sequence_length: int,
        hidden_dim: int,
        num_segments: int = 2,
        dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-12,
        standard_deviation: float = 0.02,
        seed: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.max_sequence_length = max_sequence_length
        self.hidden_dim = hidden_dim
        self.num_segments = num_segments
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.standard_deviation = standard_deviation
        self.seed = default_seed() if seed is None else seed
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, token_ids_shape=None, segment_ids_shape=None):
        """Creates the tables; the shapes of the inputs do not matter."""
        if self.built:
            return

        def table(name, rows):
            initializer = KeyedTruncatedNormal(self.standard_deviation, self.seed, f"{self.name}/{name}")
            return self.add_weight(name=name, shape=(rows, self.hidden_dim), initializer=initializer)

        self.token = table("token", self.vocabulary_size)
        self.position = table("position", self.max_sequence_length)
        self.segment = table("segment", self.num_segments) if self.num_segments else None
        self.norm_scale = self.add_weight(name="norm_scale", shape=(self.hidden_dim,), initializer="ones")
        self.norm_bias = self.add_weight(name="norm_bias", shape=(self.hidden_dim,), initializer="zeros")
        self.built = True

    def call(self, token_ids, segment_ids=None, training=False):
        """See the class."""
        length = token_ids.shape[1]
        if length is not None and length > self.max_sequence_length:
            raise ValueError(
                f"the sequence is {length} tokens long, the model has {self.max_sequence_length} positions: "
                "shorten it or build the model with a larger max_sequence_length"
            )
        hidden = ops.take(self.token, token_ids, axis=0)  # (batch, length, hidden_dim)
        hidden = hidden + ops.convert_to_tensor(self.position)[: ops.shape(token_ids)[1]]
        if self.segment is not None:
            if segment_ids is None:
                hidden = hidden + ops.convert_to_tensor(self.segment)[0]
            else:
                # A product with the one-hot of two or so segments: its gradient is a matrix product, where
                # that of a gather would be a scatter over every token of the batch.
                one_hot = ops.one_hot(segment_ids, self.num_segments, dtype=hidden.dtype)
                hidden = hidden + ops.matmul(one_hot, self.segment)
        hidden = backend.layer_norm(hidden, self.norm_scale, self.norm_bias, self.layer_norm_epsilon)
        return dropout(hidden, self.dropout if training else 0.0, self.seed_generator)

    def compute_output_shape(self, token_ids_shape, segment_ids_shape=None):
        """(batch, length, hidden_dim)."""
        return (*token_ids_shape, self.hidden_dim)

    def get_config(self):
        """The arguments of the constructor."""
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "max_sequence_length": self.max_sequence_length,
            "hidden_dim": self.hidden_dim,
            "num_segments": self.num_segments,
            "dropout": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "standard_deviation": self.standard_deviation,
            "seed": self.seed,
        }
