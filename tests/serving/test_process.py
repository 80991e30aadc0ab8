"""The recipe as a process: what it refuses, and how it stops."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from kerasllm import cli
from kerasllm.errors import InputError
from kerasllm.serving.served import load_models
from kerasllm.serving.server import bind, listen

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(models, tmp_path_factory):
    """A run directory with a GPT."""
    directory = tmp_path_factory.mktemp("runs") / "poet"
    predictor = models["gpt"].predictor
    predictor.model.save_pretrained(directory / "model", tokenizer=predictor.tokenizer)
    return directory


def started(*arguments):
    command = [sys.executable, str(ROOT / "recipes" / "serve.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_sigterm_finishes_what_runs(run, models):
    """A stream that has begun comes whole, no connection is accepted any more, and the process exits with 143."""
    process = started("--model", run, "--port", "0", "--compile", "false")
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        assert lines[0].startswith("poet: causal_lm"), process.stderr.read()
        port = int(re.search(r"http://127.0.0.1:(\d+)", lines[1])[1])
        body = {"prompt": "the ship", "max_tokens": 80, "seed": 1, "stream": True}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            first = response.readline()
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                pass
            events = [json.loads(line[6:]) for line in [first, *response] if line.startswith(b"data: {")]
        predictor = models["gpt"].predictor
        expected = predictor.generate("the ship", max_new_tokens=80, seed=1, temperature=1.0)
        assert "the ship" + "".join(event["choices"][0]["text"] for event in events) == expected
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (143, "", "")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def recipe():
    """recipes/serve.py as a module."""
    specification = importlib.util.spec_from_file_location("recipe_serve", ROOT / "recipes" / "serve.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["recipe_serve"] = module  # where dataclasses look up annotations
    specification.loader.exec_module(module)
    return module


def test_a_port_that_is_taken(recipe, run, capsys):
    """One line and exit code 2, before any model is loaded."""
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as raised:
            cli.run(recipe.main, recipe.Config, ["--model", str(run), "--port", str(port)])
    assert (raised.value.code, capsys.readouterr()) == (
        2,
        ("", f"error: --port {port} of 127.0.0.1 is taken: stop what uses it, or choose another\n"),
    )


def test_a_port_that_another_server_took_meanwhile():
    """Two servers may be bound to one port while they load their models; one of them listens first."""
    with bind("127.0.0.1", 0) as slow:
        port = slow.getsockname()[1]
        with bind("127.0.0.1", port) as quick:
            listen(quick)
            with pytest.raises(InputError, match=f"--port {port} of 127.0.0.1 is taken: stop what uses it"):
                listen(slow)


def test_what_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="both named 'poet'"):
        load_models([str(run), str(run / "model")])
    with pytest.raises(InputError, match="NAME=RUN"):
        load_models(["=x"])
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="unfinished"):
        load_models([f"a={tmp_path / 'unfinished'}"])
    with pytest.raises(InputError, match="--host"):
        bind("999.1.1.1", 0)
    assert list(load_models([f"a={run}", str(run)])) == ["a", "poet"]


def test_a_missing_extra(monkeypatch, recipe, run):
    """The message says what to install."""
    monkeypatch.setattr(recipe, "PACKAGES", ("starlette", "no_such_package"))
    with pytest.raises(InputError, match=r"no_such_package: pip install 'kerasllm\[serve\]'"):
        recipe.main(recipe.Config(model=[str(run)]))
    for wrong in ("@/no/such/file", " ", "schlüssel"):
        with pytest.raises(InputError, match="--api_key"):
            recipe.read_key(wrong)
