"""The compiler behind `torch.compile`, without what a step that is recorded already does not need.

It would record each part once more, and spend a sixth of its time on two trifles.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import sympy
import torch
import torch._inductor
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import TracingContext, detect_fake_mode, tracing
from torch._inductor import compile_fx, config, cpu_vec_isa, dtype_propagation, sizevars
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.virtualized import V
from torch.fx import GraphModule
from torch.utils._sympy.functions import FloorDiv, ModularIndexing


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Into which operators the compiler wants others taken apart as a step is recorded."""
    return select_decomp_table()


def by_inductor(graph: GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """A recorded graph as compiled code.

    Args:
        graph: recorded with the `decompositions`; every node knows its value's shape.
        inputs: of it, tensors without values.
    """
    mode = detect_fake_mode([*inputs, *(node.meta.get("val") for node in graph.graph.nodes)])
    on_cpu = all(value.device.type == "cpu" for value in inputs)
    chosen: dict[str, Any] = {}
    if on_cpu:
        # Said to it, as its cache on disk would give a processor what was made for another's wider vectors.
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
    return lambda *arguments: compiled(list(arguments))


@contextmanager
def short_cuts() -> Iterator[None]:
    """Within, the compiler is spared the two trifles; what comes out is the same."""
    trifles = (
        (sizevars, "simplify_index_in_vec_range", _only_where_it_divides),
        (dtype_propagation.DtypePropagationOpsHandler, "__init__", _once),
    )
    with ExitStack() as stack:
        for place, name, make in trifles:
            with suppress(AttributeError):  # of a version that has other names
                own = getattr(place, name)
                stack.callback(setattr, place, name, own)
                setattr(place, name, make(own))
        yield


def _only_where_it_divides(simplify: Any) -> Any:
    """Simplifies of an index what can be: quotients and remainders.

    A sum of products would go through the whole of sympy's simplification, for 30 ms, and stay one.
    """

    def shorter(index, variable, length):
        if index.is_polynomial() and not index.has(FloorDiv, ModularIndexing):
            return sympy.expand(index)
        return simplify(index, variable, length)

    return shorter


def _once(make: Any) -> Any:
    """Of the one handler there is, which makes its two hundred rules anew each time it is asked for."""

    @functools.wraps(make)
    def make_once(self):
        if not self.__dict__:
            make(self)

    return make_once
