"""A run stopped and resumed against one that was not, to the last bit; and checkpoints that are broken."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from kerasllm.errors import InputError
from kerasllm.files.safetensors import array_entry, write_safetensors
from kerasllm.training.callbacks.checkpoint import Checkpoint, restore
from kerasllm.training.callbacks.evaluation import Evaluation
from kerasllm.training.callbacks.interruption import Interruption
from kerasllm.training.callbacks.step import StepCallback
from kerasllm.training.state.training_state import checksum


class AtStep(StepCallback):
    """Does something after a step."""

    def __init__(self, step: int, action, **options) -> None:
        super().__init__(**options)
        self.at, self.action = step, action

    def on_step_end(self, step: int, values: dict[str, float]) -> None:
        if step == self.at:
            self.action(self)


def stop(callback: StepCallback) -> None:
    callback.trainer.stop_training = True


def equal(first, second) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("seeded", "accumulation"), [(True, 3), (False, 1)], ids=["seeded", "unseeded"])
def test_resumed_run_equals_the_uninterrupted_one(small, tmp_path, seeded, accumulation):
    """Weights, optimizer and seed generators, bit for bit; unseeded dropout draws from global generators."""
    optimizer_steps = accumulation if accumulation > 1 else None
    keras.utils.set_random_seed(2)
    whole = small.build(seeded, optimizer_steps)
    small.train(
        whole, 0, 12, [Checkpoint(tmp_path / "a", steps=3, gradient_accumulation=accumulation)], accumulation
    )

    keras.utils.set_random_seed(2)
    first = small.build(seeded, optimizer_steps)
    half = AtStep(7, stop, gradient_accumulation=accumulation)
    saving = Checkpoint(tmp_path / "b", steps=5, gradient_accumulation=accumulation)
    options = {"interval": 5, "total_steps": 12, "gradient_accumulation": accumulation}
    validation = Evaluation(
        lambda m: m.evaluate(small.batches(50, 52), return_dict=True, verbose=0), **options
    )  # at the very step of a checkpoint, too
    small.train(first, 0, 12, [half, validation, saving], accumulation)
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["step-00000005", "step-00000007"]
    assert not equal(small.arrays(first), small.arrays(whole))

    keras.utils.set_random_seed(99)
    second = small.build(seeded, optimizer_steps)
    restored = restore(second, tmp_path / "b")
    assert restored.step == 7
    saving = Checkpoint(tmp_path / "b", steps=5, gradient_accumulation=accumulation, restored=restored)
    validation = Evaluation(
        lambda m: m.evaluate(small.batches(50, 52), return_dict=True, verbose=0), start_step=7, **options
    )
    small.train(second, 7, 12, [validation, saving], accumulation)
    assert saving.step == 12
    assert equal(small.arrays(second), small.arrays(whole))


def test_loss_scale_is_part_of_it(small, tmp_path):
    """Of float16 training: the scale, and the count of the good steps since it changed."""

    def build():
        model = small.build()
        inner = keras.optimizers.AdamW(0.01)
        scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**8, dynamic_growth_steps=4)
        model.compile(scaled, "mse")
        return model

    whole, first, second = build(), build(), build()
    small.train(whole, 0, 9, [])
    small.train(first, 0, 7, [Checkpoint(tmp_path, total_steps=7)])
    small.train(second, 7, 9, [Checkpoint(tmp_path, restored=restore(second, tmp_path))])
    assert equal(small.arrays(second), small.arrays(whole))
    assert float(keras.ops.convert_to_numpy(whole.optimizer.dynamic_scale)) == 2.0**10


def test_training_goes_on_while_a_checkpoint_is_written(small, tmp_path, monkeypatch):
    """A step is made before the disk takes the first byte, and yet the state of the step before it lands."""
    from kerasllm.training.callbacks import checkpoint as checkpointing

    may_write = threading.Event()
    real = checkpointing.write_safetensors

    def slow(path, entries):
        assert may_write.wait(60)
        return real(path, entries)

    expected = small.build()
    small.train(expected, 0, 2, [])
    monkeypatch.setattr(checkpointing, "write_safetensors", slow)
    checkpoint = Checkpoint(tmp_path, steps=2)
    small.train(
        small.build(),
        0,
        4,
        [AtStep(3, lambda _: may_write.set()), checkpoint],
    )
    assert checkpoint.step == 4
    found = small.build()
    for later in tmp_path.glob("step-00000004"):
        shutil.rmtree(later)
    assert restore(found, tmp_path).step == 2
    assert equal(small.arrays(found), small.arrays(expected))


def saved(small, directory, steps=(1, 2, 3), **options):
    """A directory with a checkpoint after each of the first steps, and the model."""
    model = small.build()
    model.optimizer.build(model.trainable_variables)
    checkpoint = Checkpoint(directory, **options)
    checkpoint.set_model(model)
    for checkpoint.step in steps:
        checkpoint.save()
    return model


def test_step_number_is_protected(small, tmp_path, capsys):
    """A state.json that is JSON but not what was written."""
    saved(small, tmp_path, (1, 2))
    file = tmp_path / "step-00000002" / "state.json"
    file.write_text(file.read_text().replace('"step": 2', '"step": 3'))
    assert restore(small.build(), tmp_path).step == 1
    assert "state.json is not what was written" in capsys.readouterr().err


def test_what_a_damaged_file_holds_can_be_printed(small, tmp_path, capsys):
    """A checksum put right, and half a character where a generator's state should be; at length."""
    saved(small, tmp_path, (1, 2))
    file = tmp_path / "step-00000002" / "state.json"
    state = json.loads(file.read_text())
    state["random_states"]["python"][0] = "\ud800" * 1000
    state["checksum"] = checksum(state)
    file.write_text(json.dumps(state))
    assert restore(small.build(), tmp_path).step == 1
    error = capsys.readouterr().err  # strict about what UTF-8 can't say, as a notebook's may be
    assert "step-00000002 is damaged" in error and "\\ud800" in error and len(error) < 600


def damage(file, how):
    content = bytearray(file.read_bytes())
    if how == "truncated":
        file.write_bytes(content[:-10])
    elif how == "bit flipped":
        content[-5] ^= 4
        file.write_bytes(content)
    elif how == "missing":
        file.unlink()
    else:
        file.write_bytes(b"")


@pytest.mark.parametrize("how", ["truncated", "bit flipped", "missing", "empty"])
@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_damaged_newest_is_passed_over(small, tmp_path, capsys, how, name):
    """The one before is taken, with a word; and the damaged one does not count as one of those kept."""
    model = saved(small, tmp_path)
    damage(tmp_path / "step-00000003" / name, how)
    restored = restore(small.build(), tmp_path)
    assert restored.step == 2
    assert "step-00000003 is damaged" in capsys.readouterr().err
    again = Checkpoint(tmp_path, keep=1, restored=restored)
    again.set_model(model)
    again.step, again._saved_step = 3, 2
    assert again.save()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]
    assert restore(model, tmp_path).step == 3


def test_nothing_to_restore(small, tmp_path):
    """No directory, or an unfinished temporary one: None."""
    model = small.build()
    assert restore(model, tmp_path / "none") is None
    (tmp_path / ".step-00000004.tmp").mkdir()
    assert restore(model, tmp_path) is None


def test_other_model_is_refused(small, tmp_path):
    """What differs is named."""
    saved(small, tmp_path, (1,))
    other = keras.Sequential([keras.Input((6,)), keras.layers.Dense(9), keras.layers.Dense(1)])
    other.compile("adam", "mse")
    with pytest.raises(InputError, match=r"model/00000/kernel has shape \(6, 8\).*\(6, 9\)"):
        restore(other, tmp_path)
    shorter = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
    shorter.compile("adamw", "mse")
    with pytest.raises(InputError, match="settings differ"):
        restore(shorter, tmp_path)


def test_keep_and_best(small, tmp_path):
    """The newest `keep` stay, and the marked one."""
    model = small.build()
    checkpoint = Checkpoint(tmp_path, steps=1, keep=2)
    small.train(model, 0, 5, [AtStep(2, lambda _: checkpoint.mark_best()), checkpoint])
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["best", "step-00000002", "step-00000004", "step-00000005"]
    (tmp_path / "best").write_bytes(b"\xff\xfe")  # damaged: nothing is marked, and training goes on
    small.train(model, 5, 6, [Checkpoint(tmp_path, steps=1, keep=1, restored=restore(model, tmp_path))])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "step-00000006"]


def test_full_disk_lets_training_go_on(small, tmp_path, capsys, monkeypatch):
    """One line a failure; the last good checkpoint stays, no litter; the next one is written again."""
    from kerasllm.training.callbacks import checkpoint as checkpointing

    real = checkpointing.write_safetensors

    def full(path, entries):
        if "00000002" in str(path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return real(path, entries)

    monkeypatch.setattr(checkpointing, "write_safetensors", full)
    saved(small, tmp_path, (1, 2, 3))
    error = capsys.readouterr().err
    assert error.count("not saved") == 1
    assert "step 2 not saved (No space left on device)" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_every_checkpoint_but_the_last_may_be_a_failure_of_permission(small, tmp_path, capsys):
    """A directory that cannot be made."""
    (tmp_path / "file").write_text("")
    saved(small, tmp_path / "file" / "checkpoints", (1, 2))
    assert capsys.readouterr().err.count("not saved") == 2


def test_callbacks_are_part_of_it(small, tmp_path):
    """State as JSON and arrays."""

    class Counter:
        def __init__(self, count, values):
            self.count, self.values = count, values

        def get_state(self):
            return {"count": self.count}

        def set_state(self, state):
            self.count = state["count"]

        def get_arrays(self):
            return {"values": self.values}

        def set_arrays(self, arrays):
            self.values = np.array(arrays["values"])

    saved(small, tmp_path, (1,), callbacks=[Counter(3, np.arange(4.0)), Counter(5, np.arange(2))])
    first, second = Counter(0, None), Counter(0, None)
    Checkpoint(tmp_path, restored=restore(small.build(), tmp_path), callbacks=[first, second])
    assert (first.count, second.count) == (3, 5)
    assert first.values.tolist() == [0, 1, 2, 3]
    assert second.values.tolist() == [0, 1]


def test_states_are_found_by_class_wherever_the_callback_stands(small, tmp_path):
    """Another callback before it, and a checkpoint of 0.1, which wrote the position into the name."""

    class Counter:
        def __init__(self, count):
            self.count = count

        def get_state(self):
            return {"count": self.count}

        def set_state(self, state):
            self.count = state["count"]

        def get_arrays(self):
            return {"values": np.full(2, self.count)}

        def set_arrays(self, arrays):
            self.values = arrays["values"]

    class Other(Counter):
        pass

    saved(small, tmp_path, (1,), callbacks=[Counter(3)])
    counter = Counter(0)
    Checkpoint(tmp_path, restored=restore(small.build(), tmp_path), callbacks=[Other(9), counter])
    assert counter.count == 3 and counter.values.tolist() == [3, 3]

    place = tmp_path / "step-00000001"
    arrays = {
        name.replace("/Counter/", "/1-Counter/"): a
        for name, a in load_file(place / "state.safetensors").items()
    }
    (place / "state.safetensors").unlink()
    digest = write_safetensors(place / "state.safetensors", [array_entry(*named) for named in arrays.items()])
    state = json.loads((place / "state.json").read_text())
    state |= {"callbacks": {"1-Counter": {"count": 4}}, "sha256": digest}
    (place / "state.json").write_text(json.dumps(state | {"checksum": checksum(state)}))
    counter = Counter(0)
    Checkpoint(tmp_path, restored=restore(small.build(), tmp_path), callbacks=[counter])
    assert counter.count == 4 and counter.values.tolist() == [3, 3]


def test_file_is_plain_safetensors_with_stable_names(small, tmp_path):
    """Read by the safetensors package; the names don't depend on how many models the process has made."""
    model = saved(small, tmp_path / "a", (1,))
    saved(small, tmp_path / "b", (1,))
    first = load_file(tmp_path / "a" / "step-00000001" / "state.safetensors")
    second = load_file(tmp_path / "b" / "step-00000001" / "state.safetensors")
    assert list(first) == list(second)
    assert np.array_equal(first["model/00000/kernel"], small.arrays(model)[0])
    assert {name.rsplit("/", 1)[1] for name in first} == {
        *("kernel", "bias", "seed_generator_state", "iteration", "momentum", "velocity")
    }


def test_bfloat16_variables(small, tmp_path):
    """Exactly the same values back."""
    random = np.random.default_rng(0)

    def build():
        layer = keras.layers.Dense(3, dtype="bfloat16")
        model = keras.Sequential([keras.Input((6,), dtype="bfloat16"), layer])
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        return model

    model = build()
    model.set_weights([random.normal(size=w.shape) for w in model.weights])
    model.optimizer.build(model.trainable_variables)
    checkpoint = Checkpoint(tmp_path)
    checkpoint.set_model(model)
    assert checkpoint.save()
    other = build()
    assert not equal(small.arrays(model), small.arrays(other))
    restore(other, tmp_path)
    assert equal(small.arrays(model), small.arrays(other))
    assert small.arrays(other)[0].dtype.name == "bfloat16"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_finishes_the_step_and_saves(small, tmp_path, number, code):
    """With accumulation the whole optimizer step; handlers are as before."""
    before = signal.getsignal(number)
    model = small.build(accumulation=2)

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 4:  # the first half of step 3
                os.kill(os.getpid(), number)

    checkpoint = Checkpoint(tmp_path, gradient_accumulation=2)
    small.train(model, 0, 6, [Kill(), checkpoint], accumulation=2)
    assert checkpoint.interrupted == code
    assert checkpoint.step == 3
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]
    assert signal.getsignal(number) is before


def test_second_signal_exits_at_once():
    """With the code of the second."""
    code = textwrap.dedent("""
        import os, signal, time
        from kerasllm.training.callbacks.interruption import Interruption
        interruption = Interruption()
        interruption.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.exit_code == 143
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(9)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert "once more" in done.stderr


def test_handlers_only_in_the_main_thread():
    """In another thread training goes without."""
    thread = threading.Thread(target=Interruption().listen)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_last_step_and_early_stop_are_saved(small, tmp_path):
    """Without any rule: at `total_steps`, and where another callback stops."""
    small.train(small.build(), 0, 3, [Checkpoint(tmp_path / "a", total_steps=3)])
    small.train(small.build(), 0, 3, [AtStep(2, stop), Checkpoint(tmp_path / "b")])
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["step-00000003"]
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["step-00000002"]


def test_minutes(small, tmp_path):
    """A rule of no time at all saves every step, but for those at which the one before is still being written."""
    checkpoint = Checkpoint(tmp_path / "all", minutes=1e-9, keep=9)
    waiting = [AtStep(step, lambda _: checkpoint.wait()) for step in (1, 2, 3)]
    small.train(small.build(), 0, 3, [checkpoint, *waiting])
    assert len(list((tmp_path / "all").iterdir())) == 3
