"""GPT's weights and settings by their names in Hugging Face's format, as a GPT-2 and as a Llama.

GPT-2's kernels are stored as (inputs, outputs), like ours; Llama's as (outputs, inputs).
"""

from __future__ import annotations

from kerasllm.checkpoints.name_table import Entry, norm
from kerasllm.models.gpt.config import GPTConfig


def gpt2_entries(config: GPTConfig) -> list[Entry]:
    """Of a GPT-2, without the prefix `transformer.`."""
    width, wide = config.hidden_dim, _intermediate(config)
    found = [
        Entry("embeddings/token", ("wte.weight",), (config.vocabulary_size, width)),
        Entry("embeddings/position", ("wpe.weight",), (config.max_sequence_length, width)),
    ]
    for index in range(config.num_layers):
        ours, theirs = f"block_{index}/", f"h.{index}."
        found += norm(f"{ours}attention_norm_", f"{theirs}ln_1", width)
        found += _stored_like_ours(
            f"{ours}query_key_value_", f"{theirs}attn.c_attn", (width, sum(_heads(config)))
        )
        found += _stored_like_ours(f"{ours}attention_output_", f"{theirs}attn.c_proj", (width, width))
        found += norm(f"{ours}feed_forward_norm_", f"{theirs}ln_2", width)
        found += _stored_like_ours(f"{ours}intermediate_", f"{theirs}mlp.c_fc", (width, sum(wide)))
        found += _stored_like_ours(f"{ours}output_", f"{theirs}mlp.c_proj", (wide[0], width))
    return found + norm("final_norm/norm_", "ln_f", width) + _head(config)


def _heads(config: GPTConfig) -> tuple[int, int, int]:
    """Widths of queries, keys and values."""
    shared = config.key_value_heads * config.head_dim
    return config.hidden_dim, shared, shared


def _intermediate(config: GPTConfig) -> tuple[int, ...]:
    """Widths of the gate, if there is one, and of what it gates."""
    wide = config.intermediate_dim or 4 * config.hidden_dim
    return (wide, wide) if config.feed_forward == "gated" else (wide,)


def _head(config: GPTConfig) -> list[Entry]:
    shape = (config.vocabulary_size, config.hidden_dim)
    return [] if config.tie_embeddings else [Entry("head/kernel", ("lm_head.weight",), shape)]


def _stored_like_ours(ours: str, theirs: str, shape: tuple[int, int]) -> list[Entry]:
    return [
        Entry(f"{ours}kernel", (f"{theirs}.weight",), shape),
        Entry(f"{ours}bias", (f"{theirs}.bias",), shape[1:]),
    ]


def llama_entries(config: GPTConfig) -> list[Entry]:
    """Of a Llama, without the prefix `model.`."""
    width, wide = config.hidden_dim, config.intermediate_dim or 4 * config.hidden_dim
    heads, gates = _heads(config), (wide, wide)
    found = [Entry("embeddings/token", ("embed_tokens.weight",), (config.vocabulary_size, width))]
    for index in range(config.num_layers):
        ours, theirs = f"block_{index}/", f"layers.{index}."

        def kernel(
            name: str, inputs: int, widths: tuple[int, ...], *others: str, ours=ours, theirs=theirs
        ) -> Entry:
            stored = tuple(f"{theirs}{other}_proj.weight" for other in others)
            shape = (inputs, sum(widths))
            return Entry(f"{ours}{name}_kernel", stored, shape, transpose=True, widths=widths)

        found += [
            *norm(f"{ours}attention_norm_", f"{theirs}input_layernorm", width, bias=False),
            kernel("query_key_value", width, heads, "self_attn.q", "self_attn.k", "self_attn.v"),
            kernel("attention_output", width, (width,), "self_attn.o"),
            *norm(f"{ours}feed_forward_norm_", f"{theirs}post_attention_layernorm", width, bias=False),
            kernel("intermediate", width, gates, "mlp.gate", "mlp.up"),
            kernel("output", wide, (width,), "mlp.down"),
        ]
    return found + norm("final_norm/norm_", "norm", width, bias=False) + _head(config)


def own_entries(config: GPTConfig) -> list[Entry]:
    """Of a shape that is neither: names of our own for the same variables, as they are."""

    def has(entry: Entry) -> bool:
        if entry.ours.endswith("norm_bias"):
            return config.use_bias and config.normalization == "layer_norm"
        if entry.ours.endswith("_bias"):
            return config.use_bias
        return entry.ours != "embeddings/position" or config.positions == "learned"

    return [
        Entry(entry.ours, (entry.ours.replace("/", "."),), entry.shape)
        for entry in gpt2_entries(config)
        if has(entry)
    ]


# Our setting, theirs. Both directions.
GPT2_CONFIG_NAMES = {
    "vocabulary_size": "vocab_size",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "hidden_dim": "n_embd",
    "intermediate_dim": "n_inner",
    "max_sequence_length": "n_positions",
    "dropout": "resid_pdrop",
    "attention_dropout": "attn_pdrop",
    "embedding_dropout": "embd_pdrop",
    "activation": "activation_function",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
    "tie_embeddings": "tie_word_embeddings",
}

LLAMA_CONFIG_NAMES = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "attention_dropout": "attention_dropout",
    "activation": "hidden_act",
    "layer_norm_epsilon": "rms_norm_eps",
    "initializer_range": "initializer_range",
    "tie_embeddings": "tie_word_embeddings",
}

GPT2_SHAPE = {
    "normalization": "layer_norm",
    "positions": "learned",
    "feed_forward": "dense",
    "use_bias": True,
}
LLAMA_SHAPE = {
    "normalization": "rms_norm",
    "positions": "rotary",
    "feed_forward": "gated",
    "use_bias": False,
}
