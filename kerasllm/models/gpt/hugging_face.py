"""GPT's config.json: written as a GPT-2 or a Llama where it is one, else under names of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from kerasllm.checkpoints.config_fields import (
    build_config,
    read_fields,
    refuse_others,
    special_tokens,
    written_activation,
    written_tokens,
)
from kerasllm.checkpoints.name_table import Format
from kerasllm.errors import InputError
from kerasllm.models.bert.config import short
from kerasllm.models.gpt import names as gpt_names
from kerasllm.models.gpt.backbone import GPTBackbone
from kerasllm.models.gpt.config import GPTConfig
from kerasllm.models.gpt.names import (
    GPT2_CONFIG_NAMES,
    GPT2_SHAPE,
    LLAMA_CONFIG_NAMES,
    LLAMA_SHAPE,
)

GPT2_END = 50256
"""The first and last token of a GPT-2 whose config.json names none."""
_TOKENS = {
    "end_token_id": "eos_token_id",
    "more_end_token_ids": "eos_token_id",
    "begin_token_id": "bos_token_id",
    "pad_token_id": "pad_token_id",
}


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
    found = read_fields(theirs, path, GPT2_CONFIG_NAMES, required, "activation_function", defaults)
    marks: dict[str, int] = {}
    if isinstance(theirs["vocab_size"], int) and theirs["vocab_size"] > GPT2_END:
        marks = {"bos_token_id": GPT2_END, "eos_token_id": GPT2_END}
    return build_config(GPTConfig, found | special_tokens(theirs, marks), path, GPT2_CONFIG_NAMES | _TOKENS)


def _write_gpt2(model: Any) -> dict[str, Any]:
    backbone = isinstance(model, GPTBackbone)
    config: dict[str, Any] = {"architectures": ["GPT2Model" if backbone else "GPT2LMHeadModel"]}
    config["model_type"] = "gpt2"
    config |= {name: getattr(model.config, ours) for ours, name in GPT2_CONFIG_NAMES.items()}
    config["activation_function"] = written_activation(model.config)
    return config | written_tokens(model.config) | {"dtype": "float32"}


def _read_llama(theirs: Mapping[str, Any], path: str) -> GPTConfig:
    refuse_others(theirs, path, {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1})
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    found = read_fields(theirs, path, LLAMA_CONFIG_NAMES, required, "hidden_act", {})
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
        **LLAMA_SHAPE,
    }
    config = build_config(
        GPTConfig, found, path, LLAMA_CONFIG_NAMES | _TOKENS | {"rotary_base": "rope_theta"}
    )
    refuse_others(theirs, path, {"head_dim": config.head_dim})  # only hidden_size / num_attention_heads
    return config


def _rotary_base(theirs: Mapping[str, Any], path: str) -> Any:
    """Of the places where it may stand the newest one counts, as in `transformers`; refuses scaled angles."""
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
        **written_tokens(model.config),
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
    tied=("lm_head.weight", "wte.weight"),
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
    tied=("lm_head.weight", "embed_tokens.weight"),
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
