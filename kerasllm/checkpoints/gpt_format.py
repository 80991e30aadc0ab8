"""GPT's config.json: written as a GPT-2 or a Llama where it is one, else under names of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from kerasllm.checkpoints import gpt_names
from kerasllm.checkpoints.bert_format import build_config, read_fields, refuse_others, written_activation
from kerasllm.checkpoints.gpt_names import (
    GPT2_CONFIG_NAMES,
    GPT2_SHAPE,
    LLAMA_CONFIG_NAMES,
    LLAMA_SHAPE,
)
from kerasllm.checkpoints.name_table import Entry, Format
from kerasllm.errors import InputError
from kerasllm.models.gpt import GPTBackbone
from kerasllm.models.gpt_config import GPTConfig


def format_of(config: GPTConfig) -> Format:
    """The format in which a GPT of this shape is written."""
    if _is(config, GPT2_SHAPE) and config.key_value_heads == config.num_heads:
        return GPT2
    if _is(config, LLAMA_SHAPE):
        return LLAMA
    return OWN


def _is(config: GPTConfig, shape: Mapping[str, Any]) -> bool:
    return all(getattr(config, name) == value for name, value in shape.items())


def _end_token(theirs: Mapping[str, Any]) -> Any:
    """The first of several end tokens, as some chat models have them."""
    token = theirs.get("eos_token_id")
    return token[0] if isinstance(token, list) and token else token


def _read_gpt2(theirs: Mapping[str, Any], path: str) -> GPTConfig:
    refuse_others(
        theirs,
        path,
        {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    )
    residual, embedded = (theirs.get(name, 0.1) for name in ("resid_pdrop", "embd_pdrop"))
    if residual != embedded:
        raise InputError(
            f"{path}: embd_pdrop is {embedded!r} and resid_pdrop {residual!r}: there is one dropout for both"
        )
    required = ("vocab_size", "n_embd", "n_layer", "n_head")
    theirs = {**theirs, "eos_token_id": _end_token(theirs)}
    found = read_fields(theirs, path, GPT2_CONFIG_NAMES, required, "activation_function")
    return build_config(GPTConfig, found, path, GPT2_CONFIG_NAMES)


def _write_gpt2(model: Any, label_names: tuple[str, ...] | None) -> dict[str, Any]:
    backbone = isinstance(model, GPTBackbone)
    config: dict[str, Any] = {"architectures": ["GPT2Model" if backbone else "GPT2LMHeadModel"]}
    config["model_type"] = "gpt2"
    config |= {name: getattr(model.config, ours) for ours, name in GPT2_CONFIG_NAMES.items()}
    config["activation_function"] = written_activation(model.config)
    return config | {
        "embd_pdrop": model.config.dropout,
        "bos_token_id": model.config.end_token_id,
        "dtype": "float32",
    }


def _read_llama(theirs: Mapping[str, Any], path: str) -> GPTConfig:
    refuse_others(theirs, path, {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1})
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    rotary = theirs.get("rope_parameters") or {}
    scaling = theirs.get("rope_scaling") or rotary
    kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else scaling
    if kind != "default":
        raise InputError(f"{path}: rope type is {kind!r}, only 'default' can be represented")
    theirs = {**theirs, "eos_token_id": _end_token(theirs)}
    found = read_fields(theirs, path, LLAMA_CONFIG_NAMES, required, "hidden_act")
    width, heads = theirs.get("head_dim"), theirs["num_attention_heads"]
    whole = type(width) is int and type(heads) is int
    if width is not None and (not whole or width * heads != theirs["hidden_size"]):
        raise InputError(
            f"{path}: head_dim is {width!r}, only hidden_size / num_attention_heads can be represented"
        )
    found = {
        "activation": "silu",
        "layer_norm_epsilon": 1e-6,
        "max_sequence_length": 2048,
        "tie_embeddings": False,
        "rotary_base": theirs.get("rope_theta") or rotary.get("rope_theta") or 10_000.0,
        **found,
        "dropout": 0.0,
        "attention_dropout": theirs.get("attention_dropout") or 0.0,
        **LLAMA_SHAPE,
    }
    return build_config(GPTConfig, found, path, LLAMA_CONFIG_NAMES)


def _write_llama(model: Any, label_names: tuple[str, ...] | None) -> dict[str, Any]:
    backbone = isinstance(model, GPTBackbone)
    config: dict[str, Any] = {"architectures": ["LlamaModel" if backbone else "LlamaForCausalLM"]}
    config["model_type"] = "llama"
    config |= {name: getattr(model.config, ours) for ours, name in LLAMA_CONFIG_NAMES.items()}
    config["hidden_act"] = written_activation(model.config)
    return config | {
        "head_dim": model.config.head_dim,
        "rope_theta": model.config.rotary_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.config.rotary_base},
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": model.config.end_token_id,
        "dtype": "float32",
    }


def _read_own(theirs: Mapping[str, Any], path: str) -> GPTConfig:
    names = {field.name for field in fields(GPTConfig)}
    found = {name: value for name, value in theirs.items() if name in names}
    return build_config(GPTConfig, found, path, {})


def _write_own(model: Any, label_names: tuple[str, ...] | None) -> dict[str, Any]:
    return {"model_type": OWN.model_type, **asdict(model.config)}


def _own_entries(config: GPTConfig) -> list[Entry]:
    """Our own names: what the two others call their variables is all that there can be."""
    names = dict.fromkeys(
        entry.ours for entry in (*gpt_names.gpt2_entries(config), *gpt_names.llama_entries(config))
    )
    return [Entry(name, (name.replace("/", "."),)) for name in names]


def _gpt2_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    return {
        "wte.weight": (config.vocabulary_size, config.hidden_dim),
        "wpe.weight": (config.max_sequence_length, config.hidden_dim),
        f"h.{config.num_layers - 1}.mlp.c_fc.weight": (config.hidden_dim, config.intermediate_dim or 0),
    }


def _llama_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    layer = f"layers.{config.num_layers - 1}."
    return {
        "embed_tokens.weight": (config.vocabulary_size, config.hidden_dim),
        f"{layer}mlp.up_proj.weight": (config.intermediate_dim or 0, config.hidden_dim),
        f"{layer}self_attn.k_proj.weight": (config.key_value_heads * config.head_dim, config.hidden_dim),
    }


def _own_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    return {
        "embeddings.token": (config.vocabulary_size, config.hidden_dim),
        f"block_{config.num_layers - 1}.output_kernel": (config.intermediate_dim or 0, config.hidden_dim),
    }


def _no_settings(cls: type, theirs: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    return {}


GPT2 = Format(
    model_type="gpt2",
    prefix="transformer.",
    entries=gpt_names.gpt2_entries,
    headed=("lm_head.",),
    shapes=_gpt2_shapes,
    read_config=_read_gpt2,
    write_config=_write_gpt2,
    class_settings=_no_settings,
    redundant=lambda name: name.endswith((".attn.bias", ".attn.masked_bias")) or name == "lm_head.weight",
)

LLAMA = Format(
    model_type="llama",
    prefix="model.",
    entries=gpt_names.llama_entries,
    headed=("lm_head.",),
    shapes=_llama_shapes,
    read_config=_read_llama,
    write_config=_write_llama,
    class_settings=_no_settings,
    redundant=lambda name: name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight",
)

OWN = Format(
    model_type="kerasllm_gpt",
    prefix="",
    entries=_own_entries,
    headed=(),
    shapes=_own_shapes,
    read_config=_read_own,
    write_config=_write_own,
    class_settings=_no_settings,
    redundant=lambda name: False,
)
