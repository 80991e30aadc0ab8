"""What `import kerasllm` costs beyond Keras and its backend."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMPORT = """
import json, sys, time
import keras
before = set(sys.modules)
began = time.process_time()
import kerasllm
print(json.dumps({"seconds": time.process_time() - began, "new": sorted(set(sys.modules) - before)}))
"""
HEAVY = {"transformers", "keras_nlp", "keras_hub", "datasets", "pandas", "pyarrow", "sklearn", "matplotlib"}
HEAVY |= {"tensorboard", "tensorflow_text", "rich", "scipy", "tokenizers", "huggingface_hub"}


def test_importing_is_cheap():
    """No heavy library, no second backend, less than half a second of the processor, whatever else it does."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    new = {name.split(".")[0] for name in found["new"]}
    assert not new & HEAVY
    assert not new & {"jax", "jaxlib", "torch", "tensorflow"}, "what Keras had not loaded is loaded now"
    assert found["seconds"] < 0.5
