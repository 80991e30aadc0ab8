"""Two processes: the curve of one, checkpoints that one goes on from, and an end when one is lost."""

import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from kerasllm import backend, processes
from kerasllm.backend import hashing
from kerasllm.data.batches.causal_lm import CausalBatches
from kerasllm.data.batches.lanes import LaneBatches
from kerasllm.data.batches.share import Share
from kerasllm.data.token_cache.stream import TokenStream
from kerasllm.errors import InputError

HERE = Path(__file__).resolve().parent


def script(name):
    """Returns a file of this folder as a module."""
    specification = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def lines(run):
    """Returns loss, gradient norm, validation and batches left out by step."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    words = ("loss", "norm", "skipped")
    return {
        line["step"]: {k: v for k, v in line.items() if any(word in k for word in words)} for line in found
    }


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow has no runs of several processes"
)
@pytest.mark.parametrize("fsdp", [1, 2] if keras.backend.backend() == "torch" else [2])
def test_one_of_two_processes_is_lost_and_one_alone_goes_on(tmp_path, fsdp):
    """With dropout, clipping, validation and a batch that is left out since one process has a bad label.

    All figures are those of one process, before the loss and after. With half of the weights each, each writes a half.
    """
    lost = script("lost_process")
    started = script("started").Started(
        [HERE / "lost_process.py", "--output", tmp_path / "run", "--dies_at", 2, "--fsdp", fsdp],
        count=2,
        backend=keras.backend.backend(),
        directory=tmp_path / "output",
    )
    lost.train(tmp_path / "alone", 4)  # meanwhile
    codes = started.wait(240)
    first, second = started.outputs
    assert codes == [processes.LOST, -9], started.outputs
    assert "0 of 2" in first and "error: process 0 of 2: another process has ended" in first
    assert "step 2: validation loss" in first
    assert "Traceback" not in first and "step" not in second and "1 of 2" not in second, second

    sizes = [path.stat().st_size for path in (tmp_path / "run").glob("checkpoints/*2/part-*.safetensors")]
    assert len(sizes) == (0 if fsdp == 1 else 2) and max(sizes, default=0) < 1.2 * min(sizes, default=1)
    alone, run = lines(tmp_path / "alone"), lines(tmp_path / "run")
    assert set(run) >= {1, 2, 3}
    assert lost.train(tmp_path / "run", 4, resume=True).last_step == 4
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))][
        -1
    ] == "step-00000004"
    for figures in (run, lines(tmp_path / "run")):
        for step, expected in figures.items():
            for name, value in expected.items():
                assert value == (value and pytest.approx(alone[step][name], rel=1e-5)), (step, name)
    assert run[2]["skipped"] == 1 and run[2]["loss"] is None and run[3]["loss"] > 0


def test_a_share_of_a_batch():
    inputs, weights = {"ids": np.arange(12).reshape(6, 2)}, np.array([1, 1, 0, 2, 1, 1], "float32")
    parts = [Share(part, 2, 2).of((inputs, inputs["ids"] + 1, weights)) for part in (0, 1)]
    assert [part[0]["ids"].tolist() for part in parts] == [
        [[0, 1], [2, 3], [4, 5]],
        [[6, 7], [8, 9], [10, 11]],
    ]
    assert parts[1][1].tolist() == [[7, 8], [9, 10], [11, 12]] and parts[1][2].tolist() == [2, 1, 1]
    normal = [
        Share(part, 2, 2, normalize=True).of((inputs, inputs["ids"], {"a": weights}))[2]["a"]
        for part in (0, 1)
    ]
    np.testing.assert_allclose(np.concatenate(normal), weights / 6)
    # Rows that are missing for equal parts are added, without weight.
    added = [Share(part, 2, 4).of((inputs, inputs["ids"], weights)) for part in (0, 1)]
    assert [part[2].tolist() for part in added] == [[1, 1, 0, 2], [1, 1, 0, 0]]
    assert added[1][0]["ids"].tolist() == [[8, 9], [10, 11], [0, 1], [0, 1]]


def test_rows_of_a_part_are_dropped_as_those_of_the_whole():
    seed = keras.ops.convert_to_tensor([7, 3])
    whole = keras.ops.convert_to_numpy(hashing.draws((6, 5), seed))
    try:
        hashing.number_rows_from(2)
        part = keras.ops.convert_to_numpy(hashing.draws((2, 5), seed))
        with hashing.undivided():
            weights = keras.ops.convert_to_numpy(hashing.draws((6, 5), seed))
    finally:
        hashing.number_rows_from(0)
    np.testing.assert_array_equal(part, whole[4:])
    np.testing.assert_array_equal(weights, whole)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (0, 1)),  # as of other programs
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, (1, 2)),
        ({"KERAS_DISTRIBUTION_NUM_PROCESSES": "4", "KERAS_DISTRIBUTION_PROCESS_ID": "3"}, (3, 4)),
        ({"KERAS_DISTRIBUTION_NUM_PROCESSES": "2", "KERAS_DISTRIBUTION_PROCESS_ID": "2"}, "numbered from 0"),
        ({"KERAS_DISTRIBUTION_NUM_PROCESSES": "two"}, "whole numbers"),
    ],
)
def test_the_place_of_a_process(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            processes.place()
        return
    assert processes.place() == expected
    assert processes.name() == ("" if expected[1] == 1 else f"process {expected[0]} of {expected[1]}: ")


def test_other_processes_than_the_backend_has_are_refused(monkeypatch):
    """Processes that were started for another backend, or for TensorFlow, which has none."""
    for_jax = {"KERAS_DISTRIBUTION_NUM_PROCESSES": "2", "KERAS_DISTRIBUTION_PROCESS_ID": "1"}
    for_torch = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    name = keras.backend.backend()
    for variable, value in (for_torch if name == "jax" else for_jax).items():
        monkeypatch.setenv(variable, value)
    mend = {
        "jax": "started with KERAS_DISTRIBUTION",
        "torch": "started by torchrun",
        "tensorflow": "KERAS_BACKEND=jax",
    }
    with pytest.raises(InputError, match=mend[name]):
        backend.join()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_windows_and_lanes_make_the_rows_of_a_share_alone(accumulation, monkeypatch):
    tokens = np.random.default_rng(0).integers(0, 29, 900).astype("uint16")
    stream = TokenStream(tokens, np.array([0]), vocabulary_size=30, end_id=29)
    settings = {"context_length": 8, "batch_size": 4, "steps": 5, "seed": 3}
    for kind in (CausalBatches, LaneBatches):
        batches = kind(stream, **settings, gradient_accumulation=accumulation, start_step=2)
        whole = [batches[index] for index in range(len(batches))]
        for part in (0, 1):
            share = Share(part, 2, 2, normalize=accumulation == 1)
            batches.set_share(share)
            monkeypatch.setattr(Share, "of", None)
            made = [batches[index] for index in range(len(batches))]
            monkeypatch.undo()
            for expected, found in zip(map(share.of, whole), made, strict=True):
                assert keras.tree.map_structure(np.shape, found) == keras.tree.map_structure(
                    np.shape, expected
                )
                for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-6)
        assert batches.undivided(1)[1].tolist() == whole[1][1].tolist()


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow has no runs of several processes"
)
def test_compile_and_fit_in_two_processes_are_those_of_one(tmp_path):
    """With the losses by default, dropout, clipping, weights and validation; and weights are whole to their user."""
    started = script("started").Started(
        [HERE / "own_script.py", tmp_path],
        count=2,
        backend=keras.backend.backend(),
        directory=tmp_path / "output",
    )
    expected, model = script("own_script").train((0, 1))  # meanwhile
    assert started.wait(240) == [0, 0], started.outputs
    for output in started.outputs:
        line = next(line for line in output.splitlines() if line.startswith("figures"))
        figures = json.loads(line.removeprefix("figures"))
        for name in ("classifier", "gpt"):
            assert set(figures[name]) == set(expected[name])
            for figure, values in expected[name].items():
                assert figures[name][figure] == pytest.approx(values, rel=1e-5), (name, figure)
        if keras.backend.backend() == "torch":
            assert figures["recorded"]["programs"] == 1
            assert figures["recorded"]["loss"] == pytest.approx(expected["gpt"]["loss"], rel=1e-5)
            weights = figures["weights"]
            total = sum(np.abs(values).sum() for values in model.get_weights())
            assert weights["total"] == pytest.approx(total, rel=1e-4) and weights["same"]
            assert weights["zeros"] == 0
            assert len(weights["said"]) == 2 and all(
                "call save_pretrained" in said for said in weights["said"]
            )
            assert [said.split(":")[0].split()[-1] for said in figures["refused"]] == ["each", "each"]
            assert "add_loss" in figures["refused"][0] and "regularizer" in figures["refused"][1]
            saved = type(model).from_pretrained(tmp_path / "0" / "model")
            written = sum(np.abs(values).sum() for values in saved.get_weights())
            assert written == pytest.approx(weights["total"], rel=1e-6)
