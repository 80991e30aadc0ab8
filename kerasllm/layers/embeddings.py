"""Token, position and segment embeddings in one layer: their sum is normalized once."""

import math

import keras
from keras import ops

from kerasllm.backend import is_symbolic, take_rows
from kerasllm.layers.dropout import CountsCalls, dropout
from kerasllm.layers.initializers import KeyedNormal, KeyedTruncatedNormal, default_seed
from kerasllm.layers.projections import Norm


@keras.saving.register_keras_serializable(package="kerasllm")
class TransformerEmbeddings(CountsCalls, keras.layers.Layer):
    """The sum of token, position and segment embeddings, layer-normalized, then dropped out.

    Args:
        vocabulary_size: number of tokens.
        max_sequence_length: number of positions; longer inputs are refused.
        hidden_dim: width.
        num_segments: number of segment embeddings; 0 for none.
        learned_positions: whether there are position embeddings; without, positions come in elsewhere.
        normalize: whether the sum is normalized; GPT-2's is not.
        truncated: whether the initial values are cut at two deviations, as BERT's are; GPT-2's are not.
        dropout: of the sum.
        layer_norm_epsilon: added to the variance.
        standard_deviation: of the initial values.
        seed: of the initial values and the dropout.

    Call with `token_ids` int (batch, length) and, optionally, `segment_ids` of the same shape (0 where left
    out) and `position_ids` (0, 1, 2 … where left out). Returns (batch, length, hidden_dim).

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, figure 2; Radford et al. 2019.
    """

    built: bool

    def __init__(
        self,
        *,
        vocabulary_size: int,
        max_sequence_length: int,
        hidden_dim: int,
        num_segments: int = 2,
        learned_positions: bool = True,
        normalize: bool = True,
        truncated: bool = True,
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
        self.learned_positions = learned_positions
        self.normalize = normalize
        self.truncated = truncated
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.standard_deviation = standard_deviation
        self.seed = default_seed() if seed is None else seed
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        # Keras would cast ids that come as floats to the type computed in: bfloat16 has no 257.
        self._convert_input_args, self._allow_non_tensor_positional_args = False, True

    def build(self, token_ids_shape=None, segment_ids_shape=None, position_ids_shape=None):
        """Creates the tables; the shapes of the inputs do not matter."""
        if self.built:
            return

        normal = KeyedTruncatedNormal if self.truncated else KeyedNormal

        def table(name, rows):
            initializer = normal(self.standard_deviation, self.seed, f"{self.name}/{name}")
            return self.add_weight(name=name, shape=(rows, self.hidden_dim), initializer=initializer)

        self.token = table("token", self.vocabulary_size)
        self.position = table("position", self.max_sequence_length) if self.learned_positions else None
        self.segment = table("segment", self.num_segments) if self.num_segments else None
        if self.normalize:
            self.norm = Norm(self, "norm", self.hidden_dim, epsilon=self.layer_norm_epsilon)
        self.built = True

    def call(self, token_ids, segment_ids=None, position_ids=None, training=False):
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
        if self.position is not None and position_ids is not None:
            hidden = hidden + take_rows(self.position, position_ids)
        elif self.position is not None:
            hidden = hidden + ops.convert_to_tensor(self.position)[: ops.shape(token_ids)[1]]
        if self.segment is not None:
            if segment_ids is None:
                hidden = hidden + ops.convert_to_tensor(self.segment)[0]
            else:
                # A product with the one-hot of two or so segments: its gradient is a matrix product, where
                # that of a gather would be a scatter over every token of the batch.
                # It is a comparison, since torch's own one-hot looks at the values, which cannot be recorded.
                numbers = ops.arange(self.num_segments, dtype=segment_ids.dtype)
                one_hot = ops.cast(segment_ids[:, :, None] == numbers, hidden.dtype)
                hidden = hidden + ops.matmul(one_hot, self.segment)
                is_segment = ops.logical_and(segment_ids >= 0, segment_ids < self.num_segments)
                # Any other number would count as no segment, in silence.
                nothing = ops.where(is_segment, ops.cast(0, hidden.dtype), ops.cast(math.nan, hidden.dtype))
                hidden = hidden + nothing[:, :, None]
        if self.normalize:
            hidden = self.norm(hidden)
        return dropout(hidden, self.dropout if training else 0.0, self.seed_generator)

    def compute_output_shape(self, token_ids_shape, segment_ids_shape=None, position_ids_shape=None):
        """Returns (batch, length, hidden_dim)."""
        return (*token_ids_shape, self.hidden_dim)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "max_sequence_length": self.max_sequence_length,
            "hidden_dim": self.hidden_dim,
            "num_segments": self.num_segments,
            "learned_positions": self.learned_positions,
            "normalize": self.normalize,
            "truncated": self.truncated,
            "dropout": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "standard_deviation": self.standard_deviation,
            "seed": self.seed,
        }
