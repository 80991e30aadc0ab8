"""What is written where."""

import io

from kerasllm.training.callbacks.progress import Progress


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
    train(Progress(1010, tokens_per_step=64, stream=stream, start_step=1000), 10, clock, 4.0)
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *("step 1003/1010", "step 1006/1010", "step 1009/1010", "step 1010/1010")
    ]
    assert lines[0].split("  ")[1:] == ["loss 2.5000", "16 tokens/s", "0:00:12 elapsed", "0:00:28 left"]
    assert "left" not in lines[-1]


def test_the_share_of_the_machine_stands_beside_the_speed(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("kerasllm.training.callbacks.progress.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    train(Progress(4, tokens_per_step=64, peak_tokens_per_second=128, stream=stream), 4, clock, 4.0)
    assert "16 tokens/s  MFU 12.5 %  " in stream.getvalue().splitlines()[0]


def test_the_speed_leaves_out_what_is_no_training(monkeypatch):
    """A validation of 100 s after the third step, of which the time to come takes account."""
    clock = [1000.0]
    monkeypatch.setattr("kerasllm.training.callbacks.progress.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    progress = Progress(9, tokens_per_step=64, stream=stream)
    progress.on_train_begin()
    for batch in range(5):
        clock[0] += 4.0
        progress.on_train_batch_end(batch, {"loss": 2.5})
        if batch == 2:
            clock[0] += 100.0
            progress.exclude(100.0)
    lines = [line.split("  ") for line in stream.getvalue().splitlines()]
    assert [line[2] for line in lines] == ["16 tokens/s", "16 tokens/s"]
    assert lines[1][-2:] == ["0:01:56 elapsed", "0:03:07 left"]  # five steps, where three took 112 s


def test_a_short_run_leaves_one_line():
    stream = io.StringIO()
    train(Progress(3, gradient_accumulation=2, stream=stream), 6)
    assert stream.getvalue().startswith("step 3/3  loss 2.5000")
    assert stream.getvalue().count("\n") == 1


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    train(Progress(3, stream=stream), 3)
    assert "step 3/3" in stream.getvalue()
    assert "loss 2.5000" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_standard_output_stays_clean(capsys):
    train(Progress(2), 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 2/2" in captured.err
