"""What is written where."""

import io
import math
import re

import pytest

from kerasllm.training.callbacks.progress import Progress, in_words


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self):
        return True


def train(progress, steps, clock=None, seconds=0.0):
    progress.on_train_begin()
    for batch in range(steps):
        if clock is not None:
            clock[0] += seconds
        progress.on_train_batch_end(batch, {"loss": 2.5})
    progress.on_train_end()


def test_plain_lines_every_ten_seconds_and_a_last_one(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("kerasllm.training.callbacks.progress.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    train(Progress(1009, tokens_per_step=64, stream=stream, start_step=1000), 9, clock, 4.0)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "making the first step …"
    assert "first step after 4.0 s, then 4.0 s a step" in lines
    steps = [line for line in lines if line.startswith("step")]
    assert [line.split("  ")[0] for line in steps] == [
        *("step 1004/1009", "step 1007/1009", "step 1009/1009")
    ]
    assert steps[0].split("  ")[1:] == ["loss 2.5000", "0:00:20 left", "0:00:16 elapsed", "16 tokens/s"]
    assert "left" not in steps[-1]


@pytest.mark.parametrize("share, shown", [(0.125, "  MFU 12.5 %"), (None, "")])
def test_the_share_of_the_machine_stands_beside_the_speed(monkeypatch, share, shown):
    """It is left out where it cannot be told; measuring it is no training."""
    clock = [1000.0]
    monkeypatch.setattr("kerasllm.training.callbacks.progress.time.monotonic", lambda: clock[0])
    stream = io.StringIO()

    def utilization(tokens_per_second):
        assert tokens_per_second == 16
        clock[0] += 0.5
        return share

    train(Progress(7, tokens_per_step=64, utilization=utilization, stream=stream), 7, clock, 4.0)
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("step")]
    assert [line.endswith(f"16 tokens/s{shown}") for line in lines] == [True] * len(lines)
    assert len(lines) == 3


def test_compilation_is_told_apart(monkeypatch):
    """The median step counts, so that one that compiles for another shape does not; a validation is no step."""
    clock = [1000.0]
    monkeypatch.setattr("kerasllm.training.callbacks.progress.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    progress = Progress(10, compiles=True, stream=stream)
    progress.start()
    clock[0] += 1.3  # what `fit` does before it trains
    progress.on_train_begin()
    for batch, seconds in enumerate([11.0, 0.084, 2.0, 0.084, 0.084, 0.084]):
        clock[0] += seconds
        progress.on_train_batch_end(batch, {"loss": 2.5})
        clock[0] += 0.5
        progress.exclude(0.5)
    progress.on_train_end()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "compiling the training step …"
    assert [line for line in lines if line.startswith("first")] == [
        "first step after 12.3 s (compilation), then 84 ms a step"
    ]


@pytest.mark.parametrize("seconds, shown", [(0.0042, "4.2 ms"), (0.0996, "100 ms"), (1.25, "1.2 s")])
def test_a_time_of_each_size(monkeypatch, seconds, shown):
    clock = [1000.0]
    monkeypatch.setattr("kerasllm.training.callbacks.progress.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    train(Progress(3, stream=stream), 3, clock, seconds)
    assert f"then {shown} a step" in stream.getvalue()


def test_the_speed_leaves_out_what_is_no_training(monkeypatch):
    """A validation of 100 s after the third step, of which the time to come takes account."""
    clock = [1000.0]
    monkeypatch.setattr("kerasllm.training.callbacks.progress.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    progress = Progress(9, tokens_per_step=64, stream=stream)
    progress.on_train_begin()
    for batch in range(7):
        clock[0] += 4.0
        progress.on_train_batch_end(batch, {"loss": 2.5})
        if batch == 2:
            clock[0] += 100.0
            progress.exclude(100.0)
    lines = [line.split("  ") for line in stream.getvalue().splitlines() if line.startswith("step")]
    assert [line[-1] for line in lines] == ["16 tokens/s", "16 tokens/s"]
    assert lines[0][2:4] == ["0:03:07 left", "0:01:56 elapsed"]  # five steps; three took 112 s


def test_a_short_run_leaves_one_line():
    stream = io.StringIO()
    train(Progress(3, gradient_accumulation=2, stream=stream), 6)
    lines = stream.getvalue().splitlines()
    assert lines[-1].startswith("step 3/3  loss 2.5000")
    assert len(lines) == 3  # the beginning, the times and the end


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    train(Progress(3, stream=stream), 3)
    assert "step 3/3" in stream.getvalue()
    assert "loss 2.5000" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize("columns", [30, 60, 80, 200])
def test_a_narrow_terminal_keeps_what_matters(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    clock = [1000.0]
    monkeypatch.setattr("kerasllm.training.callbacks.progress.time.monotonic", lambda: clock[0])
    stream = Terminal()
    progress = Progress(50_000, tokens_per_step=64, utilization=lambda speed: 0.125, stream=stream)
    progress.on_train_begin()
    for batch in range(8):
        clock[0] += 4.0
        progress.on_train_batch_end(batch, {"loss": 2.5})
    progress._live.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    line = re.split(r"[\r\n]+", text.rstrip())[-1]
    progress.close()
    parts = ["step 8/50000", "loss 2.5000", "55:32:48 left", "0:00:32 elapsed", "16 tokens/s", "MFU 12.5 %"]
    shown = {30: 2, 60: 4, 80: 5, 200: 6}[columns]
    assert line.rstrip().endswith("  ".join(parts[:shown])) and len(line.rstrip()) <= columns
    assert ("━" in line) == (columns == 200)


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    train(Progress(3, stream=stream), 3)
    assert stream.getvalue().startswith("making the first step …\n") and "\x1b" not in stream.getvalue()


def test_lines_of_their_own_stand_above_the_bar(monkeypatch):
    """As they come, with brackets and however long they are."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    progress = Progress(3, stream=stream)
    progress.on_train_begin()
    text = "step 3: validation loss 2.5000, [bold] perplexity 12.1825, the best so far"
    progress.say(text)
    progress.close()
    assert text in stream.getvalue()


def test_figures_in_words():
    figures = {
        "loss": 2.34567,
        "perplexity": 12345.678,
        "f1_macro": math.nan,
        "tokens": 8192,
        "confusion": {},
    }
    assert in_words(figures) == "loss 2.3457, perplexity 12,345.7, f1 macro nan, tokens 8,192"


def test_standard_output_stays_clean(capsys):
    train(Progress(2), 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 2/2" in captured.err
