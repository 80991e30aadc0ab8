"""BERT's weights and settings by their names in Hugging Face's format; the one table serves both directions.

An entry maps one of our variables to theirs. Several of theirs are laid side by side along the last axis (the
query, key and value projections are one product here). A kernel is stored as (outputs, inputs) there,
(inputs, outputs) here, hence `transpose`.
"""

from __future__ import annotations

from kerasllm.checkpoints.name_table import Entry, norm


def _dense(ours: str, *theirs: str) -> list[Entry]:
    return [
        Entry(f"{ours}kernel", tuple(f"{name}.weight" for name in theirs), transpose=True),
        Entry(f"{ours}bias", tuple(f"{name}.bias" for name in theirs)),
    ]


def backbone_entries(num_layers: int) -> list[Entry]:
    """The encoder's entries, without the prefix `bert.` that the task models put before them."""
    entries = [
        Entry("embeddings/token", ("embeddings.word_embeddings.weight",)),
        Entry("embeddings/position", ("embeddings.position_embeddings.weight",)),
        Entry("embeddings/segment", ("embeddings.token_type_embeddings.weight",)),
        *norm("embeddings/norm_", "embeddings.LayerNorm"),
    ]
    for index in range(num_layers):
        ours, theirs = f"block_{index}/", f"encoder.layer.{index}."
        attention = f"{theirs}attention."
        projections = (f"{attention}self.query", f"{attention}self.key", f"{attention}self.value")
        entries += _dense(f"{ours}query_key_value_", *projections)
        entries += _dense(f"{ours}attention_output_", f"{attention}output.dense")
        entries += norm(f"{ours}attention_norm_", f"{attention}output.LayerNorm")
        entries += _dense(f"{ours}intermediate_", f"{theirs}intermediate.dense")
        entries += _dense(f"{ours}output_", f"{theirs}output.dense")
        entries += norm(f"{ours}output_norm_", f"{theirs}output.LayerNorm")
    return entries + _dense("pooler/", "pooler.dense")


HEAD_ENTRIES = [
    *_dense("masked_lm_head/", "cls.predictions.transform.dense"),
    *norm("masked_lm_head/norm_", "cls.predictions.transform.LayerNorm"),
    Entry("masked_lm_head/vocabulary_bias", ("cls.predictions.bias",)),
    *_dense("next_sentence_head/", "cls.seq_relationship"),
    *_dense("classifier/", "classifier"),
]

# Tensors that older files hold and that repeat another one or are no weights.
REDUNDANT = (
    "embeddings.position_ids",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
)

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
    "activation": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
}
