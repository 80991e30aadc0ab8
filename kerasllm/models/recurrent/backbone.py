"""Token embeddings and layers of recurrent cells, as `torch.nn.LSTM`, `GRU` and `RNN` compute them."""

from __future__ import annotations

from typing import Any

import keras

from kerasllm.layers import TransformerEmbeddings
from kerasllm.layers.heads import ProjectionHead
from kerasllm.layers.recurrent import LockedDropout, RecurrentLayer
from kerasllm.models.base import LanguageModel
from kerasllm.models.recurrent.config import RecurrentConfig


@keras.saving.register_keras_serializable(package="kerasllm")
class RecurrentBackbone(LanguageModel):
    """A recurrent model without a head.

    Args:
        config: the architecture.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`.

    Call it with a dict of `token_ids` int (batch, length) and, optionally, `padding_mask` (batch, length), 1 for real
    tokens: padding, wherever it stands, leaves the state as it is. It returns a dict of `sequence_output`
    (batch, length, output_dim).

    Reference: Mikolov et al. 2010, "Recurrent neural network based language model"; Zaremba et al. 2014,
    https://arxiv.org/abs/1409.2329.
    """

    config_class = RecurrentConfig
    accepted_inputs = ("token_ids", "padding_mask")

    def __init__(self, config: RecurrentConfig, *, seed: int | None = None, **kwargs: Any):
        super().__init__(config, seed=seed, **kwargs)
        settings: dict[str, Any] = {"seed": self.seed, "dtype": self.dtype_policy}
        self.embeddings = TransformerEmbeddings(
            vocabulary_size=config.vocabulary_size,
            max_sequence_length=config.max_sequence_length,
            hidden_dim=config.embedding_dim or 0,
            num_segments=0,
            learned_positions=False,
            normalize=False,
            truncated=False,
            standard_deviation=config.initializer_range or 0.0,
            name="embeddings",
            **settings,
        )
        self.recurrent_layers = [
            RecurrentLayer(
                cell=config.kind,
                hidden_dim=config.hidden_dim,
                bidirectional=config.bidirectional,
                dropout=config.dropout if index else config.embedding_dropout or 0.0,
                weight_drop=config.weight_drop,
                name=f"recurrent_{index}",
                **settings,
            )
            for index in range(config.num_layers)
        ]
        self.projection = None
        wide = config.hidden_dim * (1 + config.bidirectional)
        if config.use_projection:
            self.projection = ProjectionHead(
                num_outputs=config.output_dim, standard_deviation=wide**-0.5, name="projection", **settings
            )
            self.projection.build((None, None, wide))
        self.output_dropout = LockedDropout(rate=config.dropout, name="output_dropout", **settings)
        self.embeddings.build((None, None))
        for index, layer in enumerate(self.recurrent_layers):
            layer.build((None, None, wide if index else config.embedding_dim))
        self.output_dropout.build((None, None, config.output_dim))
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        hidden, _ = self.run(inputs["token_ids"], None, inputs.get("padding_mask"), training=training)
        return {"sequence_output": hidden}

    def run(self, token_ids, state=None, padding_mask=None, training=False):
        """Returns the output (batch, length, output_dim) and the last state.

        Args:
            token_ids: int (batch, length).
            state: a list of the layers' states, see `RecurrentLayer`; None for zeros.
            padding_mask: (batch, length), 1 for real tokens; None if all are.
            training: whether there is dropout.
        """
        hidden = self.embeddings(token_ids, training=training)
        last = []
        for index, layer in enumerate(self.recurrent_layers):
            own = None if state is None else state[index]
            hidden, after = layer(hidden, own, padding_mask, training=training)
            last.append(after)
        hidden = hidden if self.projection is None else self.projection(hidden)
        return self.output_dropout(hidden, training=training), last
