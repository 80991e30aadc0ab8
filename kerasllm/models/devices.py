"""Several devices: how a run's weights and batches are laid out on them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import yaml

from kerasllm import backend
from kerasllm.errors import InputError, counted
from kerasllm.models.registry import FAMILIES

_AXES = ("replica", "fsdp", "tensor")


def distribute(
    replica: int = 1, fsdp: int = -1, tensor: int = 1, *, layout: str | Path | None = None
) -> tuple[int, int]:
    """Lays models that are made from now on out on all devices; call it before the first model is made.

    On one device it does nothing. Batches keep their global size: each device has its share of the rows, and the loss
    curve is that of one device.

    Args:
        replica: devices, each with all weights, among which a batch is divided.
        fsdp: devices among which both a batch and the weights are divided.
        tensor: devices that compute one product together. One of the three may be -1: what is left.
        layout: a YAML file of rules that go before the models' own: the path of a weight as a regular expression, and
            for each axis fsdp, tensor or null.

    Returns:
        The number of this process, from 0, and the number of processes.

    Raises:
        InputError: the numbers do not fit the devices, or the file cannot be read.
    """
    place = backend.join()
    count = backend.device_count()
    sizes = mesh_sizes({"replica": replica, "fsdp": fsdp, "tensor": tensor}, count)
    check_weights(sizes)
    own = read_layout(layout) if layout else []
    if count > 1:
        rules = [*own, *(rule for family in FAMILIES.values() for rule in family.layout)]
        backend.distribute(tuple(sizes.values()), rules)
    return place


def mesh_sizes(asked: dict[str, int], count: int) -> dict[str, int]:
    """Returns the number of devices of each axis.

    Args:
        asked: the numbers by axis; one may be -1, for what the others leave.
        count: the number of devices.

    Raises:
        InputError: the message names the option and the number of devices.
    """
    for name, size in asked.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise InputError(f"{name} is {size!r}, it must be a whole number")
    words = " ".join(f"--mesh.{name} {size}" for name, size in asked.items())
    if any(size < 1 and size != -1 for size in asked.values()) or list(asked.values()).count(-1) > 1:
        raise InputError(f"{words}: each must be at least 1, or one of them -1 for the devices that are left")
    given = math.prod(size for size in asked.values() if size != -1)
    fits = count % given == 0 if -1 in asked.values() else count == given
    if not fits:
        where = f"KERAS_BACKEND={keras.backend.backend()} has {counted(count, 'device')}"
        only = {
            "jax": "",
            "torch": "; torchrun --nproc_per_node=N starts one process for each of N devices",
            "tensorflow": "; several devices need KERAS_BACKEND=jax or torch",
        }[keras.backend.backend()]
        raise InputError(f"{words}: {where}, and their product must be that{only}")
    return {name: count // given if size == -1 else size for name, size in asked.items()}


def check_weights(sizes: dict[str, int]) -> None:
    """Refuses a mesh that divides weights where the backend does not.

    Raises:
        InputError: the message names the options.
    """
    if keras.backend.backend() == "torch" and sizes["tensor"] > 1:
        raise InputError(
            f"--mesh.tensor {sizes['tensor']}: KERAS_BACKEND=torch divides weights by --mesh.fsdp alone: give "
            "--mesh.tensor 1 (a script: tensor of kerasllm.distribute), or take KERAS_BACKEND=jax"
        )


def check_rows(batch_size: int, sizes: dict[str, int]) -> None:
    """Refuses a batch that the devices cannot divide.

    Raises:
        InputError: the message names the batch size.
    """
    parts = sizes["replica"] * sizes["fsdp"]
    if batch_size % parts:
        raise InputError(
            f"--batch_size {batch_size} cannot be divided among {parts} devices (replica {sizes['replica']}, fsdp "
            f"{sizes['fsdp']}): choose a multiple of {parts}"
        )


def read_layout(path: str | Path) -> list[tuple[str, tuple[str | None, ...]]]:
    """Returns the rules of a YAML file.

    Raises:
        InputError: the file cannot be read, or a rule is none.
    """
    try:
        content: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--layout {path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise InputError(
            f"--layout {path}: must map paths of weights to axes, as in embeddings/token: [tensor, fsdp]"
        )
    return [(_pattern(path, key), _axes(path, key, value)) for key, value in content.items()]


def _pattern(path: str | Path, key: Any) -> str:
    try:
        re.compile(key)
    except (re.error, TypeError) as error:
        raise InputError(f"--layout {path}: {key!r} is no regular expression ({error})") from error
    return key


def _axes(path: str | Path, key: Any, value: Any) -> tuple[str | None, ...]:
    known = (*_AXES[1:], None)
    if not isinstance(value, Iterable) or isinstance(value, str) or not all(axis in known for axis in value):
        raise InputError(
            f"--layout {path}: {key}: {value!r} must be a list of fsdp, tensor and null, one an axis"
        )
    return tuple(value)
