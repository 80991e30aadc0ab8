"""The layers on top of a backbone: a last norm, pooling, the heads of the objectives and tasks."""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.dropout import CountsCalls, dropout
from kerasllm.layers.initializers import KeyedNormal, KeyedTruncatedNormal, default_seed
from kerasllm.layers.positions import gather_positions
from kerasllm.layers.projections import Norm, dense


class _Head(keras.layers.Layer):
    """The base of the heads below, which have a seeded dense projection."""

    built: bool

    def __init__(self, *, standard_deviation: float = 0.02, seed: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.standard_deviation = standard_deviation
        self.seed = default_seed() if seed is None else seed

    def _dense(self, inputs: int, outputs: int):
        initializer = KeyedTruncatedNormal(self.standard_deviation, self.seed, f"{self.name}/kernel")
        kernel = self.add_weight(name="kernel", shape=(inputs, outputs), initializer=initializer)
        return kernel, self.add_weight(name="bias", shape=(outputs,), initializer="zeros")

    def _project(self, hidden):
        # The casts are for a symbolic call on torch, in which Keras gives weights in float32 whatever the precision.
        return ops.matmul(hidden, ops.cast(self.kernel, hidden.dtype)) + ops.cast(self.bias, hidden.dtype)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"standard_deviation": self.standard_deviation, "seed": self.seed}


@keras.saving.register_keras_serializable(package="kerasllm")
class Pooler(_Head):
    """A tanh projection of the first token, [CLS]: (batch, length, hidden_dim) → (batch, hidden_dim).

    Args:
        standard_deviation: of the initial values.
        seed: of the initial values.

    With `first_positions` int (batch, slots), those of the first tokens of a row's several sequences, it
    returns (batch, slots, hidden_dim).

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805 (released code).
    """

    def build(self, hidden_shape, first_positions_shape=None):
        """Creates the weights."""
        if not self.built:
            self.kernel, self.bias = self._dense(hidden_shape[-1], hidden_shape[-1])
            self.built = True

    def call(self, hidden, first_positions=None):
        """See the class."""
        first = hidden[:, 0, :] if first_positions is None else gather_positions(hidden, first_positions)
        return ops.tanh(self._project(first))

    def compute_output_shape(self, hidden_shape, first_positions_shape=None):
        """Returns (batch, hidden_dim), or (batch, slots, hidden_dim)."""
        return (*(first_positions_shape or hidden_shape[:1]), hidden_shape[-1])


@keras.saving.register_keras_serializable(package="kerasllm")
class MaskedLanguageModelHead(_Head):
    """Scores of every token of the vocabulary, at the masked positions only.

    The positions are gathered *before* the projection to the vocabulary: at 15 % masking that projection,
    the largest matrix product of a small BERT, costs a sixth of the dense one. The projection is the token
    embedding's transpose, with a bias of its own.

    Args:
        vocabulary_size: number of scores.
        activation: between the dense projection and the layer normalization.
        layer_norm_epsilon: added to the variance.
        standard_deviation: of the initial values.
        seed: of the initial values.

    Call with `hidden` (batch, length, hidden_dim), `token_table` (vocabulary_size, hidden_dim) and, optionally,
    `masked_positions` int (batch, slots). Returns (batch, slots, vocabulary_size), or
    (batch, length, vocabulary_size) without positions.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1.
    """

    def __init__(
        self, *, vocabulary_size: int, activation: str = "gelu", layer_norm_epsilon: float = 1e-12, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon

    def build(self, hidden_shape, token_table_shape=None, masked_positions_shape=None):
        """Creates the weights."""
        if self.built:
            return
        width = hidden_shape[-1]
        self.kernel, self.bias = self._dense(width, width)
        self.norm = Norm(self, "norm", width, epsilon=self.layer_norm_epsilon)
        self.vocabulary_bias = self.add_weight(
            name="vocabulary_bias", shape=(self.vocabulary_size,), initializer="zeros"
        )
        self.built = True

    def call(self, hidden, token_table, masked_positions=None):
        """See the class."""
        if masked_positions is not None:
            hidden = gather_positions(hidden, masked_positions)
        hidden = self.norm(backend.activation(dense(hidden, self.kernel, self.bias), self.activation))
        return dense(hidden, token_table, self.vocabulary_bias, transposed=True)

    def compute_output_shape(self, hidden_shape, token_table_shape=None, masked_positions_shape=None):
        """Returns (batch, slots or length, vocabulary_size)."""
        return (*(masked_positions_shape or hidden_shape[:2]), self.vocabulary_size)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }


@keras.saving.register_keras_serializable(package="kerasllm")
class ClassificationHead(CountsCalls, _Head):
    """Dropout, then a projection of a pooled output to scores: (..., hidden_dim) → (..., num_outputs).

    Args:
        num_outputs: number of scores; 2 for next-sentence prediction, 1 for regression.
        dropout: of the input.
        standard_deviation: of the initial values.
        seed: of the initial values and the dropout.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 4.1.
    """

    def __init__(self, *, num_outputs: int, dropout: float = 0.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_outputs = num_outputs
        self.dropout = dropout
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, input_shape):
        """Creates the weights."""
        if not self.built:
            self.kernel, self.bias = self._dense(input_shape[-1], self.num_outputs)
            self.built = True

    def call(self, pooled, training=False):
        """See the class."""
        pooled = dropout(pooled, self.dropout if training else 0.0, self.seed_generator)
        return self._project(pooled)

    def compute_output_shape(self, input_shape):
        """Returns (..., num_outputs)."""
        return (*input_shape[:-1], self.num_outputs)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"num_outputs": self.num_outputs, "dropout": self.dropout}


@keras.saving.register_keras_serializable(package="kerasllm")
class ProjectionHead(_Head):
    """A dense projection with an activation: (..., hidden_dim) → (..., num_outputs).

    Args:
        num_outputs: size of the result.
        activation: "linear" for none, or a name of `keras.activations`.
        standard_deviation: of the initial values.
        seed: of the initial values.
    """

    def __init__(self, *, num_outputs: int, activation: str = "linear", **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_outputs = num_outputs
        self.activation = activation

    def build(self, input_shape):
        """Creates the weights."""
        if not self.built:
            self.kernel, self.bias = self._dense(input_shape[-1], self.num_outputs)
            self.built = True

    def call(self, inputs):
        """See the class."""
        return backend.activation(ops.matmul(inputs, self.kernel) + self.bias, self.activation)

    def compute_output_shape(self, input_shape):
        """Returns (..., num_outputs)."""
        return (*input_shape[:-1], self.num_outputs)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"num_outputs": self.num_outputs, "activation": self.activation}


@keras.saving.register_keras_serializable(package="kerasllm")
class FinalNorm(keras.layers.Layer):
    """The normalization after the last pre-normalized block; keeps the shape (..., hidden_dim).

    Args:
        normalization: "layer_norm" or "rms_norm".
        layer_norm_epsilon: added to the variance, or the mean square.
        use_bias: whether a layer norm has a bias.

    Reference: Radford et al. 2019, section 2.3.
    """

    built: bool

    def __init__(
        self,
        *,
        normalization: str = "layer_norm",
        layer_norm_epsilon: float = 1e-5,
        use_bias: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.normalization = normalization
        self.layer_norm_epsilon = layer_norm_epsilon
        self.use_bias = use_bias

    def build(self, input_shape):
        """Creates the weights."""
        if not self.built:
            self.norm = Norm(
                self,
                "norm",
                input_shape[-1],
                kind=self.normalization,
                epsilon=self.layer_norm_epsilon,
                use_bias=self.use_bias,
            )
            self.built = True

    @property
    def norm_scale(self):
        """The scale (hidden_dim,)."""
        return self.norm.scale

    def call(self, hidden):
        """See the class."""
        return self.norm(hidden)

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return input_shape

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "normalization": self.normalization,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "use_bias": self.use_bias,
        }


@keras.saving.register_keras_serializable(package="kerasllm")
class VocabularyHead(keras.layers.Layer):
    """An output projection of its own, not tied to the embedding: holds `kernel` (vocabulary_size, hidden_dim).

    Args:
        vocabulary_size: number of scores.
        use_bias: whether there is a `bias` (vocabulary_size,), too.
        standard_deviation: of the initial values.
        seed: of the initial values.

    Call with (..., hidden_dim); returns (..., vocabulary_size).

    Reference: Press and Wolf 2017, https://arxiv.org/abs/1608.05859, on tying and not tying.
    """

    built: bool

    def __init__(
        self,
        *,
        vocabulary_size: int,
        use_bias: bool = False,
        standard_deviation: float = 0.02,
        seed: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.use_bias = use_bias
        self.bias = None
        self.standard_deviation = standard_deviation
        self.seed = default_seed() if seed is None else seed

    def build(self, input_shape):
        """Creates the weights."""
        if not self.built:
            initializer = KeyedNormal(self.standard_deviation, self.seed, f"{self.name}/kernel")
            shape = (self.vocabulary_size, input_shape[-1])
            self.kernel = self.add_weight(name="kernel", shape=shape, initializer=initializer)
            if self.use_bias:
                self.bias = self.add_weight(name="bias", shape=shape[:1], initializer="zeros")
            self.built = True

    def call(self, hidden):
        """See the class."""
        return dense(hidden, self.kernel, self.bias, transposed=True)

    def compute_output_shape(self, input_shape):
        """Returns (..., vocabulary_size)."""
        return (*input_shape[:-1], self.vocabulary_size)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "use_bias": self.use_bias,
            "standard_deviation": self.standard_deviation,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="kerasllm")
class OutputBias(keras.layers.Layer):
    """A bias that is added to the scores of the vocabulary and is not trained, as Marian has it; zero at first.

    Args:
        vocabulary_size: number of scores.

    Call with (..., vocabulary_size); returns the same shape.
    """

    built: bool

    def __init__(self, *, vocabulary_size: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size

    def build(self, scores_shape=None):
        """Creates the weight, (1, vocabulary_size)."""
        if not self.built:
            shape = (1, self.vocabulary_size)
            self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros", trainable=False)
            self.built = True

    def call(self, scores):
        """See the class."""
        return scores + ops.convert_to_tensor(self.bias, scores.dtype)[0]

    def compute_output_shape(self, scores_shape):
        """Returns the shape of the input."""
        return scores_shape

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"vocabulary_size": self.vocabulary_size}
