"""Recurrent encoder-decoders on the disk: a config.json of our own, and weights by the names of `torch.nn`'s layers.

The tensors `encoder.weight_ih_l0` … and `decoder.weight_ih_l0` … are those of `torch.nn.LSTM`, `GRU` or `RNN`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from kerasllm.backend.recurrent_cells import STATES
from kerasllm.checkpoints.config_fields import build_config
from kerasllm.checkpoints.name_table import Architecture, Entry, Format
from kerasllm.models.recurrent.hugging_face import layer_entries
from kerasllm.models.recurrent_seq2seq.backbone import RecurrentSeq2SeqBackbone
from kerasllm.models.recurrent_seq2seq.config import RecurrentSeq2SeqConfig
from kerasllm.models.recurrent_seq2seq.language_model import RecurrentSeq2SeqLM


def _read(theirs: Mapping[str, Any], path: str) -> RecurrentSeq2SeqConfig:
    names = {field.name for field in fields(RecurrentSeq2SeqConfig)} & theirs.keys()
    return build_config(RecurrentSeq2SeqConfig, {name: theirs[name] for name in names}, path, {})


def _write(model: Any) -> dict[str, Any]:
    names = {"architectures": [RECURRENT_SEQ2SEQ.architecture_of(type(model))]}
    return names | {"model_type": RECURRENT_SEQ2SEQ.model_type, **asdict(model.config)}


def _write_generation(model: Any) -> dict[str, Any]:
    config = model.config
    return {
        "eos_token_id": config.end_token_id,
        "pad_token_id": config.pad_token_id,
        "decoder_start_token_id": config.pad_token_id,
    }


def _entries(config: RecurrentSeq2SeqConfig) -> list[Entry]:
    """Returns the name table."""
    width = config.hidden_dim
    found = [Entry("embeddings/token", ("embedding.weight",), (config.vocabulary_size, width))]
    for index in range(config.num_layers):
        inner = 2 * width if index else width
        found += layer_entries(config, f"encoder_{index}", ("encoder", index), inner, bidirectional=True)
        found += layer_entries(config, f"decoder_{index}", ("decoder", index), width)
    projections = {
        **{
            f"bridge_{index}_{part}": (2 * width, width)
            for index in range(config.num_layers)
            for part in range(STATES[config.kind])
        },
        "attention_query": (width, 2 * width),
        "attention_output": (3 * width, width),
    }
    for name, shape in projections.items():
        found.append(Entry(f"{name}/kernel", (f"{name}.weight",), shape, transpose=True))
        found.append(Entry(f"{name}/bias", (f"{name}.bias",), shape[1:]))
    return found


RECURRENT_SEQ2SEQ = Format(
    model_type="kerasllm_recurrent_seq2seq",
    architectures=(
        Architecture("RecurrentSeq2SeqLM", RecurrentSeq2SeqLM, None, "translation"),
        Architecture("RecurrentSeq2SeqBackbone", RecurrentSeq2SeqBackbone, None, "feature-extraction"),
    ),
    entries=_entries,
    heads=(),
    read_config=_read,
    write_config=_write,
    write_generation=_write_generation,
)
