"""Whatever holds the batches, and whichever backend trains on them, `fit` finds the same losses."""

import importlib.util
import json

import numpy as np
import pytest

BACKENDS = ["jax", "torch", "tensorflow"]
for name in BACKENDS:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: each is to be given the others' data", allow_module_level=True)


@pytest.fixture(scope="module")
def losses(run_backend, tmp_path_factory):
    """Of each step, by backend and container."""
    directory = tmp_path_factory.mktemp("losses")
    found = {}
    for backend in BACKENDS:
        run_backend(backend, "fit_inputs", directory / f"{backend}.json")
        found[backend] = json.loads((directory / f"{backend}.json").read_text())
    return found


@pytest.mark.parametrize("kind", ["numpy", "pydataset", "tf.data", "torch"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_fit_takes_every_kind_of_data(losses, backend, kind):
    """XLA compiles what has a fixed shape and what has not into different sums: equal up to rounding."""
    found = losses[backend][kind]
    assert len(found) == 12 and found[-1] < 0.9 * found[0]
    np.testing.assert_allclose(found, losses[backend]["numpy"], rtol=1e-6)
    np.testing.assert_allclose(found, losses["jax"]["numpy"], rtol=1e-4)
