"""The files by which sentence-transformers makes a sentence encoder of a BERT: modules.json and a folder a module.

The older names of modules and settings are written, which all versions of sentence-transformers read; older and newer
ones are read.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.checkpoints.weights import WeightFiles, write_json, write_text, write_weights
from kerasllm.errors import InputError, InputWarning, short
from kerasllm.files.json import read_json, read_json_value, to_json

MODULES = "modules.json"
_TEXT_SETTINGS, _PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
_POOLING = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}  # ours: the end of theirs
_OTHER_POOLING = ("mean_sqrt_len_tokens",)
_ACTIVATIONS = {
    "linear": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
}
_VERSIONS = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}


def read_modules(directory: Path, hidden_dim: int, positions: int) -> dict[str, Any]:
    """Returns the constructor arguments of a `BertEncoder`, as the files beside its config.json give them.

    Without a modules.json, as beside a plain BERT, they are those of mean pooling, and a warning says so.

    Args:
        directory: the directory.
        hidden_dim: the size of the BERT's output.
        positions: the number of the BERT's positions.

    Raises:
        InputError: a file is damaged, or describes what a `BertEncoder` cannot be.
    """
    path = directory / MODULES
    if not path.is_file():
        _warn(f"{directory}: holds no {MODULES}: vectors are means over the tokens, of length 1")
        return {"sequence_length": _sequence_length(directory, positions)}
    settings: dict[str, Any] = {"normalize": False, "sequence_length": _sequence_length(directory, positions)}
    kinds = []
    for kind, folder in _modules(path):
        if kind == "Pooling":
            settings["pooling"] = _pooling(folder / "config.json", hidden_dim)
        elif kind == "Dense":
            settings |= _dense(folder / "config.json", hidden_dim)
        elif kind == "Normalize":
            settings["normalize"] = True
        kinds.append(kind)
    wanted = ["Transformer", "Pooling", "Dense", "Normalize"]
    if kinds[:2] != wanted[:2] or kinds != [kind for kind in wanted if kind in kinds]:
        raise InputError(
            f"{path}: the modules are {', '.join(kinds)}; only Transformer, Pooling and, after them, Dense and "
            "Normalize can be read"
        )
    return settings | _prompts(directory / _PROMPTS)


def read_projection(model: Any, directory: Path) -> None:
    """Reads the weights of a `BertEncoder`'s projection from the directory, if they are there."""
    if model.projection is None:
        return
    path, width = directory / MODULES, model.config.hidden_dim
    modules = _modules(path) if path.is_file() else []
    folder = next((found for kind, found in modules if kind == "Dense"), None)
    if folder is None or _dense(folder / "config.json", width)["projection_dim"] != model.projection_dim:
        _warn(f"{directory}: new, with initial values: projection")
        return
    files = WeightFiles(folder)
    shape = (model.projection_dim, width)
    if files.shapes.get("linear.weight") != shape:
        raise InputError(
            f"{folder}: linear.weight has shape {files.shapes.get('linear.weight')}, config.json says {shape}: "
            "the two do not belong together; copy the model anew"
        )
    model.projection.kernel.assign(files.read("linear.weight").T)
    bias = files.read("linear.bias") if "linear.bias" in files.shapes else np.zeros(shape[0], np.float32)
    model.projection.bias.assign(bias)


def write_modules(model: Any, directory: Path) -> None:
    """Writes the files beside config.json and the weights of a `BertEncoder`'s backbone.

    Raises:
        InputError: a file cannot be written.
    """
    names = ["Transformer", "Pooling"]
    names += ["Dense"] if model.projection is not None else []
    names += ["Normalize"] if model.normalize else []
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{name}" if index else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for index, name in enumerate(names)
    ]
    pooling: dict[str, Any] = {"word_embedding_dimension": model.config.hidden_dim}
    pooling |= {f"pooling_mode_{theirs}": model.pooling == ours for ours, theirs in _POOLING.items()}
    pooling |= {f"pooling_mode_{theirs}": False for theirs in _OTHER_POOLING}
    write_json(directory / "1_Pooling" / "config.json", pooling)
    if model.projection is not None:
        dense = {
            "in_features": model.config.hidden_dim,
            "out_features": model.projection_dim,
            "bias": True,
            "activation_function": _ACTIVATIONS[model.projection_activation],
        }
        write_json(directory / "2_Dense" / "config.json", dense)
        tensors = [
            ("linear.bias", np.asarray(model.merged("projection/bias"), np.float32)),
            (
                "linear.weight",
                np.ascontiguousarray(np.asarray(model.merged("projection/kernel"), np.float32).T),
            ),
        ]
        write_weights(directory / "2_Dense", tensors, 1 << 40)
    if model.normalize:
        (directory / f"{len(names) - 1}_Normalize").mkdir(exist_ok=True)
    length = model.sequence_length or model.config.max_sequence_length
    write_json(directory / _TEXT_SETTINGS, {"max_seq_length": length, "do_lower_case": False})
    prompts = {"prompts": dict(model.prompts), "default_prompt_name": model.default_prompt}
    write_json(directory / _PROMPTS, {"__version__": _VERSIONS, **prompts, "similarity_fn_name": "cosine"})
    write_text(directory / MODULES, "[\n" + ",\n".join(to_json(module) for module in modules) + "\n]\n")


def _modules(path: Path) -> list[tuple[str, Path]]:
    """Returns the kind and the folder of each module."""
    content = read_json_value(path)
    if not isinstance(content, list) or not all(isinstance(module, dict) for module in content):
        raise InputError(f"{path}: holds {short(content)}, it must be a list of modules")
    found = []
    for module in content:
        kind, folder = module.get("type"), module.get("path")
        plain = isinstance(folder, str) and (not folder or Path(folder).name == folder) and folder != ".."
        if not (isinstance(kind, str) and plain):
            raise InputError(
                f"{path}: a module is {short(module)}, it must have a type, and a path beside this file"
            )
        found.append((kind.rpartition(".")[2], path.parent / str(folder)))
    return found


def _pooling(path: Path, hidden_dim: int) -> str:
    """Returns the kind of pooling that a config.json describes, by the older names or the newer ones."""
    content = read_json(path)
    size = content.get("embedding_dimension", content.get("word_embedding_dimension", hidden_dim))
    if size != hidden_dim:
        raise InputError(f"{path}: is for vectors of {short(size)} numbers, the model's have {hidden_dim}")
    kinds = content.get("pooling_mode")
    if kinds is None:
        ours = {theirs: name for name, theirs in _POOLING.items()}
        ends = [key.removeprefix("pooling_mode_") for key, on in content.items() if on is True]
        kinds = [ours.get(end, end) for end in ends if f"pooling_mode_{end}" in content] or "mean"
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or len(kinds) != 1 or kinds[0] not in list(_POOLING):
        raise InputError(
            f"{path}: the pooling is {short(kinds)}, only one of {', '.join(_POOLING)} can be read"
        )
    if content.get("include_prompt", True) is not True:
        raise InputError(
            f"{path}: include_prompt is not true: pooling without the prompt's tokens is not supported"
        )
    return kinds[0]


def _dense(path: Path, hidden_dim: int) -> dict[str, Any]:
    """Returns the settings of the projection that a config.json describes."""
    content = read_json(path)
    inputs, outputs = content.get("in_features"), content.get("out_features")
    if (
        inputs != hidden_dim
        or not isinstance(outputs, int)
        or isinstance(outputs, bool)
        or not 1 <= outputs <= 1 << 20
    ):
        raise InputError(
            f"{path}: is from {short(inputs)} to {short(outputs)} numbers, the model's vectors have {hidden_dim}"
        )
    asked = content.get("activation_function", _ACTIVATIONS["tanh"])
    ours = {theirs: name for name, theirs in _ACTIVATIONS.items()}
    if asked not in list(ours) or content.get("use_residual"):
        raise InputError(f"{path}: activation_function {short(asked)} or use_residual is not supported here")
    return {"projection_dim": outputs, "projection_activation": ours[asked]}


def _sequence_length(directory: Path, positions: int) -> int | None:
    """Returns the most tokens of a text, or None for all positions."""
    for name, key in ((_TEXT_SETTINGS, "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        path = directory / name
        length = read_json(path).get(key) if path.is_file() else None
        if isinstance(length, int) and not isinstance(length, bool) and length >= 3:
            return length if length < positions else None
    return None


def _prompts(path: Path) -> dict[str, Any]:
    """Returns the prompts and the name of the default one."""
    content: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    prompts, default = content.get("prompts") or {}, content.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise InputError(f"{path}: prompts is {short(prompts)}, it must be an object of names and texts")
    if default is not None and default not in list(prompts):
        raise InputError(f"{path}: default_prompt_name is {short(default)}, which is none of the prompts")
    return {"prompts": prompts, "default_prompt": default}


def _warn(message: str) -> None:
    warnings.warn(InputWarning(message), stacklevel=2)
