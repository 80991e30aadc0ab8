"""Logs that a test opens are closed after it."""

import pytest

from kerasllm.training.callbacks.tensorboard import EventWriter


@pytest.fixture(autouse=True)
def closed_logs(monkeypatch):
    """Closes TensorBoard's files, of callbacks that no training has ended for."""
    opened: list[EventWriter] = []
    original = EventWriter.__init__

    def remember(self, directory):
        original(self, directory)
        opened.append(self)

    monkeypatch.setattr(EventWriter, "__init__", remember)
    yield
    for writer in opened:
        writer.close()
