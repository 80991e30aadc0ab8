"""C++ of our own that is built when a step that needs it is compiled, in the background."""

import sys
import threading
from concurrent.futures import Future
from functools import lru_cache, partial
from typing import Any

import torch

EXPONENTIAL = """
#define ALWAYS_INLINE static inline __attribute__((always_inline))  // in long loops and code of other options, too
using Vector = at::vec::Vectorized<float>;
// exp of what is not above 0, to the last digit but one. On AVX512 without a call to a library: 2^n times Taylor's
// series of the rest, which is less than 0.35 in size. max(limit, x) keeps a NaN.
ALWAYS_INLINE Vector exponential(const Vector& x) {
#if defined(CPU_CAPABILITY_AVX512)
    const __m512 kept = _mm512_max_ps(_mm512_set1_ps(-150.f), x);
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(kept, _mm512_set1_ps(1.4426950408889634f)), 8);
    __m512 rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693147182464599609375f), kept);  // ln 2 in two parts
    rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(-1.904654299957767878541e-9f), rest);
    __m512 sum = _mm512_set1_ps(1.f / 5040);
    for (const float factor : {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f})
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factor));
    return Vector(_mm512_scalef_ps(sum, n));
#else
    return x.exp();
#endif
}
"""

DRAWS = """
ALWAYS_INLINE uint32_t mix(uint32_t value) {
    value = (value ^ value >> 16) * 0x7FEB352Du;
    value = (value ^ value >> 15) * 0x846CA68Bu;
    return value ^ value >> 16;
}
ALWAYS_INLINE uint32_t key_of(const int64_t* seed) {
    return mix(mix(static_cast<uint32_t>(seed[0])) + static_cast<uint32_t>(seed[1]) * 0x9E3779B9u);
}
// `kerasllm.layers.dropout.draws`, of one element.
ALWAYS_INLINE int32_t draw_of(uint32_t element, uint32_t key) {
    return static_cast<int32_t>(mix(mix(element + key) + key) >> 1);
}
"""


_begun: list["Kernels"] = []


def _has_vectors(tensor: torch.Tensor) -> bool:
    """Whether it lies where the compiler knows the processor's vectors."""
    if tensor.device.type != "cpu":
        return False
    from torch._inductor import cpu_vec_isa

    return bool(cpu_vec_isa.pick_vec_isa())


class Kernels:
    """Functions of tensors in C++, built together.

    Args:
        shared: code that comes before them all.
        kernels: by name, the types of the arguments, each a pointer to a tensor's data, and the code, which defines
            `kernel`.
    """

    def __init__(self, shared: str, kernels: dict[str, tuple[tuple[str, ...], str]]) -> None:
        self.usable = True  # not from when they could not be built: see `finish`
        self._shared, self._kernels = shared, kernels
        self._lock = threading.Lock()
        self._built: Future | None = None

    def begin(self) -> Future:
        """Builds them, if nobody has yet."""
        with self._lock:
            if self._built is None:
                self._built = Future()
                _begun.append(self)
                threading.Thread(target=self._build, args=(self._built,), daemon=True).start()
            return self._built

    def _build(self, built: Future) -> None:
        try:
            from kerasllm.backend.torch.kernels.building import build  # loads the compiler, in two seconds

            sources = [([f"{kind}*" for kind in kinds], code) for kinds, code in self._kernels.values()]
            built.set_result(dict(zip(self._kernels, build(sources, self._shared), strict=True)))
        except BaseException as error:
            built.set_exception(error)

    def call(self, name: str, *tensors: Any) -> None:
        """Runs one on contiguous tensors of the right types, which it does not check."""
        self.begin().result()[name](*tensors)


_PAIRS = """
#include <torch/csrc/inductor/cpp_prefix.h>
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>
"""
_PAIRS += EXPONENTIAL + DRAWS
_PAIRS += """
using Pair = at::vec::VectorizedN<float, 2>;
using Value = VALUE;
constexpr int64_t WIDTH = 2 * Vector::size();

ALWAYS_INLINE Pair load(const Value* from) {
    if constexpr (std::is_same_v<Value, float>) return Pair::loadu(from);
    else return at::vec::convert<float, 2, Value, 1>(at::vec::Vectorized<Value>::loadu(from));
}
ALWAYS_INLINE void store(const Pair& pair, Value* to) {
#if CONVERTS && defined(CPU_CAPABILITY_AVX512)  // by an instruction, which the compiler is not told that there is
    if constexpr (std::is_same_v<Value, at::BFloat16>) {
        __m512i both;
        asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(both) : "v"(__m512(pair[0])), "v"(__m512(pair[1])));
        _mm512_storeu_si512(to, both);
        return;
    }
#endif
    if constexpr (std::is_same_v<Value, float>) pair.store(to);
    else at::vec::convert<Value, 1, float, 2>(pair).store(to);
}
static void read(const Value* from, int64_t count, float* to) {
    int64_t place = 0;
    for (; place + WIDTH <= count; place += WIDTH) load(from + place).store(to + place);
    for (; place < count; ++place) to[place] = static_cast<float>(from[place]);
}
// Memory whose first lies at the start of a line of the cache, so that no vector lies across two.
template <typename T>
class Room {
    std::vector<T> memory;

  public:
    explicit Room(int64_t count) : memory(count + 64 / sizeof(T)) {}
    T* data() { return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64); }
};

ALWAYS_INLINE Pair exponential(const Pair& x) {
    Pair found;
    found[0] = exponential(x[0]);
    found[1] = exponential(x[1]);
    return found;
}
"""


def finish() -> bool:
    """Waits for what is being built. False if some of it cannot be: from now on those kernels are not used."""
    errors = []
    for kernels in filter(lambda kernels: kernels.usable, list(_begun)):
        error = kernels.begin().exception()
        kernels.usable = error is None
        errors += [error] if error else []
    if errors:
        print(
            f"PyTorch's own kernels are used where ours were not built ({first_line(errors[0])})",
            file=sys.stderr,
        )
    return not errors


def first_line(error: BaseException) -> str:
    """What kind of error it is, and the first line of its text."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:200]


empty_as = partial(torch.empty_like, memory_format=torch.contiguous_format)
"""A new tensor of the shape of another: half the time of its `new_empty`."""


@lru_cache(maxsize=1024)
def numbers(*values: float, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """A tensor for a kernel, which does not change it; the same for the same values, as making one takes a while."""
    return torch.tensor(values, dtype=dtype, device="cpu")


_TYPES = {torch.float32: "float", torch.bfloat16: "at::BFloat16"}


class PairKernels:
    """Kernels for float32 and for bfloat16, built together for each; they compute in float32.

    In their code `Value` is the type, `Pair` two vectors in float32, `WIDTH` how many values they are, and `load`,
    `store` and `exponential` (of what is not above 0) are functions of them; `read` takes many values, a `Room` is
    memory, `draw_of` a draw of dropout.

    Args:
        shared: code in these terms that comes before them all.
    """

    def __init__(self, shared: str = "") -> None:
        self._shared = shared
        self._sources: dict[str, tuple[tuple[str, ...], str]] = {}
        self._kernels: dict[torch.dtype, Kernels] = {}

    def add(self, shared: str = "", **sources: tuple[tuple[str, ...], str]) -> None:
        """More of them, as for `Kernels`; before any is built."""
        self._sources |= {name: (kinds, shared + code) for name, (kinds, code) in sources.items()}

    def exist_for(self, tensor: torch.Tensor) -> bool:
        """Whether there are kernels for tensors of this type, on this device. Asked in a compiled step alone."""
        return tensor.dtype in _TYPES and _has_vectors(tensor) and self.of(tensor.dtype).usable

    def of(self, dtype: torch.dtype) -> Kernels:
        """Those of a type."""
        if dtype not in self._kernels:
            value = _TYPES[dtype]
            sources = {
                name: (tuple(kind.replace("Value", value) for kind in kinds), code)
                for name, (kinds, code) in self._sources.items()
            }
            converts = int(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
            shared = _PAIRS.replace("VALUE", value).replace("CONVERTS", str(converts)) + self._shared
            self._kernels[dtype] = Kernels(shared, sources)
        return self._kernels[dtype]


pairs = PairKernels()
