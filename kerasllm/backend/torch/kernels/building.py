"""The C++ kernels of a compiled step, built together and not one by one.

The compiler behind `torch.compile` calls g++ for each of some fifty kernels, and most of a second goes by before it
comes to what is to be compiled. Together they take a sixth of the time: 3.3 s on two cores, where one by one they
took 20.
"""

import ctypes
import gc
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch._inductor import codecache, cpu_vec_isa
from torch._inductor.async_compile import AsyncCompile, get_compile_threads
from torch._inductor.cpp_builder import get_cpp_compiler

from kerasllm.backend.torch.inductor import short_cuts

_FILE = 60_000
"""Characters of code from which kernels are a file: it takes g++ 2 s, of which the start is 0.7."""

_HEADER = "#include <torch/csrc/inductor/cpp_prefix.h>"

# What all kernels of a file share, and for each what takes the tensors of a call apart.
_COMMON = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
static void* (*data_of)(PyObject*);
template <typename T> static T take(PyObject* tensor) { return static_cast<T>(data_of(tensor)); }
"""
_ONE = """
namespace k%(number)d {
%(code)s
static PyObject* call(PyObject*, PyObject* const* tensors, Py_ssize_t count) {
    if (count != %(count)d) { PyErr_SetString(PyExc_TypeError, "takes %(count)d tensors"); return nullptr; }
    try { kernel(%(tensors)s); }
    catch (std::exception const& error) { PyErr_SetString(PyExc_RuntimeError, error.what()); return nullptr; }
    Py_RETURN_NONE;
}
static PyMethodDef method = {
    "kernel", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)), METH_FASTCALL, ""
};
}
"""
# Called with the address of what finds a tensor's data in the first place; leaves a Python function in each.
_ALL = """
extern "C" void kernel(int64_t* places) {
    data_of = reinterpret_cast<decltype(data_of)>(places[0]);
%s
}
"""
_PLACE = "    places[%(number)d] = reinterpret_cast<int64_t>(PyCFunction_New(&k%(number)d::method, nullptr));"


class _Kernel:
    """One that is still to be built."""

    def __init__(self, types: Sequence[str], code: str) -> None:
        self.types, self.code = list(types), code


def build(kernels: Sequence[tuple[Sequence[str], str]], shared: str) -> list[Callable[..., None]]:
    """Functions of tensors, built together from C++.

    Args:
        kernels: of each the types of its arguments, pointers to the data of the tensors, and its code, which defines
            `kernel`.
        shared: what comes before them all.
    """
    return _build([_Kernel(types, code) for types, code in kernels], shared)


@contextmanager
def built_together() -> Iterator[None]:
    """Within, the compiler's kernels are built in the background, many in one file; at the end they are there."""
    compiler: Any = AsyncCompile
    one_by_one, wait = compiler.cpp_pybinding, compiler.wait
    kinds: Any = cpu_vec_isa.VecISA
    check_build = kinds.check_build
    threads = ThreadPoolExecutor(get_compile_threads())
    waiting: list[tuple[Any, dict[str, Any], str, _Kernel]] = []
    files = []

    def collect(self, types, code):
        plain = all(kind.rstrip().endswith("*") for kind in types) and code.count('extern "C"') == 1
        return _Kernel(types, code) if plain else one_by_one(self, types, code)

    def build(self, scope):
        kernels = [(name, value) for name, value in scope.items() if isinstance(value, _Kernel)]
        waiting.extend((self, scope, name, kernel) for name, kernel in kernels)
        if sum(len(kernel.code) for *_, kernel in waiting) >= _FILE:
            start()
        wait(self, scope)

    def start():
        if waiting:
            files.append((list(waiting), threads.submit(_build, [kernel for *_, kernel in waiting])))
            waiting.clear()

    collects_garbage = gc.isenabled()
    compiler.cpp_pybinding, compiler.wait = collect, build
    kinds.check_build = _takes_options(check_build)
    try:
        gc.disable()  # which goes through all that a compiler has made, time and again
        with threads, short_cuts():
            yield
            start()
            for kernels, built in files:
                try:
                    functions = built.result()
                except Exception:  # of a version that writes kernels in another way, say
                    functions = [
                        one_by_one(self, kernel.types, kernel.code) for self, _, _, kernel in kernels
                    ]
                for (_, scope, name, _), function in zip(kernels, functions, strict=True):
                    scope[name] = function
                for self, scope in {id(scope): (self, scope) for self, scope, *_ in kernels}.values():
                    wait(self, scope)
    finally:
        compiler.cpp_pybinding, compiler.wait = one_by_one, wait
        kinds.check_build = check_build
        if collects_garbage:
            gc.enable()


def _build(kernels: Sequence[_Kernel], shared: str = "") -> list[Callable[..., None]]:
    written, places = [_HEADER, _COMMON, shared.replace(_HEADER, "")], []
    for number, kernel in enumerate(kernels):
        types = [re.sub(r"^const ", "", kind.strip()) for kind in kernel.types]
        settings = {
            "number": number,
            "code": kernel.code.replace(_HEADER, "").replace('extern "C"', "static"),
            "count": len(types),
            "tensors": ", ".join(f"take<{kind}>(tensors[{place}])" for place, kind in enumerate(types)),
        }
        written.append(_ONE % settings)
        places.append(_PLACE % settings)
    written.append(_ALL % "\n".join(places))
    fill = codecache.CppPythonBindingsCodeCache.load_pybinding(["int64_t*"], "\n".join(written))
    addresses = torch.zeros(len(kernels), dtype=torch.int64)
    guards: Any = torch._C._dynamo.guards
    addresses[0] = guards._torchinductor_pyobject_tensor_data_ptr
    fill(addresses)
    return [ctypes.cast(address, ctypes.py_object).value for address in addresses.tolist()]


def prepare() -> None:
    """What every kernel needs, ahead of them: the headers compiled."""
    with suppress(Exception):
        code = f'{_HEADER}\nextern "C" void kernel(float* values) {{}}\n'
        codecache.CppPythonBindingsCodeCache.load_pybinding(["float*"], code)


@cache
def _takes(options: str) -> bool:
    """Whether the C++ compiler knows them."""
    command = [get_cpp_compiler(), *options.split(), "-x", "c++", "-fsyntax-only", "/dev/null"]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def _takes_options(build: Callable[[Any, str], bool]) -> Callable[[Any, str], bool]:
    """In place of the compiler's tests of a processor's instructions, which build up to seven programs, in 6 s.

    It asks for what the processor has, so the options for it are all there is to be tested.
    """

    def check_build(self: Any, code: str) -> bool:
        try:
            return _takes(self.build_arch_flags())
        except (OSError, AttributeError, subprocess.TimeoutExpired):  # of a version that has other names, say
            return build(self, code)

    return check_build
