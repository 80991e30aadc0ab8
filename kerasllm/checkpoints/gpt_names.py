"""GPT's weights and settings by their names in Hugging Face's format, as a GPT-2 and as a Llama.

GPT-2's kernels are stored as (inputs, outputs), like ours; Llama's as (outputs, inputs).
"""

from __future__ import annotations

from kerasllm.checkpoints.name_table import Entry, norm
from kerasllm.models.gpt_config import GPTConfig


def gpt2_entries(config: GPTConfig) -> list[Entry]:
    """Of a GPT-2, without the prefix `transformer.`."""
    entries = [
        Entry("embeddings/token", ("wte.weight",)),
        Entry("embeddings/position", ("wpe.weight",)),
    ]
    for index in range(config.num_layers):
        ours, theirs = f"block_{index}/", f"h.{index}."
        entries += norm(f"{ours}attention_norm_", f"{theirs}ln_1")
        entries += _stored_like_ours(f"{ours}query_key_value_", f"{theirs}attn.c_attn")
        entries += _stored_like_ours(f"{ours}attention_output_", f"{theirs}attn.c_proj")
        entries += norm(f"{ours}feed_forward_norm_", f"{theirs}ln_2")
        entries += _stored_like_ours(f"{ours}intermediate_", f"{theirs}mlp.c_fc")
        entries += _stored_like_ours(f"{ours}output_", f"{theirs}mlp.c_proj")
    entries += norm("final_norm/norm_", "ln_f")
    return [*entries, Entry("head/kernel", ("lm_head.weight",))]


def _stored_like_ours(ours: str, theirs: str) -> list[Entry]:
    return [Entry(f"{ours}kernel", (f"{theirs}.weight",)), Entry(f"{ours}bias", (f"{theirs}.bias",))]


def llama_entries(config: GPTConfig) -> list[Entry]:
    """Of a Llama, without the prefix `model.`."""
    shared = config.key_value_heads * config.head_dim
    heads, gates = (config.hidden_dim, shared, shared), (config.intermediate_dim or 0,) * 2
    entries = [Entry("embeddings/token", ("embed_tokens.weight",))]
    for index in range(config.num_layers):
        ours, theirs = f"block_{index}/", f"layers.{index}."

        def kernel(
            name: str, *others: str, widths: tuple[int, ...] | None = None, ours=ours, theirs=theirs
        ) -> Entry:
            stored = tuple(f"{theirs}{other}_proj.weight" for other in others)
            return Entry(f"{ours}{name}_kernel", stored, transpose=True, widths=widths)

        entries += [
            *norm(f"{ours}attention_norm_", f"{theirs}input_layernorm", bias=False),
            kernel("query_key_value", "self_attn.q", "self_attn.k", "self_attn.v", widths=heads),
            kernel("attention_output", "self_attn.o"),
            *norm(f"{ours}feed_forward_norm_", f"{theirs}post_attention_layernorm", bias=False),
            kernel("intermediate", "mlp.gate", "mlp.up", widths=gates),
            kernel("output", "mlp.down"),
        ]
    entries += norm("final_norm/norm_", "norm", bias=False)
    return [*entries, Entry("head/kernel", ("lm_head.weight",))]


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
    "activation": "activation_function",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
    "tie_embeddings": "tie_word_embeddings",
    "end_token_id": "eos_token_id",
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
    "end_token_id": "eos_token_id",
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
