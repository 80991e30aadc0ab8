"""The lines of metrics.jsonl against sums by hand, and a resumed file against an uninterrupted one."""

import errno
import json
import math
import subprocess
import sys
import textwrap

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.text.text_plugin import text_array_to_html
from tensorboard.util import tensor_util

from kerasllm.training.callbacks import tensorboard as tensorboard_events
from kerasllm.training.callbacks.metrics_log import MetricsLog, default_log_interval, read_metrics
from kerasllm.training.run.curves import plot_curves


def feed(log, losses, begin=True):
    """The batches of a run by hand."""
    if begin:
        log.on_train_begin()
    for batch, loss in enumerate(losses):
        log.on_train_batch_end(batch, {"loss": loss})


def lines_of(path, timings=False):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in () if timings else lines:
        line.pop("tokens_per_second", None)
    return lines


def test_loss_is_the_mean_since_the_line_before(tmp_path):
    log = MetricsLog(tmp_path, total_steps=7, log_interval=3)
    feed(log, [1, 2, 6, 4, 4, 10, 7])
    assert lines_of(tmp_path) == [
        {"step": 3, "loss": 3.0},
        {"step": 6, "loss": 6.0},
        {"step": 7, "loss": 7.0},
    ]


def test_accumulated_batches_make_one_step(tmp_path):
    log = MetricsLog(tmp_path, total_steps=3, log_interval=2, gradient_accumulation=2)
    feed(log, [1, 3, 5, 7, 9, 11])
    assert lines_of(tmp_path) == [{"step": 2, "loss": 4.0}, {"step": 3, "loss": 10.0}]


def test_default_interval():
    assert [default_log_interval(steps) for steps in (1, 100, 101, 10_000)] == [1, 1, 10, 10]


def test_lines_wait_while_the_disk_is_full(tmp_path, monkeypatch, capsys):
    """Half a line is all there was room for; no checkpoint counts meanwhile; in the end all lines are there."""
    log = MetricsLog(tmp_path, total_steps=9, log_interval=1)
    feed(log, [1, 2])
    original = type(tmp_path).open

    def open_full(path, mode, *more):
        if "b" in mode and mode != "rb" and "metrics" in path.name:
            with original(path, "ab") as file:
                file.write(b'{"step": 3, "lo')
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return original(path, mode, *more)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "open", open_full)
        log.add(2, {"validation_loss": 7})
        feed(log, [3, 4], begin=False)
        log.add(4, {"validation_loss": 8})
        for needed in (log.sync, log.on_train_end):
            with pytest.raises(OSError, match="No space left"):
                needed()
    assert capsys.readouterr().err.count("the disk is full; training goes on") == 1
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    feed(log, [5], begin=False)
    log.sync()
    log.close()
    assert [(line["step"], line["loss"], line.get("validation_loss")) for line in lines_of(tmp_path)] == [
        *((1, 1.0, None), (2, 2.0, 7), (3, 3.0, None), (4, 4.0, 8), (5, 5.0, None))
    ]


def test_resumed_file_equals_the_uninterrupted_one(tmp_path):
    """Stopped in the middle of a window, with lines beyond the checkpoint and half a line at the end."""
    losses = [math.sin(i) * 3 + 5 for i in range(25)]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for directory in (whole, parts):
        directory.mkdir()
    feed(MetricsLog(whole, total_steps=25, log_interval=5, tokens_per_step=8), losses)

    first = MetricsLog(parts, total_steps=25, log_interval=5, tokens_per_step=8)
    feed(first, losses[:12])
    state = json.loads(json.dumps(first.get_state()))
    feed(first, losses[12:21], begin=False)
    with (parts / "metrics.jsonl").open("a") as file:
        file.write('{"step": 22, "lo')

    second = MetricsLog(parts, total_steps=25, log_interval=5, tokens_per_step=8, start_step=12)
    second.set_state(state)
    feed(second, losses[12:])
    assert lines_of(parts) == lines_of(whole)
    assert [line["step"] for line in lines_of(parts)] == [5, 10, 15, 20, 25]


def test_fresh_start_empties_an_old_file(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 1}\n')
    feed(MetricsLog(tmp_path, total_steps=1), [9])
    assert lines_of(tmp_path) == [{"step": 1, "loss": 9.0}]


def test_validation_is_merged_into_the_line_of_its_step(tmp_path):
    log = MetricsLog(tmp_path, total_steps=4, log_interval=2)
    feed(log, [1, 1])
    log.add(2, {"validation_loss": 0.5})
    log.add(2, {"validation_accuracy": 0.25})
    feed(log, [1], begin=False)
    log.add(3, {"validation_loss": 0.125})
    feed(log, [1], begin=False)
    assert lines_of(tmp_path) == [
        {"step": 2, "loss": 1.0, "validation_loss": 0.5, "validation_accuracy": 0.25},
        {"step": 3, "validation_loss": 0.125},
        {"step": 4, "loss": 1.0},
    ]


def test_nan_is_null(tmp_path):
    feed(MetricsLog(tmp_path, total_steps=1), [math.nan])
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": null}\n'


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("scheduled", [True, False])
def test_learning_rate_is_what_the_step_used(small, tmp_path, scheduled, accumulation):
    """Step n is Keras' iteration n - 1; its schedules tick with the batches."""
    model = small.build(accumulation=accumulation if accumulation > 1 else None, schedule=scheduled)
    log = MetricsLog(tmp_path, total_steps=3, gradient_accumulation=accumulation)
    small.train(model, 0, 3, [log], accumulation)
    expected = [0.01] * 3
    if scheduled:
        expected = [0.05 + (0.0001 - 0.05) * (accumulation * n - 1) / 20 for n in (1, 2, 3)]
    assert [line["learning_rate"] for line in lines_of(tmp_path)] == pytest.approx(expected, rel=1e-5)


def test_speed_leaves_excluded_time_out(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("kerasllm.training.callbacks.metrics_log.time.perf_counter", lambda: clock[0])
    log = MetricsLog(tmp_path, total_steps=4, log_interval=2, tokens_per_step=lambda s: 100 * s)
    log.on_train_begin()
    for step in range(4):
        clock[0] += 2
        log.on_train_batch_end(step, {"loss": 1.0})
        if step == 2:
            clock[0] += 50
            log.exclude(50)
    assert [line["tokens_per_second"] for line in lines_of(tmp_path, timings=True)] == [75.0, 175.0]


def test_tensorboard_overlays_training_and_validation(tmp_path):
    """Another program's eye: two runs of one tag, which it draws in one chart; what was redone is forgotten."""
    log = MetricsLog(tmp_path, total_steps=9)
    feed(log, [3, 2, 1])
    log.add(3, {"validation_loss": 7, "validation_accuracy": 0.25})
    log._events.close()
    log = MetricsLog(tmp_path, total_steps=9, start_step=2)
    feed(log, [0.5])
    log.add(3, {"validation_loss": 0.75, "validation_accuracy": 0.5})
    log.on_train_end()
    runs = {run.name: EventAccumulator(str(run)).Reload() for run in (tmp_path / "tensorboard").iterdir()}
    assert {run: set(events.Tags()["scalars"]) for run, events in runs.items()} == {
        "train": {"loss"},
        "validation": {"loss", "accuracy"},
    }
    scalars = {run: [(e.step, e.value) for e in events.Scalars("loss")] for run, events in runs.items()}
    assert scalars == {"train": [(1, 3), (2, 2), (3, 0.5)], "validation": [(3, 0.75)]}


def test_tensorboard_shows_a_text_as_it_stands(tmp_path):
    """As TensorBoard's own plugin for texts reads and renders it."""
    text = "# O, *that* I <b>were</b>\n\n  a line\twith 한 \ud800"
    log = MetricsLog(tmp_path, total_steps=9)
    log.add_text(4, "sample", text)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "validation")).Reload()
    assert list(events.PluginTagToContent("text")) == ["sample"]
    (event,) = events.Tensors("sample")
    assert event.step == 4
    value = tensor_util.make_ndarray(event.tensor_proto)
    shown = text_array_to_html(value, enable_markdown=True)
    assert "<code># O, *that* I &lt;b&gt;were&lt;/b&gt;" in shown and "  a line" in shown and "한" in shown


def test_tensorflow_is_not_imported_for_it(tmp_path):
    """Not even where it is installed. The module alone: `import keras` may bring TensorFlow along."""
    code = textwrap.dedent(f"""
        import importlib.util, sys
        from pathlib import Path
        spec = importlib.util.spec_from_file_location("events", {tensorboard_events.__file__!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.EventWriter(Path({str(tmp_path)!r})).add(1, {{"loss": 2.0}})
        assert "tensorboard" in sys.modules
        assert not [name for name in sys.modules if name.split(".")[0] == "tensorflow"]
    """)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert list(tmp_path.iterdir())


def test_curves(small, tmp_path):
    """A picture at the end of a run."""
    import matplotlib.image

    log = MetricsLog(tmp_path, total_steps=3)
    small.train(small.build(), 0, 3, [log])
    picture = matplotlib.image.imread(tmp_path / "curves.png")
    assert picture.shape[0] > 400
    assert picture[..., :3].std() > 0.02
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_long_run_is_drawn_now_and_then(tmp_path, monkeypatch):
    """Once in ten minutes; a full disk does not end the training, and the time is none of training."""
    clock, drawn = [100.0], []
    monkeypatch.setattr("kerasllm.training.callbacks.metrics_log.time.perf_counter", lambda: clock[0])

    def draw(lines, path, title, best_step):
        clock[0] += 30.0
        drawn.append((len(lines), path.name, best_step))
        if len(drawn) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kerasllm.training.callbacks.metrics_log.plot_curves", draw)
    log = MetricsLog(tmp_path, total_steps=99, log_interval=1, tokens_per_step=800)
    log.on_train_begin()
    for step in range(20):
        clock[0] += 80.0
        log.best_step = step
        log.on_train_batch_end(step, {"loss": 1.0})
    assert drawn == [(8, "curves.png", 7), (16, "curves.png", 15)]
    assert {line["tokens_per_second"] for line in lines_of(tmp_path, timings=True)} == {10.0}
    log.on_train_end()
    assert drawn[-1] == (20, "curves.png", 19)


def test_a_picture_is_replaced_as_a_whole(tmp_path, monkeypatch):
    """A run that is killed while it draws leaves the old one."""
    path = tmp_path / "curves.png"
    plot_curves([{"step": 1, "loss": 2.0}], path, "old")
    old = path.read_bytes()

    def killed(self, file, **options):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", killed)
    with pytest.raises(KeyboardInterrupt):
        plot_curves([{"step": 1, "loss": 2.0}], path, "new")
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
