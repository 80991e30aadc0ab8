"""Fixtures shared by all tests, and what keeps compilers from taking most of their time."""

import gc
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import pytest

# Read when JAX is imported, so set before anything else is; subprocesses inherit them. Programs that several
# tests, or processes, compile are compiled once.
_compiled = tempfile.TemporaryDirectory(prefix="kerasllm-compiled-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _in_memory() -> str:
    """Where tests write: in memory, if there is room. On a disk, they wait each time that they sync a file."""
    place = Path("/dev/shm")
    roomy = place.is_dir() and os.access(place, os.W_OK) and shutil.disk_usage(place).free > 4 * 2**30
    return str(place if roomy else tempfile.gettempdir())


os.environ.setdefault("TMPDIR", _in_memory())  # subprocesses inherit it, too
tempfile.tempdir = None


def _xla_flags(backend: str) -> str:
    """By which XLA compiles fast what runs a few steps: no optimizations by LLVM, no kernels by MLIR.

    The parity tests' training has both on. XLA ends a process over a flag that it does not know, so the second is
    for releases that have it.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if backend not in ("jax", "tensorflow") or "xla_" in given:
        return given
    flags = [given, "--xla_backend_optimization_level=0"]
    package, release = {"jax": ("jaxlib", "0.10."), "tensorflow": ("tensorflow", "2.21.")}[backend]
    with suppress(metadata.PackageNotFoundError):  # such as tensorflow-cpu
        if metadata.version(package).startswith(release):
            flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(filter(None, flags))


if flags := _xla_flags(os.environ.get("KERAS_BACKEND", "")):
    os.environ["XLA_FLAGS"] = flags


@pytest.fixture(autouse=True, scope="module")
def unwatched_memory():
    """What a module of tests leaves (libraries, compiled programs) is not searched for garbage again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    yield


@pytest.fixture(autouse=True)
def same_precision():
    """Each test begins in the precision that the one before began in: a recipe run in this process sets its own."""
    before = sys.modules["keras"].config.dtype_policy() if "keras" in sys.modules else None
    yield
    if before is not None:
        sys.modules["keras"].config.set_dtype_policy(before)


@pytest.fixture(scope="session")
def xla_flags():
    """A backend's XLA_FLAGS for a process that compiles fast."""
    return _xla_flags


def pytest_unconfigure() -> None:
    """Removes the compiled programs."""
    _compiled.cleanup()


@contextmanager
def _uncompiled(eagerly: bool = True) -> Iterator[None]:
    import keras

    from kerasllm import backend

    if keras.backend.backend() != "tensorflow":
        with pytest.MonkeyPatch.context() as patch:
            if keras.backend.backend() == "torch":
                patch.setattr(backend, "can_compile", lambda: False)
            yield
        return
    import tensorflow

    before = tensorflow.config.functions_run_eagerly()
    options = tensorflow.config.optimizer.get_experimental_options()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not apply to tf.data functions")  # nor need it
        patch.setattr(backend, "jit_compile", False)
        tensorflow.config.run_functions_eagerly(eagerly)
        if not eagerly:  # optimizing a graph takes half as long as tracing it
            tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        try:
            yield
        finally:
            tensorflow.config.run_functions_eagerly(before)
            unset = {"disable_meta_optimizer": options.get("disable_meta_optimizer", False)}
            tensorflow.config.optimizer.set_experimental_options(unset)


@pytest.fixture(scope="session")
def without_compiling():
    """A context in which torch does not compile, and TensorFlow runs step by step, or in graphs without XLA.

    Tracing a model takes some five seconds, and XLA as long again; a step of a tiny one takes a tenth. So few
    steps go without both, and many without XLA, in tests that are not about compilation. Others on TensorFlow
    are compiled as for a user, among them one of each training recipe, end to end.
    """
    return _uncompiled


@pytest.fixture
def uncompiled(without_compiling):
    """`without_compiling` for a test."""
    with without_compiling():
        yield


@pytest.fixture
def without_xla(without_compiling):
    """`without_compiling(eagerly=False)` for a test."""
    with without_compiling(eagerly=False):
        yield


@pytest.fixture
def shared_data() -> Path:
    """The directory of real data beside the checkout, where there is one."""
    directory = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not directory.is_dir():
        pytest.skip(f"real data is not on this machine: {directory}")
    return directory


@pytest.fixture
def bfloat16():
    """What is made after it was called computes in bfloat16."""
    import keras

    before = keras.config.dtype_policy()
    yield lambda: keras.config.set_dtype_policy("mixed_bfloat16")
    keras.config.set_dtype_policy(before)
