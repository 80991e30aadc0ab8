"""What Keras imports and nothing here uses: it is not there, and comes when it is asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BEGIN = """
import sys
import kerasllm
loaded = {"pandas", "sklearn", "matplotlib"} & set(sys.modules)
assert not loaded, f"imported with kerasllm: {loaded}"
import keras
import numpy as np
"""


def run(code: str) -> None:
    """In a process of its own, in which nothing else was imported before."""
    run_alone(BEGIN + code)


def run_alone(code: str) -> None:
    """In a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("way", ["keras.wrappers.SKLearnClassifier", "SKLearnClassifier"])
def test_the_wrappers_are_scikit_learns(way):
    run(f"""
if "." not in "{way}":
    from keras.wrappers import SKLearnClassifier
found = {way}
from sklearn.base import BaseEstimator, ClassifierMixin
assert issubclass(found, BaseEstimator) and issubclass(found, ClassifierMixin)
assert "SKLearnRegressor" in dir(keras.wrappers)
""")


def test_pictures_are_drawn(tmp_path):
    run(f"""
images = np.zeros((4, 8, 8, 3), "uint8")
keras.visualization.plot_image_gallery(images, value_range=(0, 255), rows=2, cols=2, path=r"{tmp_path}/gallery.png")
""")
    assert (tmp_path / "gallery.png").read_bytes().startswith(b"\x89PNG")


def test_tables_of_pandas_are_data():
    run("""
inputs, labels = np.random.default_rng(0).normal(size=(8, 3)), np.arange(8.0)

def losses(*data):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    return model.fit(*data, batch_size=4, shuffle=False, verbose=0).history["loss"]

expected = losses(inputs, labels)
import pandas
assert losses(pandas.DataFrame(inputs), pandas.Series(labels)) == expected
""")


def test_what_was_imported_before_stays():
    run_alone("""
import sys
import pandas
before = pandas.DataFrame
import kerasllm
assert sys.modules["pandas"] is pandas and pandas.DataFrame is before
""")


def test_whoever_imports_pandas_meanwhile_gets_it():
    """As a plugin of the backend might while Keras is imported."""
    run_alone("""
import sys, types
plugin = types.ModuleType("plugin")

class Finder:
    def find_spec(name, path, target=None):
        if name == "keras" and not hasattr(plugin, "pandas"):
            import pandas
            plugin.pandas = pandas

sys.meta_path.insert(0, Finder)
import kerasllm
assert type(plugin.pandas).__name__ == "_Deferred" and "pandas" not in sys.modules
assert plugin.pandas.DataFrame({"a": [1, 2]}).shape == (2, 1)
assert plugin.pandas.__version__ and plugin.pandas.concat
""")


if os.environ.get("KERAS_BACKEND") == "torch":

    def test_generation_does_without_pytorchs_compiler():
        run("""
from kerasllm import GPTCausalLM, GPTConfig
shape = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_sequence_length": 16}
model = GPTCausalLM(GPTConfig(vocabulary_size=50, **shape), seed=3)
model.generate([5, 6], max_new_tokens=3)
keras.random.normal((2,), seed=1)
loaded = {"torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules)
assert not loaded, loaded
""")

    def test_kerass_draws_stay_out_of_compilation():
        """Keras marks the function that makes a generator, which the compiler cannot take; the rest is compiled."""
        run("""
import torch
seen = []

def backend(graph, inputs):
    seen.append(graph)
    return graph.forward

def doubled_and_drawn(values):
    doubled = values * 2
    return doubled + keras.random.normal((3,), seed=1)

values = torch.ones(3)
found = torch.compile(doubled_and_drawn, backend=backend)(values)
np.testing.assert_array_equal(found, doubled_and_drawn(values))
assert seen
reasons = " ".join(torch._dynamo.utils.counters["graph_break"])
assert "disable()`d function" in reasons and "torch_seed_generator" in reasons, reasons
from keras.src.backend.torch import random
assert random.dynamo.reset is torch._dynamo.reset
""")
