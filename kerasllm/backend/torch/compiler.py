"""The compiler behind `torch.compile`, for a step that is recorded already, with a first step that takes less time.

`by_inductor` compiles one part of a recorded step. It leaves out a second recording of the part (3 s of a BERT's first
step), and within `short_cuts` it builds its kernels together.
"""

import ctypes
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
import torch._inductor
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import TracingContext, detect_fake_mode, tracing
from torch._inductor import codecache, compile_fx, config, cpu_vec_isa
from torch._inductor.async_compile import AsyncCompile, get_compile_threads
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.virtualized import V
from torch.fx import GraphModule


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Returns the operators that the compiler wants taken apart as a step is recorded, and into what."""
    return select_decomp_table()


def by_inductor(graph: GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """Returns a recorded graph as compiled code.

    Args:
        graph: recorded with the `decompositions`; every node knows its value's shape.
        inputs: its inputs, tensors without values.
    """
    mode = detect_fake_mode([*inputs, *(node.meta.get("val") for node in graph.graph.nodes)])
    on_cpu = all(value.device.type == "cpu" for value in inputs)
    # Without a look at the shape of each tensor in each step; `compiled_in_parts` looks once.
    chosen: dict[str, Any] = {"size_asserts": False, "alignment_asserts": False}
    if on_cpu:
        # The compiler is told, for its cache on disk would give a processor what was made for another's wider vectors.
        chosen["cpp.simdlen"] = cpu_vec_isa.pick_vec_isa().bit_width() or None
    elif hasattr(config, "deterministic"):
        # It would try out several kernels, and the last bits would hang on which was fastest this time.
        chosen["deterministic"] = True
    with tracing(TracingContext(mode)), config.patch(chosen):  # a context, which the cache asks for
        if on_cpu:
            with suppress(AttributeError, TypeError):  # of a version that has other names
                return _after_recording(graph, inputs, mode)
        return torch._inductor.compile(graph, inputs)


def _after_recording(graph: GraphModule, inputs: list[Any], mode: Any) -> Callable[..., Any]:
    forward: Any = compile_fx.compile_fx_forward
    (output,) = graph.graph.find_nodes(op="output")
    with V.set_fake_mode(mode), enable_python_dispatcher():
        compiled = forward(
            graph,
            inputs,
            num_orig_model_outputs=len(output.args[0]),
            num_example_inputs=len(inputs),
            compiler_config_extra=compile_fx.create_compiler_config_extra(graph),
            is_inference=True,
        )
    run = getattr(compiled, "current_callable", None) or compiled  # without what a profiler would be told
    return lambda *arguments: run(list(arguments))


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
    """A C++ kernel that is still to be built."""

    def __init__(self, types: Sequence[str], code: str) -> None:
        self.types, self.code = list(types), code


@contextmanager
def built_together() -> Iterator[None]:
    """Within, the compiler's kernels are built in the background, many in one file; at the end they are there.

    The compiler calls g++ for each of some fifty kernels, and most of a second goes by before it comes to what is to
    be compiled. Together they take a sixth of the time: 3.3 s on two cores, where one by one they took 20.
    """
    compiler: Any = AsyncCompile
    one_by_one, wait = compiler.cpp_pybinding, compiler.wait
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

    compiler.cpp_pybinding, compiler.wait = collect, build
    try:
        with threads:
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


def _build(kernels: Sequence[_Kernel]) -> list[Callable[..., None]]:
    written, places = [_HEADER, _COMMON], []
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


@contextmanager
def instructions_by_options() -> Iterator[None]:
    """Within, the C++ compiler is asked for its options in place of a test of the processor's instructions.

    The test builds up to seven programs, in 6 s. It is made of instructions that the processor has, so the options
    for them are all there is to be tested.
    """
    kinds: Any = cpu_vec_isa.VecISA
    own = kinds.check_build
    kinds.check_build = _options_tested(own)
    try:
        yield
    finally:
        kinds.check_build = own


def _options_tested(build: Callable[[Any, str], bool]) -> Callable[[Any, str], bool]:
    def check_build(self: Any, code: str) -> bool:
        try:
            return _takes(self.build_arch_flags())
        except (OSError, AttributeError, subprocess.TimeoutExpired):  # of a version that has other names, say
            return build(self, code)

    return check_build


@cache
def _takes(options: str) -> bool:
    """Returns whether the C++ compiler knows the options."""
    command = [get_cpp_compiler(), *options.split(), "-x", "c++", "-fsyntax-only", "/dev/null"]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


@contextmanager
def short_cuts() -> Iterator[None]:
    """Within, PyTorch's compiler takes a third of the time on a CPU: a BERT's first step 14 s in place of 45.

    What is compiled is the same without it.
    """
    with instructions_by_options(), built_together():
        yield
