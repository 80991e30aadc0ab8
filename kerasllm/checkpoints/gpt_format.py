"""GPT's config.json: written as a GPT-2 or a Llama where it is one, else under names of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from kerasllm.checkpoints import gpt_names
from kerasllm.checkpoints.config_fields import (
    build_config,
    end_token,
    read_fields,
    refuse_others,
    written_activation,
)
from kerasllm.checkpoints.gpt_names import (
    GPT2_CONFIG_NAMES,
    GPT2_SHAPE,
    LLAMA_CONFIG_NAMES,
    LLAMA_SHAPE,
)
from kerasllm.checkpoints.name_table import Format
from kerasllm.errors import InputError
from kerasllm.models.gpt import GPTBackbone
from kerasllm.models.gpt_config import GPTConfig

GPT2_END = 50256
"""The end token of a GPT-2 whose config.json names none."""


def format_of(config: GPTConfig) -> Format:
    """The format in which a GPT of this shape is written."""
    if _is(config, GPT2_SHAPE) and config.key_value_heads == config.num_heads:
        return GPT2
    if _is(config, LLAMA_SHAPE):
        return LLAMA
    return OWN


def _is(config: GPTConfig, shape: Mapping[str, Any]) -> bool:
    return all(getattr(config, name) == value for name, value in shape.items())


def _read_gpt2(theirs: Mapping[str, Any], path: str) -> GPTConfig:
    refuse_others(
        theirs,
        path,
        {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    )
    required = ("vocab_size", "n_embd", "n_layer", "n_head")
    defaults = {"attn_pdrop": 0.1, "embd_pdrop": 0.1}
    if isinstance(theirs.get("vocab_size"), int) and theirs["vocab_size"] > GPT2_END:
        defaults["eos_token_id"] = GPT2_END
    if "eos_token_id" in theirs:
        theirs = {**theirs, "eos_token_id": end_token(theirs)}
    found = read_fields(theirs, path, GPT2_CONFIG_NAMES, required, "activation_function", defaults)
    return build_config(GPTConfig, found, path, GPT2_CONFIG_NAMES)


def _write_gpt2(model: Any) -> dict[str, Any]:
    backbone = isinstance(model, GPTBackbone)
    config: dict[str, Any] = {"architectures": ["GPT2Model" if backbone else "GPT2LMHeadModel"]}
    config["model_type"] = "gpt2"
    config |= {name: getattr(model.config, ours) for ours, name in GPT2_CONFIG_NAMES.items()}
    config["activation_function"] = written_activation(model.config)
    return config | {"bos_token_id": model.config.end_token_id, "dtype": "float32"}


def _read_llama(theirs: Mapping[str, Any], path: str) -> GPTConfig:
    refuse_others(theirs, path, {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1})
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    rotary = theirs.get("rope_parameters") or {}
    scaling = theirs.get("rope_scaling") or rotary
    kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else scaling
    if kind != "default":
        raise InputError(f"{path}: rope type is {kind!r}, only 'default' can be represented")
    if "eos_token_id" in theirs:
        theirs = {**theirs, "eos_token_id": end_token(theirs)}
    found = read_fields(theirs, path, LLAMA_CONFIG_NAMES, required, "hidden_act", {"eos_token_id": 2})
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
    config = build_config(GPTConfig, found, path, LLAMA_CONFIG_NAMES)
    refuse_others(theirs, path, {"head_dim": config.head_dim})  # only hidden_size / num_attention_heads
    return config


def _write_llama(model: Any) -> dict[str, Any]:
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


def _write_own(model: Any) -> dict[str, Any]:
    return {"model_type": OWN.model_type, **asdict(model.config)}


def _no_settings(
    cls: type,
    theirs: Mapping[str, Any],
    path: str,
    shapes: Mapping[str, tuple[int, ...]],
    asked: dict[str, Any],
) -> dict[str, Any]:
    return asked


def _tied(name: str, config: GPTConfig) -> bool:
    return name == "lm_head.weight" and config.tie_embeddings


GPT2 = Format(
    model_type="gpt2",
    prefix="transformer.",
    entries=gpt_names.gpt2_entries,
    headed=("lm_head.",),
    read_config=_read_gpt2,
    write_config=_write_gpt2,
    class_settings=_no_settings,
    redundant=lambda name, config: name.endswith((".attn.bias", ".attn.masked_bias")) or _tied(name, config),
)

LLAMA = Format(
    model_type="llama",
    prefix="model.",
    entries=gpt_names.llama_entries,
    headed=("lm_head.",),
    read_config=_read_llama,
    write_config=_write_llama,
    class_settings=_no_settings,
    redundant=lambda name, config: name.endswith("rotary_emb.inv_freq") or _tied(name, config),
)

OWN = Format(
    model_type="kerasllm_gpt",
    prefix="",
    entries=gpt_names.own_entries,
    headed=(),
    read_config=_read_own,
    write_config=_write_own,
    class_settings=_no_settings,
    redundant=lambda name, config: False,
)
