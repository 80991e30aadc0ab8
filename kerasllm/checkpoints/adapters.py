"""Low-rank adapters in the format of the `peft` package: adapter_config.json and adapter_model.safetensors.

Our kernels hold several of Hugging Face's side by side, so one adapter of ours is several of theirs with the same first
factor. In the other direction their first factors, which differ, are put side by side, which adds up their ranks.

Reference: Hu et al. 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.checkpoints.hub import resolve_directory
from kerasllm.checkpoints.name_table import Architecture, Entry, Format
from kerasllm.checkpoints.reading import read_config
from kerasllm.checkpoints.weights import WeightFiles, read_json, write_json, write_tensors
from kerasllm.errors import InputError, NewHeadWarning, short

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TASKS = {
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
    "AutoModel": "FEATURE_EXTRACTION",
}
_MEND = "merge it into its model with `peft` (merge_and_unload), and load that"


def write_adapter(model: Any, directory: str | Path, base: str) -> None:
    """Writes the low-rank adapters of a model, and its heads that were trained with them, as `peft` loads them.

    Args:
        model: a model that was made with `lora_rank`.
        directory: the directory, which is created if it is missing.
        base: the checkpoint that the adapters change, a directory or a hub id, which the files name.

    Raises:
        InputError: the model has no adapters, `transformers` has no such model, or a file cannot be written.
    """
    backbone = getattr(model, "backbone", model)
    rank, directory = getattr(backbone, "lora_rank", 0), Path(directory)
    stored: Format = model.hugging_face_format
    if not rank:
        raise InputError(f"this {type(model).__name__} has no low-rank adapters: make it with lora_rank")
    if not has_peft_form(model):
        raise InputError(f"transformers has no {_row(model).name}: its adapters cannot be written for peft")
    tensors = dict(_factors(model, stored))
    modules = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    heads = dict(_heads(model, stored))
    config = {
        "peft_type": "LORA",
        "task_type": _TASKS.get(str(_row(model).auto_class)),
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": backbone.blocks[0].lora_alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({re.sub(r".*\.\d+\.", "", name) for name in modules}),
        "modules_to_save": sorted({_module(name) for name in heads}) or None,
        "bias": "none",
        "fan_in_fan_out": not _is_transposed(model, stored),
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }
    write_tensors(
        directory / WEIGHTS_FILE, {_PREFIX + name: each for name, each in (tensors | heads).items()}
    )
    write_json(directory / CONFIG_FILE, config)


def has_peft_form(model: Any) -> bool:
    """Returns whether `transformers` has the model, so that `peft` can load its adapters."""
    return _row(model).auto_class is not None


def _row(model: Any) -> Architecture:
    rows = model.hugging_face_format.architectures
    return next(each for each in rows if each.model_class is type(model))


def _adapted(model: Any, stored: Format) -> Iterator[tuple[Entry, str]]:
    """Yields the entries whose kernels have adapters, and the beginning of the names of our variables."""
    variables = model.named_variables()
    for entry in stored.entries(model.config):
        stem = entry.ours.removesuffix("kernel")
        if f"{stem}lora_a" in variables:
            yield entry, stem


def _is_transposed(model: Any, stored: Format) -> bool:
    return all(entry.transpose for entry, _ in _adapted(model, stored))


def _is_backbone(model: Any) -> bool:
    return getattr(model, "headless", not hasattr(model, "backbone"))


def _factors(model: Any, stored: Format) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the names and values of the factors: lora_A (rank, inputs) and lora_B (outputs, rank)."""
    for entry, stem in _adapted(model, stored):
        low, high = (np.asarray(model.merged(f"{stem}lora_{part}"), np.float32) for part in "ab")
        for name, part in entry.split(high):
            module = stored.qualified(name, _is_backbone(model)).removesuffix(".weight")
            yield f"{module}.lora_A.weight", low.T
            yield f"{module}.lora_B.weight", part if entry.transpose else part.T


def _heads(model: Any, stored: Format) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the names and values of the heads that are trained beside the adapters."""
    variables = model.named_variables()
    for entry in stored.entries(model.config):
        variable = variables.get(entry.ours)
        if entry.ours.split("/")[0] in stored.heads and variable is not None and variable.trainable:
            for name, part in entry.split(np.asarray(model.merged(entry.ours), np.float32)):
                yield stored.qualified(name, _is_backbone(model)), part


def _module(name: str) -> str:
    """Returns the name of a head's module, without what stands before it in a task model."""
    return name.rpartition(".")[0].removeprefix("bert.")


class AdapterFiles:
    """Adapters of the `peft` package in a directory.

    Args:
        directory: the directory.

    Attributes:
        config: the content of adapter_config.json.

    Raises:
        InputError: there are none, they are damaged, or they are of a kind that cannot be represented.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        path = self.directory / CONFIG_FILE
        self.config = read_json(path)
        only = {
            "peft_type": "LORA",
            "bias": "none",
            "use_dora": False,
            "alpha_pattern": {},
            "trainable_token_indices": None,
        }
        for name, value in only.items():
            found = self.config.get(name, value)
            if found != value and found not in (None, {}):
                raise InputError(f"{path}: {name} is {short(found)}, only {value!r} can be read: {_MEND}")
        alpha = self.config.get("lora_alpha")
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1e6:
            raise InputError(f"{path}: lora_alpha is {short(alpha)}, it must be a number above 0")
        files = WeightFiles(self.directory, WEIGHTS_FILE)
        for name, shape in files.shapes.items():
            files.check_number(name)
            if len(shape) not in (1, 2):
                raise InputError(
                    f"{self.directory / WEIGHTS_FILE}: {name} has shape {shape}; copy the file anew"
                )
        self._tensors = {name.removeprefix(_PREFIX): files.read(name) for name in files.shapes}

    @property
    def base(self) -> str:
        """The checkpoint that the adapters change."""
        base = self.config.get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise InputError(
                f"{self.directory / CONFIG_FILE}: names no base_model_name_or_path: give the base model"
            )
        return base

    def rank(self, stored: Format, config: Any) -> int:
        """Returns the rank that a model needs, whose kernels hold several of theirs.

        Args:
            stored: the format of the base model.
            config: the model's config.

        Raises:
            InputError: there are no adapters of its kernels.
        """
        found = max((len(self._joined(entry, stored)[0]) for entry in stored.entries(config)), default=0)
        if not found:
            raise InputError(
                f"{self.directory / WEIGHTS_FILE}: holds no adapter of this model: give its base model"
            )
        return found

    def assign(self, model: Any) -> None:
        """Puts the adapters, and the heads beside them, into a model.

        Args:
            model: a model with `lora_rank` at least as `rank` gives it, and `lora_alpha` equal to it.

        Raises:
            InputError: a tensor has another shape than the model, or is none of it.
        """
        stored: Format = model.hugging_face_format
        variables = model.named_variables()
        used: set[str] = set()
        for entry, stem in _adapted(model, stored):
            low, high, keys = self._joined(entry, stored)
            for suffix, value in (("lora_a", low.T), ("lora_b", high)):
                variable = variables[f"{stem}{suffix}"]
                whole = np.zeros(tuple(variable.shape), np.float32)
                if value.size:
                    whole[tuple(slice(size) for size in value.shape)] = value
                variable.assign(whole)
            used |= keys
        for entry in stored.entries(model.config):
            names = {name: key for name in entry.theirs if (key := self._find(name, stored)) is not None}
            if entry.ours in variables and len(names) == len(entry.theirs):
                value = entry.join([self._tensors[names[name]] for name in entry.theirs])
                if value.shape != tuple(variables[entry.ours].shape):
                    raise InputError(
                        f"{self.directory / WEIGHTS_FILE}: {entry.theirs[0]} has shape {value.shape}, the model "
                        f"{tuple(variables[entry.ours].shape)}: give num_classes, or the right base model"
                    )
                variables[entry.ours].assign(value)
                used.update(names.values())
        rest = sorted(set(self._tensors) - used)
        if rest:
            more = f" and {len(rest) - 1} more" if len(rest) > 1 else ""
            raise InputError(
                f"{self.directory / WEIGHTS_FILE}: {rest[0]}{more} is no part of a {type(model).__name__}: {_MEND}"
            )

    def _find(self, name: str, stored: Format) -> str | None:
        """Returns the key of a tensor, with or without the prefix of a task model."""
        keys = (name, stored.prefix + name, name.removeprefix(stored.prefix))
        return next((key for key in keys if key in self._tensors), None)

    def _joined(self, entry: Entry, stored: Format) -> tuple[np.ndarray, np.ndarray, set[str]]:
        """Returns the factors of one of our kernels, (rank, inputs) and (rank, outputs), and the keys of theirs."""
        found: list[tuple[int, np.ndarray, np.ndarray]] = []
        names: set[str] = set()
        ends = [entry.shape_of(index) for index in range(len(entry.theirs))] if entry.shape else []
        widths = [(shape or (0,))[0 if entry.transpose else -1] for shape in ends]
        for index, name in enumerate(entry.theirs if entry.shape and len(entry.shape) == 2 else ()):
            module = name.removesuffix(".weight")
            keys = [self._find(f"{module}.lora_{part}.weight", stored) for part in "AB"]
            if keys[0] is None or keys[1] is None:
                continue
            low, high = (self._tensors[str(key)] for key in keys)
            inputs = (entry.shape or (0,))[0]
            if low.shape != (len(low), inputs) or high.shape != (widths[index], len(low)):
                raise InputError(
                    f"{self.directory / WEIGHTS_FILE}: {module} has factors {low.shape} and {high.shape}, the base "
                    f"model's kernel is {(inputs, widths[index])}: the two do not belong together"
                )
            names |= {str(key) for key in keys}
            found.append((index, low, high.T * self._scale(len(low))))
        if not found:
            return np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32), names
        edges = np.cumsum([0, *widths])
        shared = all(np.array_equal(low, found[0][1]) for _, low, _ in found)  # as we write them
        lows = [found[0][1]] if shared else [low for _, low, _ in found]
        high = np.zeros((sum(map(len, lows)), edges[-1]), np.float32)
        row = 0
        for index, low, part in found:
            high[row : row + len(low), edges[index] : edges[index + 1]] = part
            row += 0 if shared else len(low)
        return np.concatenate(lows), high, names

    def _scale(self, rank: int) -> float:
        alpha = float(self.config["lora_alpha"])
        return alpha / rank**0.5 if self.config.get("use_rslora") else alpha / rank


def read_adapter(
    model_class: Any,
    formats: Sequence[Format],
    directory: str | Path,
    base: str | Path | None = None,
    **settings: Any,
) -> Any:
    """Returns a model with the weights of a base checkpoint and adapters; `LanguageModel.from_adapter` calls this.

    Args:
        model_class: the model class, which has `from_pretrained`.
        formats: the formats of its family.
        directory: the directory of adapter_config.json and adapter_model.safetensors.
        base: the base checkpoint; by default the one that adapter_config.json names.
        settings: constructor arguments of the model class.
    """
    files = AdapterFiles(directory)
    base = files.base if base is None else base
    config, _, stored = read_config(resolve_directory(base), formats)
    rank = files.rank(stored, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NewHeadWarning)  # the heads come from the adapter's files
        model = model_class.from_pretrained(base, lora_rank=rank, lora_alpha=float(rank), **settings)
    files.assign(model)
    return model
