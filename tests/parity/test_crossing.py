"""A run saved under one backend is loaded, evaluated and fine-tuned under each other one, as under its own."""

import importlib.util
import itertools
import json

import numpy as np
import pytest

BACKENDS = ["jax", "torch", "tensorflow"]
for name in BACKENDS:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: all three backends are compared", allow_module_level=True)


@pytest.fixture(scope="module")
def crossed(run_backend, tmp_path_factory):
    """What the writers found, and {reader: {writer: what it found}}."""
    place = tmp_path_factory.mktemp("runs")
    written, read = {}, {}
    for backend in BACKENDS:
        (place / backend).mkdir()
        run_backend(backend, "crossing_runs", "write", place / backend)
        written[backend] = json.loads((place / backend / "found.json").read_text())
    for backend in BACKENDS:
        file = place / f"{backend}.json"
        run_backend(backend, "crossing_runs", "read", file, *(place / name for name in BACKENDS))
        read[backend] = json.loads(file.read_text())
    return written, read


@pytest.mark.parametrize("family", ["bert", "gpt"])
@pytest.mark.parametrize(("writer", "reader"), itertools.permutations(BACKENDS, 2))
def test_a_run_crosses(crossed, writer, reader, family):
    """Weights bit for bit, the loss of other data to 1e-5, twenty losses of fine-tuning without dropout to 1e-3."""
    written, read = crossed
    there, here = written[writer][family], read[reader][writer][family]
    assert len(there["weights"]) > 20 and here["weights"] == there["weights"]
    assert here["evaluated"] == pytest.approx(there["evaluated"], rel=1e-5)
    at_home = read[writer][writer][family]["tuned"]
    assert len(at_home) == 20 and np.ptp(at_home) > 0.05
    np.testing.assert_allclose(here["tuned"], at_home, rtol=1e-3)


def test_the_runs_differ(crossed):
    """Or reading the wrong one would go unnoticed: each backend rounds in its own way."""
    hashes = [json.dumps(crossed[0][backend]["bert"]["weights"]) for backend in BACKENDS]
    assert len(set(hashes)) == 3
