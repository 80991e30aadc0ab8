"""Who may write a run directory when, and what is in it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from kerasllm.cli import parse
from kerasllm.errors import InputError
from kerasllm.training.run.directory import RunDirectory


@dataclass(frozen=True)
class Model:
    num_layers: int = 2


@dataclass(frozen=True)
class Config:
    output: Path = Path("run")
    steps: int = 10
    learning_rate: float = 1e-4
    text_columns: str = "0"
    keep: int = 2
    model: Model = field(default_factory=Model)


def interrupt(path, config=None, checkpoint=True):
    """An interrupted run."""
    with RunDirectory.create(path, config or Config()) as run:
        if checkpoint:
            (run.checkpoints / "step-00000004").mkdir(parents=True)


def test_config_repeats_the_run(tmp_path):
    """It is YAML with versions, and `--config` takes it."""
    config = Config(tmp_path / "数据 run", steps=20, text_columns="3", model=Model(5))
    with RunDirectory.create(config.output, config) as run:
        run.record(precision="float32")
        content = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
        assert parse(Config, ["--config", str(run.path / "config.yaml")]) == config
        (run.checkpoints / "step-00000001").mkdir(parents=True)
    assert content["model"] == {"num_layers": 5}
    assert content["text_columns"] == "3"
    assert content["resolved"] == {"precision": "float32"}
    versions = content["versions"]
    assert versions["backend"] == keras.backend.backend()
    assert versions[versions["backend"]]
    assert {"python", "keras", "kerasllm", "numpy", "tokenizers", "platform"} < set(versions)


def test_results(tmp_path):
    with RunDirectory.create(tmp_path / "run", Config()) as run:
        run.write_results({"validation": {"loss": np.float32(1.5), "accuracy": float("nan")}})
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["validation"] == {"loss": 1.5, "accuracy": None}
    assert results["backend"] == keras.backend.backend()
    assert results["seconds"] >= 0
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.yaml", "results.json"]


def test_finished_run(tmp_path):
    """Refused, or with `resume` nothing to do."""
    with RunDirectory.create(tmp_path, Config()) as run:
        run.write_results({})
    with pytest.raises(InputError, match="holds a finished run"):
        RunDirectory.create(tmp_path, Config())
    (tmp_path / ".lock").touch()  # of a process that was killed just then
    with RunDirectory.create(tmp_path, Config(), resume=True) as run:
        assert run.finished
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "results.json"]


def test_interrupted_run(tmp_path):
    """Only with `resume`, and with the same settings."""
    interrupt(tmp_path)
    with pytest.raises(InputError, match="--resume"):
        RunDirectory.create(tmp_path, Config())
    with RunDirectory.create(tmp_path, replace(Config(), keep=5, steps=30), resume=True) as run:
        assert not run.finished
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["steps"] == 30
    changed = Config(steps=5, learning_rate=1e-3, model=Model(3))
    with pytest.raises(InputError) as error:
        RunDirectory.create(tmp_path, changed, resume=True)
    for part in (
        "steps 30, which can only grow, not 5",
        "learning_rate 0.0001, not 0.001",
        "model.num_layers 2, not 3",
    ):
        assert part in str(error.value)


def test_a_setting_that_the_run_does_not_know_had_its_default(tmp_path):
    """A run that was started before there was the setting goes on, unless another value is asked for."""
    interrupt(tmp_path)
    recorded = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del recorded["learning_rate"], recorded["model"]["num_layers"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(recorded))
    with pytest.raises(InputError, match=r"learning_rate 0\.0001, not 0\.001"):
        RunDirectory.create(tmp_path, Config(learning_rate=1e-3), resume=True)
    with RunDirectory.create(tmp_path, Config(), resume=True):
        pass


def test_other_data_are_refused(tmp_path):
    """What is named by a hash must be the same in every session; the rest may be found anew."""
    with RunDirectory.create(tmp_path, Config()) as run:
        run.record(corpus_sha256="a" * 64, parameters=5)
        (run.checkpoints / "step-00000004").mkdir(parents=True)
    with RunDirectory.create(tmp_path, Config(), resume=True) as run:
        run.record(corpus_sha256="a" * 64, first_batch_sha256="b" * 64, parameters=6)
    changed = r"other data \(first_batch_sha256 b{16}, now c{16}\)"
    with (
        pytest.raises(InputError, match=changed),
        RunDirectory.create(tmp_path, Config(), resume=True) as run,
    ):
        run.record(first_batch_sha256="c" * 64)
    resolved = yaml.safe_load((tmp_path / "config.yaml").read_text())["resolved"]
    assert resolved == {"corpus_sha256": "a" * 64, "first_batch_sha256": "b" * 64, "parameters": 6}


def test_before_any_checkpoint_everything_may_change(tmp_path):
    interrupt(tmp_path / "run", checkpoint=False)  # ends without an error: not discarded
    with RunDirectory.create(tmp_path / "run", Config(learning_rate=1.0), resume=True):
        pass
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["learning_rate"] == 1.0


def test_resume_of_nothing_starts(tmp_path):
    with RunDirectory.create(tmp_path / "a" / "b", Config(), resume=True) as run:
        assert (run.path / "config.yaml").exists()


def test_places_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    for place, message in (
        ("file", "is a file"),
        ("file/run", "is a file"),
        ("dangling", "does not exist"),
        ("other", "holds no run"),
    ):
        with pytest.raises(InputError, match=message):
            RunDirectory.create(tmp_path / place, Config())
    before = sorted(tmp_path.rglob("*"))
    assert [p.name for p in before] == ["dangling", "file", "other", "thesis.tex"]
    with pytest.raises(InputError, match="/proc"):
        RunDirectory.create("/proc/1/kerasllm", Config())


def test_no_permission(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="no permission"):
        RunDirectory.create(tmp_path / "run", Config())


def test_link_to_a_directory_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    interrupt(tmp_path / "link")
    assert (tmp_path / "there" / "config.yaml").exists()


def test_check_creates_nothing(tmp_path):
    assert RunDirectory.check(tmp_path / "a" / "b", Config()) is False
    assert list(tmp_path.iterdir()) == []


def test_failure_before_the_first_step_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), RunDirectory.create(tmp_path / "a" / "b", Config()) as run:
        run.checkpoints.mkdir()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(ZeroDivisionError), RunDirectory.create(tmp_path / "mine", Config()):
        raise ZeroDivisionError
    assert list((tmp_path / "mine").iterdir()) == []


def test_failure_after_it_leaves_the_run(tmp_path):
    with pytest.raises(ZeroDivisionError), RunDirectory.create(tmp_path / "run", Config()) as run:
        run.metrics.write_text('{"step": 1}\n')
        raise ZeroDivisionError
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.yaml", "metrics.jsonl"]
    with pytest.raises(ZeroDivisionError), RunDirectory.create(tmp_path / "run", Config(), resume=True):
        raise ZeroDivisionError
    assert (tmp_path / "run" / "config.yaml").exists()


def test_one_process_at_a_time(tmp_path):
    """Another one is refused while the first lives, killed or not."""
    code = textwrap.dedent(f"""
        import sys, time
        from kerasllm.training.run.directory import RunDirectory
        run = RunDirectory.create({str(tmp_path / "run")!r}, {{"steps": 10}})
        (run.checkpoints / "step-00000001").mkdir(parents=True)
        print("locked", flush=True)
        time.sleep(60)
    """)
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="another process"):
            RunDirectory.create(tmp_path / "run", {"steps": 10}, resume=True)
        assert (tmp_path / "run" / "config.yaml").exists()
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
    with RunDirectory.create(tmp_path / "run", {"steps": 10}, resume=True):
        pass


def test_what_a_killed_process_was_writing_goes(tmp_path):
    interrupt(tmp_path)
    (tmp_path / "model").mkdir()
    for name in (".metrics.jsonl.0.tmp", "model/.model.safetensors.7.tmp", "checkpoints/.best.3.tmp"):
        (tmp_path / name).touch()
    with RunDirectory.create(tmp_path, Config(), resume=True):
        assert sorted(p.name for p in tmp_path.rglob(".*")) == [".lock"]


def test_full_disk_is_the_users_to_mend(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with RunDirectory.create(tmp_path / "run", Config()) as run:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="disk is full"):
            run.write_results({})
        monkeypatch.undo()
        assert sorted(p.name for p in run.path.iterdir()) == [".lock", "config.yaml"]
