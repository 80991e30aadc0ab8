"""Serves trained runs: OpenAI's API, paths for the other tasks, and a page at http://127.0.0.1:8000/.

KERAS_BACKEND=jax python recipes/serve.py --model runs/gpt --model runs/classifier --model tagger=runs/wnut --port 8000
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import keras

from kerasllm import cli
from kerasllm.cli.ranges import above, at_least, within
from kerasllm.errors import InputError, require

PACKAGES = ("starlette", "uvicorn", "prometheus_client")


@dataclass
class Config:
    """Serves trained runs over HTTP, with OpenAI's API and a page."""

    model: list[str]
    """Runs, model directories or hub ids, each as RUN or NAME=RUN."""

    port: int = field(default=8000, metadata=within(0, 65536))
    """Port; 0 for any that is free."""

    host: str = "127.0.0.1"
    """Address to bind; 0.0.0.0 lets other machines ask, best with --api_key."""

    api_key: str | None = None
    """Key that clients must give, or @FILE that holds it."""

    slots: int = field(default=16, metadata=at_least(1))
    """Texts that a GPT continues at the same time."""

    batch_size: int = field(default=8, metadata=at_least(1))
    """Texts that another model takes at the same time."""

    queue_length: int = field(default=64, metadata=at_least(0))
    """Texts or requests of each model that may wait; more are told to come later (503)."""

    max_tokens: int = field(default=1024, metadata=at_least(1))
    """Most new tokens of a text."""

    max_kilobytes: int = field(default=256, metadata=at_least(1))
    """Largest body of a request."""

    max_seconds: float = field(default=300.0, metadata=above(0))
    """Most time for an answer."""

    client_requests: int | None = field(default=None, metadata=at_least(1))
    """Requests that one address may have open; any number if null."""

    compile: bool = True
    """Whether programs are compiled before the first request, which else waits for them."""

    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Precision of the computation."""


def main(config: Config) -> int:
    """Takes the port, loads the models, and serves until a signal."""
    require("serving", "serve", *PACKAGES)
    if not config.model:
        raise InputError("--model: name at least one run")
    from kerasllm.serving.context import Limits
    from kerasllm.serving.server import ServerSettings, serve

    keras.config.set_dtype_policy(config.precision)
    limits = Limits(config.max_tokens, config.max_kilobytes, config.max_seconds, config.client_requests)
    settings = ServerSettings(
        config.host,
        config.port,
        read_key(config.api_key),
        slots=config.slots,
        batch_size=config.batch_size,
        queue_length=config.queue_length,
        is_compiled=config.compile,
        limits=limits,
    )
    return serve(config.model, settings)


def read_key(given: str | None) -> str | None:
    """Returns the key, which a file may hold, so that it does not stand in the list of processes."""
    if given is None or not given.startswith("@"):
        key = given
    else:
        try:
            key = Path(given[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--api_key {given}: cannot be read ({error})") from error
    if key is not None and not (key.strip() and key.isascii() and key.isprintable()):
        raise InputError("--api_key: give printable ASCII characters, at least one")
    return key


if __name__ == "__main__":
    cli.run(main, Config)
