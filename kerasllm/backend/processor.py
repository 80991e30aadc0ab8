"""Finds out what this machine's processor is and can do."""

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Returns the processor's name, the number of cores that this process may use, and the system."""
    processor = platform.processor()
    information = Path("/proc/cpuinfo")
    for line in information.read_text().splitlines() if information.exists() else ():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": processor, "cores": cores, "platform": platform.platform()}


@cache
def multiplies_bfloat16() -> bool:
    """Returns whether it has instructions for products of bfloat16, which are at least twice as fast as float32's."""
    features = Path("/proc/cpuinfo")
    words = set(features.read_text().split()) if features.exists() else set()
    return bool(words & {"avx512_bf16", "amx_bf16"})
