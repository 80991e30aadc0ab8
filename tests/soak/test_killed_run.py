"""The short form of the soak: killed in the midst of a save, of a validation, and at a batch."""

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras

SPECIFICATION = importlib.util.spec_from_file_location(
    "kill_harness", Path(__file__).with_name("kill_harness.py")
)
kill_harness = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(kill_harness)


def test_killed_and_resumed_equals_the_run_that_was_let_alone(tmp_path):
    """Weights, optimizer, log and results, to the last byte; in a path with a space and Chinese characters."""
    directory = tmp_path / "a run 数据"
    directory.mkdir()
    harness = kill_harness.Harness(
        keras.backend.backend(), directory, "eagerly", seed=int.from_bytes(os.urandom(4))
    )
    with ThreadPoolExecutor() as pool:
        whole = pool.submit(harness.run, "whole")
        assert harness.kill_and_resume("killed", [("save", 2), ("evaluate", 1), ("batch", 9)])
        assert whole.result() == 0
    harness.compare("killed")
    assert harness.kills.total() == 3
    assert harness.resumed.total() == 3, "each time there was a checkpoint to go on from"
