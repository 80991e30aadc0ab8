"""A recurrent encoder-decoder with attention.

The decoder's cells do not see what is attended to, so that all target positions are computed in one call: the context
joins their output afterwards.

Reference: Luong et al. 2015, https://arxiv.org/abs/1508.04025, sections 3 and 3.1 ("general" score).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasllm.backend.recurrent_cells import STATES
from kerasllm.layers import TransformerEmbeddings
from kerasllm.layers.heads import ProjectionHead
from kerasllm.layers.recurrent import LockedDropout, RecurrentLayer
from kerasllm.models.base import LanguageModel
from kerasllm.models.recurrent_seq2seq.config import RecurrentSeq2SeqConfig


@keras.saving.register_keras_serializable(package="kerasllm")
class RecurrentSeq2SeqBackbone(LanguageModel):
    """An encoder of both directions and a decoder that attends to it, without a language-model head.

    Args:
        config: the architecture.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`.

    Call it with a dict of `encoder_token_ids` int (batch, source_length), `decoder_token_ids` int
    (batch, target_length), which begin with the padding token, and, optionally, `encoder_padding_mask`
    (batch, source_length), 1 for real tokens. It returns a dict of `encoder_output`
    (batch, source_length, 2 * hidden_dim) and `sequence_output` (batch, target_length, hidden_dim).
    """

    config_class = RecurrentSeq2SeqConfig
    accepted_inputs = ("encoder_token_ids", "decoder_token_ids", "encoder_padding_mask")

    def __init__(self, config: RecurrentSeq2SeqConfig, *, seed: int | None = None, **kwargs: Any):
        super().__init__(config, seed=seed, **kwargs)
        settings: dict[str, Any] = {"seed": self.seed, "dtype": self.dtype_policy}
        width, layers = config.hidden_dim, range(config.num_layers)
        self.embeddings = TransformerEmbeddings(
            vocabulary_size=config.vocabulary_size,
            max_sequence_length=config.max_sequence_length,
            hidden_dim=width,
            num_segments=0,
            learned_positions=False,
            normalize=False,
            truncated=False,
            standard_deviation=config.initializer_range,
            name="embeddings",
            **settings,
        )
        shared: dict[str, Any] = {"cell": config.kind, "hidden_dim": width, "dropout": config.dropout}
        self.encoder_layers = [
            RecurrentLayer(bidirectional=True, **shared, name=f"encoder_{index}", **settings)
            for index in layers
        ]
        self.decoder_layers = [
            RecurrentLayer(**shared, name=f"decoder_{index}", **settings) for index in layers
        ]

        def projection(name: str, inputs: int, outputs: int, activation: str) -> ProjectionHead:
            spread = inputs**-0.5
            layer = ProjectionHead(
                num_outputs=outputs, activation=activation, standard_deviation=spread, name=name, **settings
            )
            layer.build((None, None, inputs))
            return layer

        self.bridges = [
            [
                projection(f"bridge_{index}_{part}", 2 * width, width, "tanh")
                for part in range(STATES[config.kind])
            ]
            for index in layers
        ]
        self.attention_query = projection("attention_query", width, 2 * width, "linear")
        self.attention_output = projection("attention_output", 3 * width, width, "tanh")
        self.output_dropout = LockedDropout(rate=config.dropout, name="output_dropout", **settings)
        self.embeddings.build((None, None))
        for index in layers:
            self.encoder_layers[index].build((None, None, 2 * width if index else width))
            self.decoder_layers[index].build((None, None, width))
        self.output_dropout.build((None, None, width))
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        mask = inputs.get("encoder_padding_mask")
        encoded, state = self.encode(inputs["encoder_token_ids"], mask, training=training)
        hidden, _ = self.decode(inputs["decoder_token_ids"], state, training=training)
        hidden = self.attend(hidden, encoded, self.weights_of(hidden, encoded, mask))
        return {"encoder_output": encoded, "sequence_output": self.output_dropout(hidden, training=training)}

    def encode(self, token_ids, padding_mask=None, training=False):
        """Returns the encoder's output (batch, source_length, 2 * hidden_dim) and the decoder's first state.

        Args:
            token_ids: int (batch, source_length).
            padding_mask: (batch, source_length), 1 for real tokens, wherever they stand; None if all are.
            training: whether there is dropout.
        """
        hidden, begin = self.embeddings(token_ids, training=training), []
        for layer, bridges in zip(self.encoder_layers, self.bridges, strict=True):
            hidden, (forward, backward) = layer(hidden, None, padding_mask, training=training)
            parts = [ops.concatenate(pair, axis=-1) for pair in zip(forward, backward, strict=True)]
            begin.append([[bridge(part) for bridge, part in zip(bridges, parts, strict=True)]])
        return hidden, begin

    def decode(self, token_ids, state, training=False):
        """Returns the decoder's output before attention (batch, target_length, hidden_dim), and its last state.

        Args:
            token_ids: int (batch, target_length).
            state: a list of the layers' states.
            training: whether there is dropout.
        """
        hidden, last = self.embeddings(token_ids, training=training), []
        for layer, own in zip(self.decoder_layers, state, strict=True):
            hidden, after = layer(hidden, own, training=training)
            last.append(after)
        return hidden, last

    def weights_of(self, hidden, encoded, padding_mask=None):
        """Returns how much each target position attends to each source position, with sums of 1.

        Args:
            hidden: (batch, target_length, hidden_dim), of `decode`.
            encoded: (batch, source_length, 2 * hidden_dim).
            padding_mask: (batch, source_length), 1 for real tokens; None if all are.

        Returns:
            float32 (batch, target_length, source_length).
        """
        scores = ops.matmul(self.attention_query(hidden), ops.transpose(encoded, (0, 2, 1)))
        scores = ops.cast(scores, "float32")
        if padding_mask is not None:
            real = ops.cast(ops.convert_to_tensor(padding_mask), "bool")[:, None]
            scores = ops.where(real, scores, -1e30)
        shares = ops.exp(
            scores - ops.max(scores, axis=-1, keepdims=True)
        )  # Keras' softmax warns of one place
        return shares / ops.sum(shares, axis=-1, keepdims=True)

    def attend(self, hidden, encoded, weights):
        """Returns the output (batch, target_length, hidden_dim) of what is attended to and the decoder's own output."""
        context = ops.matmul(ops.cast(weights, encoded.dtype), encoded)
        return self.attention_output(ops.concatenate([context, hidden], axis=-1))

    def cross_attention(self, inputs):
        """Returns how much each target position attends to each source position, for pictures of it.

        Args:
            inputs: the dict that `call` takes.

        Returns:
            float32 (1, batch, 1, target_length, source_length), as of one layer with one head.
        """
        mask = inputs.get("encoder_padding_mask")
        encoded, state = self.encode(inputs["encoder_token_ids"], mask)
        hidden, _ = self.decode(inputs["decoder_token_ids"], state)
        return self.weights_of(hidden, encoded, mask)[None, :, None]
