"""GPT in Hugging Face's format: a model is written as GPT-2 or Llama if it is one, otherwise in a format of our own.

GPT-2's kernels are stored as (inputs, outputs), like ours; Llama's kernels are stored as (outputs, inputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from kerasllm.checkpoints.config_fields import (
    TOKEN_NAMES,
    build_config,
    generation_tokens,
    read_fields,
    refuse_others,
    special_tokens,
    written_activation,
    written_tokens,
)
from kerasllm.checkpoints.name_table import Architecture, Entry, Format, norm
from kerasllm.errors import InputError, short
from kerasllm.models.gpt.backbone import GPTBackbone
from kerasllm.models.gpt.config import GPTConfig
from kerasllm.models.gpt.tasks import GPTCausalLM

_GPT2_END = 50256
"""The beginning and end token of a GPT-2 whose config.json names none."""
_TOKENS = {
    "end_token_id": "eos_token_id",
    "more_end_token_ids": "eos_token_id",
    "begin_token_id": "bos_token_id",
    "pad_token_id": "pad_token_id",
}


# Our setting: their setting. Used for reading and writing.
_GPT2_CONFIG_NAMES = {
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

_LLAMA_CONFIG_NAMES = {
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
_LLAMA_SHAPE = {
    "normalization": "rms_norm",
    "positions": "rotary",
    "feed_forward": "gated",
    "use_bias": False,
}


def _is_gpt2(config: GPTConfig) -> bool:
    return _has(config, GPT2_SHAPE) and config.key_value_heads == config.num_heads


def _is_llama(config: GPTConfig) -> bool:
    return _has(config, _LLAMA_SHAPE)


def _has(config: GPTConfig, shape: Mapping[str, Any]) -> bool:
    return all(getattr(config, name) == value for name, value in shape.items())


def _read_gpt2(theirs: Mapping[str, Any], path: str) -> GPTConfig:
    refuse_others(
        theirs,
        path,
        {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    )
    required = ("vocab_size", "n_embd", "n_layer", "n_head")
    defaults = {"attn_pdrop": 0.1, "embd_pdrop": 0.1}
    found = read_fields(theirs, path, _GPT2_CONFIG_NAMES, required, "activation_function", defaults)
    marks: dict[str, int] = {}
    if isinstance(theirs["vocab_size"], int) and theirs["vocab_size"] > _GPT2_END:
        marks = {"bos_token_id": _GPT2_END, "eos_token_id": _GPT2_END}
    return build_config(GPTConfig, found | special_tokens(theirs, marks), path, _GPT2_CONFIG_NAMES | _TOKENS)


def _write_gpt2(model: Any) -> dict[str, Any]:
    config: dict[str, Any] = {"architectures": [GPT2.architecture_of(type(model))]}
    config["model_type"] = "gpt2"
    config |= {name: getattr(model.config, ours) for ours, name in _GPT2_CONFIG_NAMES.items()}
    config["activation_function"] = written_activation(model.config)
    return config | written_tokens(model.config) | {"dtype": "float32"}


def _read_llama(theirs: Mapping[str, Any], path: str) -> GPTConfig:
    refuse_others(theirs, path, {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1})
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    found = read_fields(theirs, path, _LLAMA_CONFIG_NAMES, required, "hidden_act", {})
    found = {
        "activation": "silu",
        "layer_norm_epsilon": 1e-6,
        "max_sequence_length": 2048,
        "tie_embeddings": False,
        "rotary_base": _rotary_base(theirs, path),
        **found,
        **special_tokens(theirs, {"bos_token_id": 1, "eos_token_id": 2}),
        "dropout": 0.0,
        "attention_dropout": theirs.get("attention_dropout") or 0.0,
        **_LLAMA_SHAPE,
    }
    config = build_config(
        GPTConfig, found, path, _LLAMA_CONFIG_NAMES | _TOKENS | {"rotary_base": "rope_theta"}
    )
    refuse_others(theirs, path, {"head_dim": config.head_dim})  # only hidden_size / num_attention_heads
    return config


def _rotary_base(theirs: Mapping[str, Any], path: str) -> Any:
    """Returns the base from the newest field that has it, as `transformers` does; refuses scaled rotary angles."""
    base = theirs.get("rope_theta")
    for name in ("rope_scaling", "rope_parameters"):
        rotary = theirs.get(name)
        if rotary is None:
            continue
        if not isinstance(rotary, dict):
            raise InputError(f"{path}: {name} is {short(rotary)}, it must be an object; copy the model anew")
        kind = rotary.get("rope_type", rotary.get("type", "default"))
        if kind != "default":
            raise InputError(f"{path}: rope type is {short(kind)}, only 'default' can be represented")
        base = rotary.get("rope_theta", base)
    return 10_000.0 if base is None else base


def _write_llama(model: Any) -> dict[str, Any]:
    config: dict[str, Any] = {"architectures": [LLAMA.architecture_of(type(model))]}
    config["model_type"] = "llama"
    config |= {name: getattr(model.config, ours) for ours, name in _LLAMA_CONFIG_NAMES.items()}
    config["hidden_act"] = written_activation(model.config)
    return config | {
        "head_dim": model.config.head_dim,
        "rope_theta": model.config.rotary_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.config.rotary_base},
        "attention_bias": False,
        "mlp_bias": False,
        **written_tokens(model.config),
        "dtype": "float32",
    }


def _read_own(theirs: Mapping[str, Any], path: str) -> GPTConfig:
    names = {field.name for field in fields(GPTConfig)}
    found = {name: value for name, value in theirs.items() if name in names}
    return build_config(GPTConfig, found, path, {})


def _write_own(model: Any) -> dict[str, Any]:
    return {"model_type": OWN.model_type, **asdict(model.config)}


def _read_generation(config: GPTConfig, theirs: Mapping[str, Any], path: str) -> GPTConfig:
    return replace(config, **generation_tokens(theirs, path))


def _write_generation(model: Any) -> dict[str, Any] | None:
    """Returns the content of generation_config.json: the special tokens, and the settings that the model came with."""
    if not isinstance(model, GPTCausalLM):
        return None
    given = model.generation_settings
    others = {"_from_model_config": True} if given is None else dict(given)
    tokens = {name: value for name, value in written_tokens(model.config).items() if value is not None}
    return {name: value for name, value in others.items() if name not in TOKEN_NAMES} | tokens


def _tied(name: str, config: GPTConfig) -> bool:
    return name == "lm_head.weight" and config.tie_embeddings


def _gpt2_entries(config: GPTConfig) -> list[Entry]:
    """Returns the name table of a GPT-2, without the prefix `transformer.`."""
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
    """Returns the widths of the queries, keys and values."""
    shared = config.key_value_heads * config.head_dim
    return config.hidden_dim, shared, shared


def _intermediate(config: GPTConfig) -> tuple[int, ...]:
    """Returns the widths of the feed-forward network's first kernels: gate and values, or the values alone."""
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


def _llama_entries(config: GPTConfig) -> list[Entry]:
    """Returns the name table of a Llama, without the prefix `model.`."""
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


def _own_entries(config: GPTConfig) -> list[Entry]:
    """Returns the name table for architectures that are neither: our own variable names, with `.` for `/`."""

    def has(entry: Entry) -> bool:
        if entry.ours.endswith("norm_bias"):
            return config.use_bias and config.normalization == "layer_norm"
        if entry.ours.endswith("_bias"):
            return config.use_bias
        return entry.ours != "embeddings/position" or config.positions == "learned"

    return [
        Entry(entry.ours, (entry.ours.replace("/", "."),), entry.shape)
        for entry in _gpt2_entries(config)
        if has(entry)
    ]


GPT2 = Format(
    model_type="gpt2",
    architectures=(
        Architecture("GPT2Model", GPTBackbone, "AutoModel", "feature-extraction"),
        Architecture("GPT2LMHeadModel", GPTCausalLM, "AutoModelForCausalLM", "text-generation"),
    ),
    prefix="transformer.",
    entries=_gpt2_entries,
    headed=("lm_head.",),
    heads=("head",),
    read_config=_read_gpt2,
    write_config=_write_gpt2,
    redundant=lambda name, config: name.endswith((".attn.bias", ".attn.masked_bias")) or _tied(name, config),
    tied=("lm_head.weight", "wte.weight"),
    represents=_is_gpt2,
    read_generation=_read_generation,
    write_generation=_write_generation,
)

LLAMA = Format(
    model_type="llama",
    architectures=(
        Architecture("LlamaModel", GPTBackbone, "AutoModel", "feature-extraction"),
        Architecture("LlamaForCausalLM", GPTCausalLM, "AutoModelForCausalLM", "text-generation"),
    ),
    prefix="model.",
    entries=_llama_entries,
    headed=("lm_head.",),
    heads=("head",),
    read_config=_read_llama,
    write_config=_write_llama,
    redundant=lambda name, config: name.endswith("rotary_emb.inv_freq") or _tied(name, config),
    tied=("lm_head.weight", "embed_tokens.weight"),
    represents=_is_llama,
    read_generation=_read_generation,
    write_generation=_write_generation,
)

OWN = Format(
    model_type="kerasllm_gpt",
    architectures=(Architecture("GPT of kerasllm's own shape", GPTCausalLM, None, "text-generation"),),
    entries=_own_entries,
    heads=("head",),
    read_config=_read_own,
    write_config=_write_own,
    read_generation=_read_generation,
    write_generation=_write_generation,
)
