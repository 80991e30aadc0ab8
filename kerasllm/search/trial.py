"""Runs a recipe in a process of its own, and stops it when the process that started it is gone.

`python kerasllm/search/trial.py recipes/finetune_bert.py --option value …`. It is a file to be started, which imports
nothing of the package, so that the recipe finds what it would find if it were started itself. A study may be killed
without a chance to stop its runs. The operating system then closes the pipe that is this process's standard input, and
the run is told to stop as by a user: it saves its state and can be resumed.
"""

import os
import runpy
import signal
import sys
import threading
from pathlib import Path


def main() -> None:
    """Runs the recipe that the first argument names, with the remaining arguments."""
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    path = Path(sys.argv[1])
    sys.argv = sys.argv[1:]
    sys.path[0] = str(path.parent)
    sys.path.append(str(Path(__file__).resolve().parents[2]))  # a clone's package need not be installed
    runpy.run_path(str(path), run_name="__main__")


def _stop_without_parent() -> None:
    """Waits until the parent's end of standard input is closed, then signals this process to stop."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
