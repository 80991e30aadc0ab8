"""A run tells whoever has started it of each validation, and stops if that is the answer."""

import json
import os
import signal
import socket
import threading

import pytest

from kerasllm.training.callbacks.interruption import Interruption
from kerasllm.training.run.listener import SOCKET, listener


@pytest.fixture
def ours(monkeypatch):
    """Our end of a socket, of which the environment names the other end."""
    ours, theirs = socket.socketpair()
    monkeypatch.setenv(SOCKET, f"{theirs.fileno()} {os.getppid()}")
    with ours, theirs:
        yield ours


def test_it_tells_and_does_what_it_is_told(ours):
    answers, heard = [b"go on\n", b"stop\n"], []

    def answer():
        for each in answers:
            heard.append(json.loads(ours.recv(1000)))
            ours.sendall(each)

    thread = threading.Thread(target=answer)
    thread.start()
    interruption = Interruption()
    interruption.listen()
    try:
        tell = listener(4)
        tell(4, {"loss": 0.5, "f1": float("nan")})
        assert interruption.exit_code is None
        tell(10, {"loss": 0.25})  # the last step, which is no multiple
        assert interruption.exit_code == 128 + signal.SIGTERM
    finally:
        interruption.restore()
        thread.join()
    assert heard == [
        {"number": 1, "step": 4, "figures": {"loss": 0.5, "f1": None}},
        {"number": 3, "step": 10, "figures": {"loss": 0.25}},
    ]


def test_it_goes_on_if_nobody_is_there(ours):
    tell = listener(None)
    ours.close()
    tell(7, {"loss": 1.0})


def test_nobody_listens(ours, monkeypatch):
    """Without the variable, and in a process that has only inherited it."""
    monkeypatch.setenv(SOCKET, f"7 {os.getpid()}")
    assert listener(1) is None
    monkeypatch.delenv(SOCKET)
    assert listener(1) is None
