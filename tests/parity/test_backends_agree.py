"""One seed, one curve: the backends start alike, learn alike, and take over each other's checkpoints."""

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
def trained(run_backend, tmp_path_factory):
    """Weights and curves by backend, and the directories of the runs."""
    directory = tmp_path_factory.mktemp("trained")
    found = {}
    for backend in BACKENDS:
        (directory / backend).mkdir()
        run_backend(backend, "training_curves", "train", directory / backend, trains=True)
        found[backend] = json.loads((directory / backend / "curves.json").read_text())
    return directory, found


@pytest.fixture(scope="module")
def resumed(trained, run_backend, tmp_path_factory):
    """Losses by (writer of the checkpoint, backend that went on)."""
    source, _ = trained
    found = {}
    for backend in BACKENDS:
        others = [name for name in BACKENDS if name != backend]
        directory = tmp_path_factory.mktemp(f"resumed_{backend}")
        run_backend(backend, "training_curves", "resume", directory, *(source / name for name in others))
        found |= {(name, backend): json.loads((directory / f"{name}.json").read_text()) for name in others}
    return found


def test_initial_weights_are_the_same_bits(trained):
    weights = [trained[1][backend]["weights"] for backend in BACKENDS]
    assert len(weights[0]) > 30
    assert len(set(weights[0].values())) > 10  # kernels differ from one another
    assert weights[0] == weights[1] == weights[2]


@pytest.mark.parametrize("dropout", ["without", "with"])
@pytest.mark.parametrize(("first", "second"), itertools.combinations(BACKENDS, 2))
def test_curves_agree(trained, first, second, dropout):
    """50 steps to 1e-3, each head's loss as well; with dropout too, whose masks are hashes."""
    curves = [np.array(trained[1][backend]["curves"][dropout]) for backend in (first, second)]
    assert curves[0].shape == curves[1].shape == (50, 3)
    assert np.mean(curves[0][-5:, 0]) < 0.9 * curves[0][0, 0]  # it does learn
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-3)


def test_dropout_does_something(trained):
    """Or the agreement with dropout would say nothing."""
    curves = trained[1]["jax"]["curves"]
    assert np.abs(np.subtract(curves["with"], curves["without"])).max() > 1e-2


@pytest.mark.parametrize("dropout", ["without", "with"])
@pytest.mark.parametrize(("writer", "reader"), itertools.permutations(BACKENDS, 2))
def test_checkpoints_cross_backends(trained, resumed, writer, reader, dropout):
    """Step 10 of one, the next twenty on another, as if nothing had happened: dropout included."""
    losses = resumed[writer, reader][dropout]
    expected = trained[1][writer]["curves"][dropout][:30]
    assert len(losses) == 30
    assert losses[:10] == expected[:10]
    assert np.ptp(np.array(expected)[10:, 0]) > 0.1
    np.testing.assert_allclose(losses[10:], expected[10:], rtol=1e-3)


@pytest.fixture(scope="module")
def gpt_curves(run_backend, tmp_path_factory):
    """Losses by backend and kind of GPT."""
    directory = tmp_path_factory.mktemp("gpt")
    found = {}
    for backend in BACKENDS:
        run_backend(backend, "gpt_curves", directory / f"{backend}.json", trains=True)
        found[backend] = json.loads((directory / f"{backend}.json").read_text())
    return found


@pytest.mark.parametrize("kind", ["gpt2", "llama", "lora"])
@pytest.mark.parametrize(("first", "second"), itertools.combinations(BACKENDS, 2))
def test_curves_of_gpts_agree(gpt_curves, first, second, kind):
    """GPT-2 with dropout, a Llama within documents with accumulation and dropout, low-rank adapters."""
    curves = [gpt_curves[backend][kind] for backend in (first, second)]
    assert len(curves[0]) == len(curves[1]) == (80 if kind == "llama" else 40)
    assert np.mean(curves[0][-5:]) < np.mean(curves[0][:5]) - 0.05
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-3)
