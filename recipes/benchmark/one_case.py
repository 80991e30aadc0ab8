"""Makes one measurement of the benchmark in a process of its own: reads a case as JSON, prints its figures as JSON.

`python recipes/benchmark` runs it with the backend of the case in `KERAS_BACKEND`. Only the measured contender is
loaded, so that no other one counts as its memory.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from clocks import peak_memory
from works import Case

WORK_MODULES = {"input": "input_case", "host": "host_case"}
WORK_MODULES |= {"translation": "translation_case", "recurrent": "recurrent_case"}
MODULES = dict.fromkeys(("transformers", "torch_loop", "torch_loop_compiled"), "torch_case")


def figures_of(case: Case, steps: int) -> dict[str, Any]:
    """Returns seconds, tokens, memory and versions of a case, and for training the peak of the machine.

    Args:
        case: the contender and its work.
        steps: training steps, or calls of `generate`, that are measured after the warm-up.
    """
    module = WORK_MODULES.get(case.work) or MODULES.get(case.peer, "keras_case")
    figures = importlib.import_module(module).measure(case, steps)
    if case.work != "input" and "peak_bytes" not in figures:  # the input's workers are other processes
        figures["peak_bytes"] = peak_memory()
    if case.work not in ("generation", "input", "host"):
        from kerasllm.training.hardware.throughput import matrix_product_peak

        figures["peak_flops"] = matrix_product_peak(case.precision.replace("tf32", "float32"))
    return figures


if __name__ == "__main__":
    steps, *fields = json.loads(sys.argv[1])
    print(json.dumps(figures_of(Case(*fields), steps)), flush=True)
