"""A lock is held by one at a time, and leaves no file behind."""

import errno
import fcntl
import os
import threading

import pytest

from kerasllm.files.locks import FileLock


def test_a_second_holder_is_refused_or_waits(tmp_path):
    path = tmp_path / ".lock"
    first = FileLock(path)
    assert first.is_held
    with pytest.raises(BlockingIOError):
        FileLock(path, wait=False)
    got = []
    waiting = threading.Thread(target=lambda: got.append(FileLock(path)))
    waiting.start()
    waiting.join(0.1)
    assert not got
    first.release()
    waiting.join(10)
    # The first removed the file that the second had opened: the second has locked a new one.
    assert got[0].is_held and path.exists()
    with pytest.raises(BlockingIOError):
        FileLock(path, wait=False)
    got[0].release()
    got[0].release()
    assert not path.exists()


def test_where_files_cannot_be_locked(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with FileLock(tmp_path / ".lock", wait=False) as lock:
        assert not lock.is_held and lock.error.errno == errno.ENOLCK
    assert not list(tmp_path.iterdir())
