"""The server: takes its port first, then loads and compiles the models, and serves until it is told to stop."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import uvicorn

from kerasllm.errors import InputError, counted
from kerasllm.serving.application import application
from kerasllm.serving.context import Context, Limits
from kerasllm.serving.served import load_models

_BACKLOG = 2048  # connections that wait to be accepted


@dataclass(frozen=True)
class ServerSettings:
    """The settings of a server.

    Args:
        host: the address that it binds.
        port: the port; 0 for any that is free.
        api_key: the key that clients must give, or None.
        slots: texts that a GPT continues at the same time.
        batch_size: texts that another model takes at the same time.
        queue_length: texts, or requests, of each model that may wait.
        is_compiled: whether programs are compiled before the first request.
        limits: the limits of requests.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    slots: int = 16
    batch_size: int = 8
    queue_length: int = 64
    is_compiled: bool = True
    limits: Limits = field(default_factory=Limits)


def serve(sources: Sequence[str], settings: ServerSettings) -> int:
    """Serves models until a signal, and returns the exit code: 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        sources: `RUN` or `NAME=RUN` for each model.
        settings: the settings.

    Raises:
        InputError: the port is taken, or a model cannot be served.
    """
    with contextlib.closing(bind(settings.host, settings.port)) as listener:
        models = load_models(sources)
        for model in models.values():
            began = time.monotonic()
            programs = model.start(
                slots=settings.slots,
                batch_size=settings.batch_size,
                queue_length=settings.queue_length,
                is_compiled=settings.is_compiled,
            )
            seconds = time.monotonic() - began
            print(
                f"{model.name}: {model.task}, {counted(programs, 'program')} ready in {seconds:.0f} s",
                flush=True,
            )
        # Under a name of this machine alone, so that no page of another site reaches it by a name of its own.
        hosts = {"localhost", settings.host} if _is_local(listener) else None
        with _remembered() as received:
            _serve(Context(models, settings.limits, settings.api_key, hosts), listener, settings)
        for model in models.values():
            model.close()
    return 130 if signal.SIGINT in received else 143


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound to an address, on which nobody listens yet.

    Raises:
        InputError: the port is taken, or the address is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(
            f"--host {host}: is no address of this machine ({error.strerror or error})"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            mend = _taken(host, port)
        elif error.errno == errno.EACCES:
            mend = f"--port {port}: only root may use ports below 1024; choose a higher one"
        else:
            mend = f"--host {host}: cannot be bound ({error.strerror}); choose an address of this machine"
        raise InputError(mend) from error
    return listener


def listen(listener: socket.socket) -> None:
    """Lets a bound socket accept connections.

    Raises:
        InputError: another server that was bound to the same port listens already, as Linux allows.
    """
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        raise InputError(_taken(*listener.getsockname()[:2])) from error


def _taken(host: str, port: int) -> str:
    return f"--port {port} of {host} is taken: stop what uses it, or choose another"


def _is_local(listener: socket.socket) -> bool:
    """Returns whether only this machine reaches a socket."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def _serve(context: Context, listener: socket.socket, settings: ServerSettings) -> None:
    """Serves until a signal; then no connection is accepted, and the answers that run are finished."""
    config = uvicorn.Config(
        application(context),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=int(settings.limits.seconds) + 1,
        timeout_keep_alive=5,
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    listen(listener)  # whoever reads the next line may connect
    print(f"serving on http://{shown}:{port}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def _remembered() -> Iterator[list[int]]:
    """Collects the signals that ask to stop; uvicorn has handlers of its own, and raises them again at its end."""
    received: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda number, _: received.append(number)) for kind in kinds}
    try:
        yield received
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
