"""The encoder-decoder in Hugging Face's format: it is written as a Marian if it is one, otherwise in our own.

Marian's kernels are stored as (outputs, inputs), ours as (inputs, outputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from kerasllm.checkpoints.config_fields import build_config, read_fields, refuse_others, written_activation
from kerasllm.checkpoints.name_table import Architecture, Entry, Format, norm
from kerasllm.errors import InputError, short
from kerasllm.models.seq2seq.backbone import Seq2SeqBackbone
from kerasllm.models.seq2seq.config import Seq2SeqConfig
from kerasllm.models.seq2seq.tasks import Seq2SeqLM

# Our setting: their setting. Used for reading and writing.
_CONFIG_NAMES = {
    "vocabulary_size": "vocab_size",
    "num_layers": "encoder_layers",
    "num_decoder_layers": "decoder_layers",
    "num_heads": "encoder_attention_heads",
    "hidden_dim": "d_model",
    "intermediate_dim": "encoder_ffn_dim",
    "max_sequence_length": "max_position_embeddings",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation": "activation_function",
    "scale_embedding": "scale_embedding",
    "initializer_range": "init_std",
    "tie_embeddings": "tie_word_embeddings",
    "pad_token_id": "pad_token_id",
    "end_token_id": "eos_token_id",
}
_SHAPE = {
    "normalize_first": False,
    "normalization": "layer_norm",
    "layer_norm_epsilon": 1e-5,
    "positions": "sinusoidal",
    "feed_forward": "dense",
    "tie_embeddings": True,
}
# What Marian's config.json leaves out where it has its default.
_DEFAULTS = {
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "d_model": 1024,
    "max_position_embeddings": 1024,
    "activation_function": "gelu",
    "scale_embedding": False,
    "eos_token_id": 0,
    "pad_token_id": 58100,
}
_TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")


def _is_marian(config: Seq2SeqConfig) -> bool:
    return all(getattr(config, name) == value for name, value in _SHAPE.items())


def _read_marian(theirs: Mapping[str, Any], path: str) -> Seq2SeqConfig:
    whole = {**_DEFAULTS, **{name: value for name, value in theirs.items() if value is not None}}
    refuse_others(
        {name: value for name, value in whole.items() if name != "is_encoder_decoder"},
        path,
        {
            "decoder_vocab_size": whole.get("vocab_size"),
            "share_encoder_decoder_embeddings": True,
            "decoder_attention_heads": whole["encoder_attention_heads"],
            "decoder_ffn_dim": whole["encoder_ffn_dim"],
            "decoder_start_token_id": whole["pad_token_id"],
            "static_position_embeddings": True,
            "normalize_before": False,
            "normalize_embedding": False,
            "add_final_layer_norm": False,
            "tie_word_embeddings": True,  # otherwise encoder and decoder have tables of their own, too
        },
    )
    if isinstance(whole["eos_token_id"], list):
        raise InputError(f"{path}: eos_token_id is {short(whole['eos_token_id'])}, it must be one token")
    found = read_fields(whole, path, _CONFIG_NAMES, ("vocab_size",), "activation_function", {})
    return build_config(Seq2SeqConfig, found | _SHAPE, path, _CONFIG_NAMES)


def _write_marian(model: Any) -> dict[str, Any]:
    config = model.config
    written: dict[str, Any] = {"architectures": [MARIAN.architecture_of(type(model))], "model_type": "marian"}
    written |= {name: getattr(config, ours) for ours, name in _CONFIG_NAMES.items()}
    written["activation_function"] = written_activation(config)
    return written | {
        "decoder_vocab_size": config.vocabulary_size,
        "share_encoder_decoder_embeddings": True,
        "decoder_attention_heads": config.num_heads,
        "decoder_ffn_dim": config.intermediate_dim,
        "activation_dropout": 0.0,
        "is_encoder_decoder": True,
        "num_hidden_layers": config.num_layers,
        "static_position_embeddings": True,
        "normalize_before": False,
        "normalize_embedding": False,
        "add_final_layer_norm": False,
        **_tokens(config),
        "dtype": "float32",
    }


def _tokens(config: Seq2SeqConfig) -> dict[str, Any]:
    return {
        "decoder_start_token_id": config.pad_token_id,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.end_token_id,
        "bos_token_id": None,
        "forced_eos_token_id": None,
    }


def _write_generation(model: Any) -> dict[str, Any] | None:
    if not isinstance(model, Seq2SeqLM):
        return None
    config = model.config
    found = {name: value for name, value in _tokens(config).items() if value is not None}
    return found | {"bad_words_ids": [[config.pad_token_id]], "max_length": config.max_sequence_length}


def _read_own(theirs: Mapping[str, Any], path: str) -> Seq2SeqConfig:
    names = {field.name for field in fields(Seq2SeqConfig)}
    return build_config(Seq2SeqConfig, {n: v for n, v in theirs.items() if n in names}, path, {})


def _write_own(model: Any) -> dict[str, Any]:
    return {"model_type": OWN.model_type, **asdict(model.config)}


def _entries(config: Seq2SeqConfig) -> list[Entry]:
    """Returns the name table of a Marian, without the prefix `model.`."""
    width, wide, rows = config.hidden_dim, config.intermediate_dim or 0, config.vocabulary_size
    found = [Entry("embeddings/token", ("shared.weight",), (rows, width))]

    def dense(ours: str, inputs: int, outputs: int, *theirs: str) -> list[Entry]:
        kernels, biases = (tuple(f"{name}.{part}" for name in theirs) for part in ("weight", "bias"))
        return [
            Entry(f"{ours}_kernel", kernels, (inputs, outputs), transpose=True),
            Entry(f"{ours}_bias", biases, (outputs,)),
        ]

    for side, count in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers or 0)):
        for index in range(count):
            ours, theirs = f"{side}_block_{index}/", f"{side}.layers.{index}."
            projections = [f"{theirs}self_attn.{name}_proj" for name in "qkv"]
            found += dense(f"{ours}query_key_value", width, 3 * width, *projections)
            found += dense(f"{ours}attention_output", width, width, f"{theirs}self_attn.out_proj")
            found += norm(f"{ours}attention_norm_", f"{theirs}self_attn_layer_norm", width)
            if side == "decoder":
                cross = f"{theirs}encoder_attn."
                found += dense(f"{ours}cross_attention_query", width, width, f"{cross}q_proj")
                both = (f"{cross}k_proj", f"{cross}v_proj")
                found += dense(f"{ours}cross_attention_key_value", width, 2 * width, *both)
                found += dense(f"{ours}cross_attention_output", width, width, f"{cross}out_proj")
                found += norm(f"{ours}cross_attention_norm_", f"{theirs}encoder_attn_layer_norm", width)
            found += dense(f"{ours}intermediate", width, wide, f"{theirs}fc1")
            found += dense(f"{ours}output", wide, width, f"{theirs}fc2")
            last = "feed_forward_norm_" if side == "decoder" else "output_norm_"
            found += norm(f"{ours}{last}", f"{theirs}final_layer_norm", width)
    found.append(Entry("output_bias/bias", ("final_logits_bias",), (1, rows)))
    if not config.tie_embeddings:
        found.append(Entry("head/kernel", ("lm_head.weight",), (rows, width)))
    return found


def _own_entries(config: Seq2SeqConfig) -> list[Entry]:
    """Returns the name table for other architectures: our own variable names, with `.` for `/`."""
    width, gates = config.hidden_dim, 2 if config.feed_forward == "gated" else 1
    entries = _entries(config)
    if config.positions == "learned":
        shape = (config.max_sequence_length, width)
        entries += [Entry(f"embeddings/{side}_position", (), shape) for side in ("source", "target")]
    if config.normalize_first:
        for side in ("encoder", "decoder"):
            entries += norm(f"{side}_norm/norm_", "", width)

    def shape_of(entry: Entry) -> tuple[int, ...] | None:
        if gates == 2 and "/intermediate_" in entry.ours and entry.shape:
            return (*entry.shape[:-1], 2 * entry.shape[-1])
        return entry.shape

    return [
        Entry(entry.ours, (entry.ours.replace("/", "."),), shape_of(entry))
        for entry in entries
        if not (config.normalization == "rms_norm" and entry.ours.endswith("norm_bias"))
    ]


def _redundant(name: str, config: Seq2SeqConfig) -> bool:
    name = name.removeprefix("model.")
    tables = _TABLES if config.tie_embeddings else _TABLES[:2]
    return name in tables or name.endswith("embed_positions.weight")


MARIAN = Format(
    model_type="marian",
    architectures=(
        Architecture("MarianMTModel", Seq2SeqLM, "AutoModelForSeq2SeqLM", "translation"),
        Architecture("MarianModel", Seq2SeqBackbone, "AutoModel", "feature-extraction"),
    ),
    prefix="model.",
    entries=_entries,
    headed=("lm_head.", "final_logits_bias"),
    heads=("head", "output_bias"),
    read_config=_read_marian,
    write_config=_write_marian,
    redundant=_redundant,
    tied=("lm_head.weight", "shared.weight"),
    represents=_is_marian,
    write_generation=_write_generation,
)

OWN = Format(
    model_type="kerasllm_seq2seq",
    architectures=(Architecture("encoder-decoder of kerasllm's own shape", Seq2SeqLM, None, "translation"),),
    entries=_own_entries,
    heads=("head", "output_bias"),
    read_config=_read_own,
    write_config=_write_own,
    write_generation=_write_generation,
)
