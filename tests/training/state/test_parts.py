"""Checkpoints in parts, as several processes write them, put together by one."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from kerasllm.files.safetensors import Entry, array_entry, write_safetensors
from kerasllm.training.callbacks.checkpoint import Checkpoint
from kerasllm.training.state import parts
from kerasllm.training.state.training_state import restore


def places(name, shape, process):
    """Three processes: matrices are in blocks, two of the first axis and the second one cut; others in flat ranges."""
    if len(shape) == 2:
        rows, columns = shape[0] // 2, shape[1]
        return [[(0, rows), (0, columns)], [(rows, shape[0]), (0, 1)], [(rows, shape[0]), (1, columns)]][
            process
        ]
    size = int(np.prod(shape))
    ends = [0, size // 3, size // 2, size]
    return [(ends[process], ends[process + 1])]


def in_parts(checkpoint):
    """Writes a checkpoint of one process anew, as three would have that have divided its floating variables."""
    arrays = load_file(checkpoint / "state.safetensors")
    divided = {name for name, array in arrays.items() if array.ndim and array.dtype.kind == "f"}
    for process in range(3):
        entries, described = [], []
        for name in sorted(divided):
            array = arrays[name]
            place = places(name, array.shape, process)
            target = array if len(place) == array.ndim == 2 else array.reshape(-1)
            own = target[tuple(slice(*bounds) for bounds in place)]
            pieces = [(place, lambda own=own: own)]
            for entry, description in parts.part_entries(name, array.shape, array.dtype.name, pieces):
                assert isinstance(entry, Entry)
                entries.append(entry)
                described.append(description)
        parts.write_part(checkpoint, process, entries, described)
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.safetensors").unlink()
    rest = [array_entry(name, array) for name, array in arrays.items() if name not in divided]
    state["sha256"] = write_safetensors(checkpoint / "state.safetensors", rest)
    state["parts"] = parts.wait_for_parts(checkpoint, 3)
    state["checksum"] = parts.checksum(state)
    (checkpoint / "state.json").write_text(json.dumps(state))
    return len(divided)


def values(model):
    return [keras.ops.convert_to_numpy(some) for some in (*model.variables, *model.optimizer.variables)]


def test_one_process_restores_what_three_have_divided(small, tmp_path, capsys):
    model = small.build(True, None)
    small.train(model, 0, 4, [Checkpoint(tmp_path, steps=2)], 1)
    assert in_parts(tmp_path / "step-00000004") > 6
    other = small.build(True, None)
    assert restore(other, tmp_path).step == 4
    for own, expected in zip(values(other), values(model), strict=True):
        np.testing.assert_array_equal(own, expected)

    # A part that was changed, or is gone, makes the checkpoint a damaged one: the one before counts.
    part = tmp_path / "step-00000004" / "part-00001.safetensors"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    assert restore(other, tmp_path).step == 2
    assert "part-00001.safetensors is not what was written" in capsys.readouterr().err
    part.with_suffix(".json").unlink()
    assert restore(other, tmp_path).step == 2


def test_parts_that_make_no_whole_are_refused(tmp_path):
    for number, end in enumerate((3, 5)):
        array = np.arange(2, dtype="float32")
        entry = Entry("a/0", (2,), "float32", lambda array=array: array)
        description = {"name": "a", "shape": [5], "place": [[end - 2, end]]}
        parts.write_part(tmp_path, number, [entry], [description])
    with pytest.raises(ValueError, match="the parts of a do not make a whole"):
        parts.PartedArrays(tmp_path, ["part-00000", "part-00001"])
    with pytest.raises(ValueError, match="is no part"):
        parts.check_parts(tmp_path, {"../part-00000": ""}, 0, 1)


def test_a_part_that_another_process_cannot_write_is_not_waited_for(tmp_path):
    (tmp_path / "part-00000.failed").touch()
    with pytest.raises(OSError, match="process 0 has not written its part"):
        parts.wait_for_parts(tmp_path, 1)
