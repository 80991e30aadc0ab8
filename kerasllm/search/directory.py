"""The directory of a search: its settings, who may write it, and whether it is finished."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kerasllm.errors import InputError
from kerasllm.files.atomic import write_atomically
from kerasllm.files.json import plain
from kerasllm.files.locks import FileLock
from kerasllm.training.run.directory import RunDirectory
from kerasllm.training.run.settings import compare, recorded, versions

MAY_GROW = frozenset({"trials", "repeats"})
"""Settings that a resumed search may raise."""


def check_directory(config: Any) -> bool:
    """Returns whether the search is finished, so that there is nothing to do; nothing is written.

    Args:
        config: the settings of the search, with `output` and `resume`.

    Raises:
        InputError: the directory cannot be written to, holds something else, or a search that these settings do not
            continue.
    """
    finished = RunDirectory.check(config.output, config, resume=config.resume, may_grow=MAY_GROW)
    path = Path(config.output)
    if not finished and (path / "config.yaml").is_file():
        compare(path, recorded(path), config, set(MAY_GROW))
    return finished


@contextlib.contextmanager
def search_directory(config: Any) -> Iterator[Path]:
    """Makes the directory of a search, writes its settings to config.yaml, and keeps other processes away.

    Args:
        config: the settings of the search, which `check_directory` has checked.

    Raises:
        InputError: another process is searching there.
    """
    path = Path(config.output)
    path.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path / ".lock", wait=False)
    except BlockingIOError as error:
        raise InputError(f"--output {path} is being written by another process") from error
    with lock:
        content = {**plain(config), "versions": versions()}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
        write_atomically(path / "config.yaml", text)
        yield path
