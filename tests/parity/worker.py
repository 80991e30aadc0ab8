"""A backend's process, see conftest.py: each line of its input is the arguments of a script, JSON, path first.

It answers each by a line: the script's traceback, JSON, empty where all went well.
"""

import faulthandler
import json
import os
import runpy
import sys
import traceback

SECONDS = 900


def run_script(arguments: list[str]) -> str:
    """Runs a script as a program of its own; one that takes too long says where it is, and ends the process."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except (Exception, SystemExit):
        return traceback.format_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()
    return ""


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what scripts print is no answer
    for line in sys.stdin:
        print(json.dumps(run_script(json.loads(line))), file=answers, flush=True)
