"""BERT's weights and settings by their names in Hugging Face's format; the one table serves both directions.

An entry maps one of our variables to theirs. Several of theirs are laid side by side along the last axis (the
query, key and value projections are one product here). A kernel is stored as (outputs, inputs) there,
(inputs, outputs) here, hence `transpose`.
"""

from __future__ import annotations

from kerasllm.checkpoints.name_table import Entry, norm
from kerasllm.models.bert.config import BertConfig


def _dense(ours: str, inputs: int, outputs: int, *theirs: str) -> list[Entry]:
    kernels, biases = (tuple(f"{name}.{part}" for name in theirs) for part in ("weight", "bias"))
    return [
        Entry(f"{ours}kernel", kernels, (inputs, outputs), transpose=True),
        Entry(f"{ours}bias", biases, (outputs,)),
    ]


def entries(config: BertConfig) -> list[Entry]:
    """The whole table, without the prefix `bert.` that the task models put before the encoder's names."""
    width, wide = config.hidden_dim, config.intermediate_dim or 4 * config.hidden_dim
    sizes = {
        "token": ("word", config.vocabulary_size),
        "position": ("position", config.max_sequence_length),
        "segment": ("token_type", config.num_segments),
    }
    found = [
        Entry(f"embeddings/{ours}", (f"embeddings.{theirs}_embeddings.weight",), (rows, width))
        for ours, (theirs, rows) in sizes.items()
    ]
    found += norm("embeddings/norm_", "embeddings.LayerNorm", width)
    for index in range(config.num_layers):
        ours, theirs = f"block_{index}/", f"encoder.layer.{index}."
        attention = f"{theirs}attention."
        projections = (f"{attention}self.query", f"{attention}self.key", f"{attention}self.value")
        found += _dense(f"{ours}query_key_value_", width, 3 * width, *projections)
        found += _dense(f"{ours}attention_output_", width, width, f"{attention}output.dense")
        found += norm(f"{ours}attention_norm_", f"{attention}output.LayerNorm", width)
        found += _dense(f"{ours}intermediate_", width, wide, f"{theirs}intermediate.dense")
        found += _dense(f"{ours}output_", wide, width, f"{theirs}output.dense")
        found += norm(f"{ours}output_norm_", f"{theirs}output.LayerNorm", width)
    return found + _dense("pooler/", width, width, "pooler.dense") + _heads(config)


def _heads(config: BertConfig) -> list[Entry]:
    width, rows = config.hidden_dim, config.vocabulary_size
    predictions = "cls.predictions."
    bias, other = f"{predictions}bias", f"{predictions}decoder.bias"
    if config.tie_embeddings:
        projection = [
            Entry("masked_lm_head/vocabulary_bias", (bias,), (rows,), alias=other, alias_first=True)
        ]
    else:  # transformers computes with the second bias, and misses the first if it is not there
        projection = [
            Entry("masked_lm_head/vocabulary_bias", (other,), (rows,), alias=bias, twice=True),
            Entry("masked_lm_projection/kernel", (f"{predictions}decoder.weight",), (rows, width)),
        ]
    classifier = [
        Entry("classifier/kernel", ("classifier.weight",), transpose=True),
        Entry("classifier/bias", ("classifier.bias",)),
    ]
    return [
        *_dense("masked_lm_head/", width, width, f"{predictions}transform.dense"),
        *norm("masked_lm_head/norm_", f"{predictions}transform.LayerNorm", width),
        *projection,
        *_dense("next_sentence_head/", width, 2, "cls.seq_relationship"),
        *classifier,
    ]


# What older files hold beside the weights, and what repeats the token embedding where it is the projection.
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")

# Our setting, theirs. Both directions.
CONFIG_NAMES = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "classifier_dropout": "classifier_dropout",
    "activation": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "tie_embeddings": "tie_word_embeddings",
    "pad_token_id": "pad_token_id",
}

# What their config.json means where it leaves a setting out, as far as ours means something else.
DEFAULTS = {"intermediate_size": 3072, "attention_probs_dropout_prob": 0.1}
