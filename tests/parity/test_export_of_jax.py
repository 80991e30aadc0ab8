"""What Keras' own `export` writes on JAX, TensorFlow serves."""

import json


def test_any_length(run_backend, tmp_path):
    run_backend("jax", "export_of_jax", tmp_path)
    differences = json.loads((tmp_path / "differences.json").read_text())
    assert len(differences) == 2 and max(differences.values()) < 1e-5, differences
