"""Files that are whole or not there, and what is said of a place that takes none."""

import errno
import os
from pathlib import Path

import pytest

from kerasllm.errors import InputError
from kerasllm.files.atomic import check_outputs, check_writable, write_atomically, write_output


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    """The user's own file too, and in one line; for the package's own files it is an OSError."""
    file = tmp_path / "predictions.jsonl"
    write_output(file, "before")

    def fsync(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match=r"predictions.jsonl: cannot be written \(Input/output error\)"):
        write_output(file, "after")
    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(file, "after")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_asking_leaves_nothing(tmp_path):
    check_writable(tmp_path / "new")
    assert not list(tmp_path.iterdir())
    (tmp_path / "old").write_text("before")
    check_writable(tmp_path / "old")
    assert (tmp_path / "old").read_text() == "before"


def test_a_link_stays_one(tmp_path):
    """Its target is written; of a device nothing is."""
    (tmp_path / "link").symlink_to(tmp_path / "file")
    check_writable(tmp_path / "link")
    write_output(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"
    (tmp_path / "nothing").symlink_to(os.devnull)
    with pytest.raises(InputError, match="not an ordinary file"):
        check_writable(tmp_path / "nothing")


@pytest.mark.parametrize("place", ["/proc/predictions", "/proc/1/predictions"])
def test_places_that_take_no_files(place):
    with pytest.raises(InputError, match=f"{place}: (cannot be written|there is no directory)"):
        check_writable(Path(place))


def test_outputs_are_apart(tmp_path):
    (tmp_path / "text").write_text("read")
    (tmp_path / "link").symlink_to(tmp_path / "text")
    one, text, link = (str(tmp_path / name) for name in ("one", "text", "link"))
    check_outputs({"--output": one, "--figures": None}, [text, None])
    with pytest.raises(InputError, match=r"--output .*link is read, too"):
        check_outputs({"--output": link}, [text])
    with pytest.raises(InputError, match=r"--figures .*one is the path of --output, too"):
        check_outputs({"--output": one, "--figures": one}, [text])
