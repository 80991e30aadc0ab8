"""Hugging Face's format in both directions: config.json and model.safetensors, no pickle, no code from a file."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm import backend
from kerasllm.checkpoints.config_fields import written_tokens
from kerasllm.checkpoints.hub import resolve_directory, upload_directory
from kerasllm.checkpoints.model_card import write_model_card
from kerasllm.checkpoints.name_table import Entry, Format
from kerasllm.checkpoints.weights import (
    WeightFiles,
    number_of_bytes,
    write_json,
    write_weights,
)
from kerasllm.errors import InputError, InputWarning, NewHeadWarning
from kerasllm.files.json import read_json
from kerasllm.layers.initializers import drawing_later
from kerasllm.models.base import LanguageModel
from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.bert.config import BertConfig
from kerasllm.models.bert.hugging_face import BERT
from kerasllm.models.bert.tasks import (
    BertClassifier,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
)
from kerasllm.models.gpt import hugging_face as gpt_format
from kerasllm.models.gpt.backbone import GPTBackbone
from kerasllm.models.gpt.tasks import GPTCausalLM

FORMATS = {each.model_type: each for each in (BERT, gpt_format.GPT2, gpt_format.LLAMA, gpt_format.OWN)}
_STORED = (
    *(BertBackbone, BertPretraining, BertMaskedLM, BertClassifier, BertRegressor),
    *(GPTBackbone, GPTCausalLM),
)
_BACKBONES = (BertBackbone, GPTBackbone)
_HEADS = ("pooler", "masked_lm_head", "masked_lm_projection", "next_sentence_head", "classifier", "head")


def read_settings(directory: Path, config_class: type | None = None) -> tuple[Any, dict[str, Any]]:
    """Our config and the whole of config.json.

    Args:
        directory: holds config.json.
        config_class: the family that is wanted; any where None.

    Raises:
        InputError: a key is missing, it is of another family, or says what the model here cannot do.
    """
    path = directory / "config.json"
    theirs = read_json(path)
    config = _format(theirs, path, config_class).read_config(theirs, str(path))
    return config, theirs


def _format(theirs: dict[str, Any], path: Path, config_class: type | None) -> Format:
    wanted = {
        name: each
        for name, each in FORMATS.items()
        if config_class is None or (each is BERT) == (config_class is BertConfig)
    }
    found = theirs.get("model_type")
    if not isinstance(found, str) or found not in wanted:
        names = " or ".join(map(repr, (name for name in wanted if not name.startswith("kerasllm"))))
        raise InputError(f"{path}: model_type is {found!r}, only {names} can be read")
    return wanted[found]


def check_checkpoint(source: str | Path, config_class: type | None = None) -> Any:
    """Looks a checkpoint over without reading weights: its settings, and what its files declare.

    Args:
        source: as in `resolve_directory`.
        config_class: the family that is wanted; any where None.

    Returns:
        Our config.

    Raises:
        InputError: there is none, or it is damaged or of another family.
    """
    directory = resolve_directory(source)
    config, theirs = read_settings(directory, config_class)
    return _Checkpoint(directory, FORMATS[theirs["model_type"]], config).config


class _Checkpoint:
    """The files of a checkpoint and the table of what they are to hold, one compared with the other.

    That is done from the headers alone, before a model is made: absurd sizes never become memory.

    Raises:
        InputError: a weight of the body is missing, has another shape than config.json says, or is no float.
    """

    def __init__(self, directory: Path, stored: Format, config: Any) -> None:
        self.directory, self.stored, self.config = directory, stored, config
        self.files = WeightFiles(directory)
        self.shapes = {stored.modern(name): shape for name, shape in self.files.shapes.items()}
        self._names: dict[str, str] = {}
        for name in sorted(self.files.shapes):
            other = self._names.setdefault(stored.modern(name), name)
            if other != name:
                raise InputError(f"{directory}: holds both {other} and {name}, which are one; {_AGAIN}")
        if self._head_differs():
            self.config = config = dataclasses.replace(config, tie_embeddings=False)
        if config.num_layers > len(self._names):
            raise InputError(
                f"{directory}: config.json says {config.num_layers} layers, the weights hold "
                f"{len(self._names)} tensors: {_APART}"
            )
        self.entries = stored.entries(config)
        missing = [entry for entry in self.entries if _is_body(entry) and None in self.find(entry)]
        if missing:
            absent = [name for entry in missing for name in entry.theirs if self._stored(name) is None]
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise InputError(
                f"{directory}: the weights hold no {absent[0]}{more}, which the model of config.json has: {_APART}"
            )
        for entry in self.entries:
            for index, tensor in enumerate(self.find(entry)):
                if tensor is not None:
                    self._check(tensor, entry.shape_of(index))

    def _check(self, name: str, expected: tuple[int, ...] | None) -> None:
        self.files.check_number(self._names[name])
        found = self.shapes[name]
        if expected is not None and found != expected:
            raise InputError(
                f"{self.directory}: {name} has shape {found}, config.json says {expected}: {_APART}"
            )

    def _head_differs(self) -> bool:
        """Whether the projection is stored too and is not the embedding, for all that config.json calls them tied.

        It is then what `transformers` computes with.
        """
        head, table = map(self._stored, self.stored.tied)
        if (
            not (self.config.tie_embeddings and head and table)
            or not self.shapes[head]
            or self.shapes[head] != self.shapes[table]
        ):
            return False
        for name in (head, table):
            self.files.check_number(self._names[name])
        pairs = zip(self.parts(head), self.parts(table), strict=True)
        return any(not np.array_equal(*pair) for pair in pairs)

    def _stored(self, name: str) -> str | None:
        """With the format's prefix or without, whichever the files have."""
        prefix = self.stored.prefix
        for candidate in (name, name.removeprefix(prefix), prefix + name):
            if candidate in self.shapes:
                return candidate
        return None

    def find(self, entry: Entry) -> list[str | None]:
        """The tensors that an entry is made of, by their modern names; None for one that is not there."""
        found = [self._stored(name) for name in entry.theirs]
        if entry.alias_first and self._stored(entry.alias):
            found = [None]
        return [self._stored(entry.alias)] if found == [None] and entry.alias else found

    def read(self, name: str) -> np.ndarray:
        """A tensor by its modern name."""
        return self.files.read(self._names[name])

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """The same, some rows at a time."""
        return self.files.parts(self._names[name])

    def unused(self, used: set[str]) -> list[str]:
        """What of the files was not used, without repetitions and buffers, by layer."""
        aliases = {self._stored(entry.alias) for entry in self.entries if entry.alias}
        aliases |= {
            self._stored(entry.theirs[0])
            for entry in self.entries
            if entry.alias and self._stored(entry.alias) in used
        }
        rest = [name for name in self.shapes if name not in used | aliases]
        rest = [name for name in rest if not self.stored.redundant(name, self.config)]
        return sorted({name.removeprefix(self.stored.prefix).rpartition(".")[0] or name for name in rest})


_AGAIN = "copy the model anew"
_APART = f"the two do not belong together; {_AGAIN}"


def _is_body(entry: Entry) -> bool:
    return entry.ours.split("/")[0] not in _HEADS


def read_model(
    cls: type[LanguageModel], source: str | Path, *, revision: str | None = None, **settings: Any
) -> LanguageModel:
    """`cls.from_pretrained`: see there."""
    directory = resolve_directory(source, revision)
    config, theirs = read_settings(directory, cls.config_class)
    stored = FORMATS[theirs["model_type"]]
    if "dropout" in settings:
        rate = settings.pop("dropout")
        rates = {"dropout": rate, "attention_dropout": None}
        rates["classifier_dropout" if isinstance(config, BertConfig) else "embedding_dropout"] = None
        config = dataclasses.replace(config, **rates)
    checkpoint = _Checkpoint(directory, stored, config)
    config = checkpoint.config
    asked = settings
    settings = stored.class_settings(cls, theirs, str(directory / "config.json"), checkpoint.shapes, settings)
    with drawing_later() as undrawn:
        model = cls(config, **settings)
    used: set[str] = set()
    variables = model.named_variables()
    missing = set(variables)
    for entry in checkpoint.entries:
        found = [name for name in checkpoint.find(entry) if name is not None]
        if entry.ours not in variables or len(found) < len(entry.theirs):
            continue
        variable = variables[entry.ours]
        shape = tuple(variable.shape)[::-1] if entry.transpose else tuple(variable.shape)
        if entry.shape is None and checkpoint.shapes[found[0]] != shape:
            if cls is BertRegressor or "num_classes" in asked or "label_names" in asked:
                continue  # a head for another number of classes
            raise InputError(
                f"{directory}: {found[0]} has shape {checkpoint.shapes[found[0]]}, config.json says {shape}: {_APART}, "
                "or give num_classes for a new head"
            )
        parts: Iterable[np.ndarray] = checkpoint.parts(found[0])
        if not entry.is_copy:
            parts = [entry.join([checkpoint.read(name) for name in found])]
        backend.fill_rows(variable, parts)
        missing.discard(entry.ours)
        used.update(found)
    for name in missing & undrawn.keys():
        variable = variables[name]
        variable.assign(undrawn[name](tuple(variable.shape), variable.dtype))
    _report(directory, sorted({name.split("/")[0] for name in missing}), checkpoint.unused(used))
    return model


def _report(directory: Path, new: list[str], unused: list[str]) -> None:
    """Warns of heads with initial values, and of weights that were left out."""
    heads = [name for name in new if name in _HEADS]
    parts = [f"new, with initial values: {', '.join(heads)}"] if heads else []
    if unused:
        parts.append(f"not used of the checkpoint: {_first(unused)}")
    message = f"{directory}: {'; '.join(parts)}"
    if parts:
        warnings.warn(NewHeadWarning(message, tuple(heads)) if heads else InputWarning(message), stacklevel=4)


def _first(names: list[str], most: int = 12) -> str:
    shown = [name if name.isprintable() else repr(name) for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")


def write_model(
    model: LanguageModel,
    directory: str | Path,
    *,
    tokenizer: Any = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """`model.save_pretrained`: see there."""
    directory = Path(directory)
    if type(model) not in _STORED:
        raise InputError(f"{type(model).__name__} has no counterpart in Hugging Face's format")
    largest = number_of_bytes(max_shard_size)
    gpt = isinstance(model, GPTBackbone | GPTCausalLM)
    stored = gpt_format.format_of(model.config) if gpt else BERT
    config = stored.write_config(model)
    write_weights(directory, _tensors(model, stored), largest)
    write_json(directory / "config.json", config)
    if isinstance(model, GPTCausalLM):
        tokens = {name: value for name, value in written_tokens(model.config).items() if value is not None}
        write_json(directory / "generation_config.json", {"_from_model_config": True, **tokens})
    else:  # of another model that was here
        (directory / "generation_config.json").unlink(missing_ok=True)
    if tokenizer is not None:
        from kerasllm.tokenizers.saving import save_tokenizer

        save_tokenizer(tokenizer, directory, max_length=model.config.max_sequence_length)
    if not (directory / "README.md").exists():
        write_model_card(directory)


def _tensors(model: LanguageModel, stored: Format) -> Iterator[tuple[str, np.ndarray]]:
    """The weights under their names; the task models put a prefix before the backbone's."""
    is_backbone = isinstance(model, _BACKBONES)
    variables = model.named_variables()
    for entry in stored.entries(model.config):
        if entry.ours in variables:
            value = np.asarray(model.merged(entry.ours), dtype=np.float32)
            for name, part in entry.split(value):
                yield stored.qualified(name, is_backbone), part


def push_model(
    source: LanguageModel | str | Path,
    repo_id: str,
    *,
    tokenizer: Any = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload a model of kerasllm",
) -> str:
    """Sends a model, or the model of a finished run, to the hub; `model.push_to_hub` calls this.

    Args:
        source: a model; or a model directory or run, which is sent as it is, card and tokenizer included.
        repo_id: OWNER/NAME; made if it is missing.
        tokenizer: sent along with a model.
        private: of a new repository; the owner's default where None.
        revision: branch; the main one where None.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        InputError: there is no such model, no permission, or the hub does not answer.
    """
    if not isinstance(source, LanguageModel):
        if not Path(source).is_dir():
            raise InputError(f"{source}: there is no such directory")
        return upload_directory(
            resolve_directory(source), repo_id, private=private, revision=revision, message=message
        )
    with tempfile.TemporaryDirectory() as directory:
        write_model(source, directory, tokenizer=tokenizer)
        return upload_directory(Path(directory), repo_id, private=private, revision=revision, message=message)
