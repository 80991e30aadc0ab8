"""Load on a server with OpenAI's API: tokens a second and the time to the first token, for several numbers of clients.

python recipes/benchmark/serving_load.py --url http://127.0.0.1:8000 --model shakespeare --clients 1 4 16
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

from kerasllm import cli
from kerasllm.cli.ranges import above, at_least
from kerasllm.errors import InputError


@dataclass
class Config:
    """Asks a server for completions, by several clients at once, each of which asks again as soon as it is answered."""

    model: str
    """Name of the model."""

    url: str = "http://127.0.0.1:8000"
    """Address of the server."""

    clients: list[int] = field(default_factory=lambda: [1, 4, 16])
    """Numbers of clients, one after the other."""

    seconds: float = field(default=10.0, metadata=above(0))
    """Seconds for each number of clients."""

    prompt: str = "ROMEO:\nWhat say you to"
    """The prompt, before which each client puts a letter of its own."""

    max_tokens: int = field(default=64, metadata=at_least(1))
    """New tokens of a completion."""


@dataclass
class Tally:
    """What the clients have seen: new tokens, seconds to first tokens, and errors."""

    tokens: int = 0
    first: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def main(config: Config) -> int:
    """Prints one line for each number of clients."""
    ask(config, 0, Tally())  # which loads the model, where the server loads it on use
    for number in config.clients:
        tally = Tally()
        end = time.monotonic() + config.seconds
        threads = [threading.Thread(target=client, args=(config, each, end, tally)) for each in range(number)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rate = tally.tokens / (time.monotonic() - began)
        first = sorted(tally.first) or [float("nan")]
        middle, late = (1000 * first[int(share * (len(first) - 1))] for share in (0.5, 0.95))
        print(
            f"{number:3d} clients: {rate:7.0f} tokens/s, first token {middle:6.0f} ms (p95 {late:6.0f} ms), "
            f"{len(tally.first)} answers, {len(tally.errors)} errors {tally.errors[:1] or ''}",
            flush=True,
        )
    return 0


def client(config: Config, number: int, end: float, tally: Tally) -> None:
    """Asks until the time is over."""
    while time.monotonic() < end:
        try:
            ask(config, number, tally)
        except (OSError, InputError, http.client.HTTPException) as error:
            tally.errors.append(str(error))
            return


def ask(config: Config, number: int, tally: Tally) -> None:
    """Asks for one completion as a stream, and counts its events as tokens."""
    place = urllib.parse.urlsplit(config.url)
    if place.hostname is None:
        raise InputError(f"--url {config.url}: give an address as http://127.0.0.1:8000")
    body = {
        "model": config.model,
        "prompt": f"{chr(97 + number % 26)}\n{config.prompt}",
        "max_tokens": config.max_tokens,
        "seed": number,
        "temperature": 1.0,
        "stream": True,
    }
    connection = http.client.HTTPConnection(place.hostname, place.port or 80, timeout=300)
    began = time.monotonic()
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise InputError(f"{config.url} answers {response.status}: {response.read().decode()[:200]}")
    seen = 0
    for line in response:
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0].get("text"):
            if not seen:
                tally.first.append(time.monotonic() - began)
            seen += 1
    tally.tokens += seen
    connection.close()


if __name__ == "__main__":
    cli.run(main, Config)
