"""Losses of 50 steps in one, two and four processes, and runs of which a process is killed: a table of each.

    python tests/distributed/matrix.py jax torch [--steps 50] [--counts 2 4] [--families GPT BERT …] [--kills 4]
        [--meshes 1,2,1 2,2,1 …] [--compiled]

The first table holds the greatest relative difference of the losses from those of one process, and the bytes of
weights and optimizer in a process against one that is alone, by family, backend, mesh and number of processes. The
second one holds what became of runs of which a random process was killed at a random step, and then resumed: they must
end with the same bytes as the run that was let alone. Ends with 1 if one does not.
"""

import argparse
import importlib.util
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from started import Started

HERE = Path(__file__).resolve().parent
SPECIFICATION = importlib.util.spec_from_file_location(
    "kill_harness", HERE.parent / "soak" / "kill_harness.py"
)
kill_harness = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(kill_harness)
RECIPE = HERE.parents[1] / "recipes" / "pretrain_gpt.py"
LARGEST = 1e-5
STEPS = 40


def curves(backend, count, mesh, steps, families, directory, how="plain"):
    """Returns the figures of each step by family, as process 0 has them; all processes must have the same."""
    started = Started(
        [HERE / "curves.py", steps, mesh, how, *families],
        count=count,
        backend=backend,
        directory=directory,
    )
    codes = started.wait(1800)
    assert codes == [0] * count, (codes, [output[-2000:] for output in started.outputs])
    found = [[line for line in output.splitlines() if line[:1] == "{"] for output in started.outputs]
    assert all(lines == found[0] for lines in found), "the processes have different figures"
    return {line.pop("family"): line for line in map(json.loads, found[0])}


def meshes(count):
    """The meshes of a number of processes: batches alone are divided, or weights, too, or among half of them."""
    yield f"{count},1,1"
    yield f"1,{count},1"
    if count > 2:
        yield f"2,{count // 2},1"


def compare(backend, counts, steps, families, chosen, directory, how):
    """Prints a line for each family and mesh; returns whether all differences are small enough."""
    alone = curves(backend, 1, "", steps, families, directory / "alone")
    good = True
    for count in counts:
        for mesh in chosen or meshes(count):
            if math.prod(map(int, mesh.split(","))) != count:
                continue
            for family, figures in curves(
                backend, count, mesh, steps, families, directory / mesh, how
            ).items():
                pairs = zip(figures["loss"], alone[family]["loss"], strict=True)
                difference = max(abs(one - other) / other for one, other in pairs)
                good &= difference <= LARGEST
                share = figures["bytes"] / alone[family]["bytes"]
                print(
                    f"| {family} | {backend} | {mesh} | {count} | {difference:.1e} | {share:.2f} |",
                    flush=True,
                )
    return good


def run(backend, count, directory, name):
    """Starts or resumes a run of a tiny GPT with all that makes resuming hard."""
    options = {
        "corpus": directory / "corpus.txt",
        "output": directory / name,
        "tokenizer": "characters",
        "steps": STEPS,
        "gradient_accumulation": 2,
        "context_length": 16,
        "batch_size": 4,
        "learning_rate": 0.01,
        "checkpoint_steps": 3,
        "log_interval": 1,
        "eval_interval": 7,
        "restore_best": "true",
        "sample_tokens": 0,
        "processes": 1,
        "model.num_layers": 1,
        "model.num_heads": 2,
        "model.hidden_dim": 16,
        "model.dropout": 0.2,
        "mesh.replica": 1,
        "mesh.fsdp": count,
    }
    return Started(
        [RECIPE, "--resume", *(str(part) for key, value in options.items() for part in (f"--{key}", value))],
        count=count,
        backend=backend,
        directory=directory / f"{name}-output",
        variables={"KERASLLM_CACHE": str(directory / "cache")},
    )


def kill(backend, count, directory, number, moments):
    """Kills a process of a run at a random step, waits for the others' end, resumes and compares."""
    name, victim, after = f"run-{number}", moments.randrange(count), moments.randint(1, STEPS - 2)
    started = run(backend, count, directory, name)
    log = directory / name / "metrics.jsonl"
    while not log.exists() or log.read_bytes().count(b"\n") < after:
        assert started.processes[0].poll() is None, started.outputs[0][-2000:]
        time.sleep(0.01)
    time.sleep(moments.uniform(0, 0.1))
    began = time.monotonic()
    started.processes[victim].send_signal(signal.SIGKILL)
    codes = started.wait(60)
    seconds = time.monotonic() - began
    others = [code for place, code in enumerate(codes) if place != victim]
    finished = (directory / name / "results.json").exists()
    assert finished or all(code not in (0, -signal.SIGKILL) for code in others), codes
    assert run(backend, count, directory, name).wait(1800) == [0] * count
    whole, found = (contents(directory, which) for which in ("whole", name))
    same = whole == found
    print(
        f"| {backend} | {count} | {victim} | {after} | {seconds:.1f} s | {'same bytes' if same else 'DIFFERS'} |"
    )
    sys.stdout.flush()
    return same


def contents(directory, name):
    """What a run ends with, without times and memory."""
    place = type("Place", (), {"directory": directory})
    found = kill_harness.Harness.contents(place, name)
    found["results.json"].pop("peak_memory_mib")
    found["model/README.md"] = [line for line in found["model/README.md"] if "| peak memory |" not in line]
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backends", nargs="+")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--counts", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--families", nargs="*", default=[])
    parser.add_argument("--meshes", nargs="*", default=[])
    parser.add_argument("--compiled", action="store_true", help="compile the steps of several processes")
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    arguments = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory(prefix="kerasllm processes ") as name:
        directory = Path(name)
        words = random.Random(1)
        text = " ".join(
            words.choice(["the", "cat", "sat", "on", "a", "mat", "and", "ran"]) for _ in range(900)
        )
        (directory / "corpus.txt").write_text(text + "\n")
        for backend in arguments.backends if arguments.counts else ():
            good &= compare(
                backend,
                arguments.counts,
                arguments.steps,
                arguments.families,
                arguments.meshes,
                directory / backend,
                "compiled" if arguments.compiled else "plain",
            )
        for backend in arguments.backends if arguments.kills else ():
            moments = random.Random(arguments.seed)
            place = directory / f"{backend}-kills"
            place.mkdir()
            shutil.copy(directory / "corpus.txt", place)
            assert run(backend, 2, place, "whole").wait(1800) == [0, 0]
            for number in range(arguments.kills):
                good &= kill(backend, 2, place, number, moments)
    print(f"seed {arguments.seed}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
