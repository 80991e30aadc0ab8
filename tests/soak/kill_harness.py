"""Kills a training run with SIGKILL at random moments, resumes it, and compares what it ends with, byte for byte.

    python tests/soak/kill_harness.py BACKEND … [--kills 30] [--seed 0]

Moments are drawn by kind, so that the rare ones come up too: while Python starts, while modules are imported, in
compilation, at a batch, while a checkpoint is written or old ones are removed, in a validation, and while the
finished model is written; each plus a random delay.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEPS = 30
# For each kind of moment: how often its mark must have come by, at least and at most; the longest delay after it in
# seconds; how often it is drawn.
MOMENTS = {
    "start": (1, 1, 3.0, 1),
    "import": (1, 1, 2.0, 1),
    "compile": (1, 1, 2.0, 2),
    "batch": (2, 24, 0.02, 6),
    "save": (1, 4, 0.02, 8),
    "prune": (1, 4, 0.01, 3),
    "evaluate": (1, 2, 0.1, 4),
    "finish": (1, 2, 0.05, 2),
}


class Harness:
    """Runs of one kind, in one directory.

    Args:
        backend: of Keras.
        directory: empty.
        how: "compiled" or "eagerly".
        seed: of the moments.
    """

    def __init__(self, backend: str, directory: Path, how: str = "compiled", seed: int = 0) -> None:
        self.backend, self.directory, self.how = backend, directory, how
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.resumed: Counter[str] = Counter()
        words = random.Random(1)
        text = " ".join(
            words.choice(["the", "cat", "sat", "on", "a", "mat", "and", "ran"]) for _ in range(900)
        )
        (directory / "corpus.txt").write_text(text + "\n")

    def run(self, name: str, moment: str | None = None, count: int = 1) -> int:
        """Starts or resumes the run `name`; kills it at a moment. Returns the exit code, -9 if it was killed."""
        reading, writing = os.pipe()
        command = [sys.executable, str(HERE / "killed_run.py"), str(writing), self.how, *self.options(name)]
        environment = {**os.environ, "KERAS_BACKEND": self.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"KERASLLM_CACHE": str(self.directory / "cache"), "PYTHONHASHSEED": "random"}
        with (
            open(self.directory / f"{name}.log", "ab") as log,
            subprocess.Popen(command, env=environment, pass_fds=[writing], stdout=log, stderr=log) as process,
        ):
            os.close(writing)
            with os.fdopen(reading) as marks:
                for line in marks:  # ends when the process does
                    count -= line.strip() == moment
                    if count == 0:
                        time.sleep(self.random.uniform(0, MOMENTS[str(moment)][2]))
                        process.send_signal(signal.SIGKILL)
                        break
                code = process.wait(timeout=300)
        if code == -signal.SIGKILL:
            self.kills[str(moment)] += 1
        elif code != 0:
            raise AssertionError(
                f"exit code {code}:\n" + (self.directory / f"{name}.log").read_text()[-3000:]
            )
        return code

    def options(self, name: str) -> list[str]:
        """Of a tiny GPT, with all that makes resuming hard."""
        options = {
            "corpus": self.directory / "corpus.txt",
            "output": self.directory / name,
            "tokenizer": "characters",
            "steps": STEPS,
            "gradient_accumulation": 2,
            "context_length": 16,
            "batch_size": 2,
            "learning_rate": 0.01,
            "checkpoint_steps": 2,
            "keep": 2,
            "log_interval": 3,
            "eval_interval": 7,
            "restore_best": "true",
            "sample_tokens": 0,
            "processes": 1,
            "model.num_layers": 1,
            "model.num_heads": 2,
            "model.hidden_dim": 16,
            "model.dropout": 0.2,
        }
        return [part for key, value in options.items() for part in (f"--{key}", str(value))] + ["--resume"]

    def kill_and_resume(self, name: str, moments: list[tuple[str, int]]) -> bool:
        """Kills a run at each of the moments in turn, then lets it finish; False if it has finished before."""
        for number, (moment, count) in enumerate(moments):
            if self.run(name, moment, count) == 0:
                return False
            assert not (self.directory / name / "results.json").exists() or moment == "finish", number
        while self.run(name) != 0:
            pass
        return True

    def soak(self, kills: int) -> int:
        """Rounds of random kills, each run to its end and compared; returns the number of rounds."""
        rounds = 0
        while self.kills.total() < kills:
            name = f"round-{rounds}"
            code = -1
            while code != 0:
                moment = self.random.choices(list(MOMENTS), [often for *_, often in MOMENTS.values()])[0]
                least, most, _, _ = MOMENTS[moment]
                enough = self.kills.total() >= kills
                code = self.run(name, None if enough else moment, self.random.randint(least, most))
            self.compare(name)
            rounds += 1
        return rounds

    def compare(self, name: str) -> None:
        """Against the run that was let alone: everything but the times."""
        first, second = (self.contents(run) for run in ("whole", name))
        assert first.keys() == second.keys(), first.keys() ^ second.keys()
        different = [file for file in first if first[file] != second[file]]
        assert not different, f"{name} ends with other {different} than the run that was let alone"
        log = (self.directory / f"{name}.log").read_text()
        for line in log.splitlines():
            if line.startswith("resuming from step"):
                self.resumed[line.rpartition(" ")[2]] += 1

    def contents(self, name: str) -> dict[str, object]:
        """What a run ends with, by file; the seconds left out, and what lies where it ought not to."""
        path = self.directory / name
        found: dict[str, object] = {}
        for file in sorted(path.rglob("*")):
            relative = str(file.relative_to(path))
            if (
                file.is_dir()
                or relative.startswith("tensorboard")
                or file.name in ("curves.png", "config.yaml")
            ):
                continue
            if file.name == "metrics.jsonl":
                lines = [json.loads(line) for line in file.read_text().splitlines()]
                found[relative] = [
                    {key: value for key, value in line.items() if "second" not in key} for line in lines
                ]
            elif file.name == "README.md":
                found[relative] = [
                    line for line in file.read_text().splitlines() if "| training time |" not in line
                ]
            elif file.name in ("results.json", "state.json"):
                content = json.loads(file.read_text())
                # A run that is killed before its first checkpoint begins with other global generators, of which
                # nothing in it makes use.
                for key in ("seconds", "checksum", "random_states"):
                    content.pop(key, None)
                for state in content.get("callbacks", {}).values():
                    state.pop("seconds", None)
                found[relative] = content
            else:
                found[relative] = file.read_bytes()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backends", nargs="+")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = random.randrange(2**31) if arguments.seed is None else arguments.seed
    for backend in arguments.backends:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="kerasllm soak 数据 ") as directory:
            harness = Harness(backend, Path(directory), seed=seed)
            harness.run("whole")
            rounds = harness.soak(arguments.kills)
        moments = ", ".join(f"{count} {moment}" for moment, count in sorted(harness.kills.items()))
        print(
            f"{backend}: {harness.kills.total()} kills ({moments}), {harness.resumed.total()} times resumed in "
            f"mid-run, {rounds} of {rounds} runs bit-identical, {time.monotonic() - began:.0f} s, seed {seed}",
            flush=True,
        )


if __name__ == "__main__":
    main()
