"""Writing of a GPT to GGUF, with a comparison of what is read back and the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from kerasllm.errors import InputError
from kerasllm.export.comparison import Comparison, compare
from kerasllm.export.gguf.tensors import architecture_of, parts
from kerasllm.export.gguf.vocabulary import add_vocabulary
from kerasllm.models import GPTCausalLM, GPTConfig

_KINDS = {
    "float32": (Kind.F32, gguf.LlamaFileType.ALL_F32, "f32"),
    "float16": (Kind.F16, gguf.LlamaFileType.MOSTLY_F16, "f16"),
    "int8": (Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0, "q8_0"),
}
_BLOCK = 32  # weights that share a scale in Q8_0


def write_gguf(model: Any, tokenizer: Any, directory: Path, precision: str) -> dict[str, Any]:
    """Writes model.gguf, whose name ends with the kind of its weights, and compares it with the model.

    Args:
        model: a `GPTCausalLM` in GPT-2's form or in Llama's.
        tokenizer: its tokenizer, a byte-level BPE.
        directory: an empty directory.
        precision: "float32", "float16" or "int8" (Q8_0, where 32 weights share a scale).

    Returns:
        The differences between the model and one with the weights that are read back.

    Raises:
        InputError: GGUF cannot hold the model or its tokenizer, or what is read back gives other results.
    """
    if not isinstance(model, GPTCausalLM):
        raise InputError(f"a {type(model).__name__} cannot be written to GGUF, a GPTCausalLM can")
    kind, file_type, suffix = _KINDS[precision]
    path = directory / f"model-{suffix}.gguf"
    writer = gguf.GGUFWriter(path, architecture_of(model.config))
    _add_settings(writer, model.config)
    writer.add_file_type(file_type)
    add_vocabulary(writer, tokenizer, model.config)
    for part in parts(model):
        value = part.write(model.merged(part.ours))
        own = Kind.F32 if part.is_exact else kind
        if own == Kind.Q8_0 and value.shape[-1] % _BLOCK:
            own = Kind.F16  # as llama.cpp's own converter does
        if own == Kind.F16 and np.abs(value).max(initial=0) > np.finfo(np.float16).max:
            raise InputError(f"{part.ours} holds numbers above float16's greatest: give --precision float32")
        writer.add_tensor(part.name, gguf.quants.quantize(value, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found: Comparison = compare(model, read_back(path, model), tokenizer)
    return {"comparison": found.as_dict() if precision == "int8" else found.checked(path, precision)}


def _add_settings(writer: gguf.GGUFWriter, config: GPTConfig) -> None:
    writer.add_name("kerasllm")
    writer.add_context_length(config.max_sequence_length)
    writer.add_embedding_length(config.hidden_dim)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_dim or 4 * config.hidden_dim)
    writer.add_head_count(config.num_heads)
    if config.positions == "learned":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_head_count_kv(config.key_value_heads)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_rope_freq_base(config.rotary_base)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocabulary_size)


def read_back(path: Path, model: GPTCausalLM) -> GPTCausalLM:
    """Returns a model with the weights that a file holds.

    Args:
        path: the file.
        model: the model that it was made from.

    Raises:
        InputError: the file lacks a tensor.
    """
    tensors = {each.name: each for each in gguf.GGUFReader(path).tensors}
    again = GPTCausalLM(model.config, dtype=model.dtype_policy)
    pieces: dict[str, list[np.ndarray]] = {}
    for part in parts(model):
        if part.name not in tensors:
            raise InputError(f"{path}: holds no {part.name}")
        stored = tensors[part.name]
        value = gguf.quants.dequantize(stored.data, stored.tensor_type)
        pieces.setdefault(part.ours, []).append(part.read(np.asarray(value, np.float32)))
    variables = again.named_variables()
    for name, values in pieces.items():
        variables[name].assign(np.concatenate(values, axis=-1))
    return again
