"""Loading takes little memory beside the model: the weights go from the file into it, one part at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOAD = """
import os
import sys
from kerasllm import BertBackbone, BertConfig
shape = {"num_layers": 6, "num_heads": 8, "hidden_dim": 512, "max_sequence_length": 64}
path = sys.argv[1]
if sys.argv[2] == "write":
    BertBackbone(BertConfig(vocabulary_size=16000, **shape), seed=0).save_pretrained(path)
    if sys.argv[3] == "float16":
        from safetensors.numpy import load_file, save_file
        file = path + "/model.safetensors"
        save_file({name: value.astype("float16") for name, value in load_file(file).items()}, file)
    sys.exit()
def kilobytes(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))
small = {**shape, "num_layers": 1, "hidden_dim": 8}
BertBackbone(BertConfig(vocabulary_size=8, **small), seed=0).save_pretrained(path + "/small")
BertBackbone.from_pretrained(path + "/small")  # what is needed once
before = kilobytes("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the highest mark starts anew
model = BertBackbone.from_pretrained(path)
over = (kilobytes("VmHWM") - before) * 1024 - 4 * model.count_params()
print(over / os.path.getsize(path + "/model.safetensors"))
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="/proc, which tells the peak, is missing"
)
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_peak_memory_over_the_empty_model(kind, tmp_path):
    """At most 1.3 times the checkpoint; the model's own memory does not count."""
    for task in ("write", "read"):
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(tmp_path), task, kind],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    over = float(done.stdout.split()[-1])
    assert -0.1 < over <= 1.3
    print(f"{over:.2f}")
