"""Keras without what it imports and nothing here uses: half of its time, and 150 MB, or 250 where JAX is there too.

It imports JAX on every backend, to add a name that old versions lack; pandas, to tell its tables from other data;
scikit-learn, for `keras.wrappers`; matplotlib, for `keras.visualization`; and on PyTorch the compiler's front end, 2 s
and 75 MB, to keep two functions out of compilation. All stays usable: these modules are imported when something of
them is used, and tables are known once pandas has been imported.
"""

import functools
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_DEFERRED = ("keras.src.visualization", "keras.visualization", "keras.wrappers")


class _Deferred(ModuleType):
    """Stands for a module, which it imports when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__path__", "__version__"):  # what any module is asked for
            raise AttributeError(name)
        return getattr(self._module(), name)

    def __dir__(self) -> list[str]:
        return dir(self._module())

    def _module(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return import_module(self.__name__)


class _PandasClass(type):
    """Stands for a class of pandas in `isinstance`: before pandas is imported, nothing is of that class."""

    def __call__(cls, *arguments: Any, **settings: Any) -> Any:
        return getattr(import_module("pandas"), cls.__name__)(*arguments, **settings)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, getattr(sys.modules.get("pandas"), cls.__name__, ()))


def _not_compiled(function: Callable[..., Any] | None = None, **settings: Any) -> Any:
    """`torch._dynamo.disable`, which need not be there before something is compiled."""
    if function is None:
        return functools.partial(_not_compiled, **settings)

    disabled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if not disabled:
            compiler = sys.modules.get(_COMPILER)
            if compiler is None or isinstance(compiler, _Deferred):
                return function(*arguments, **named)
            disabled.append(compiler.disable(function, **settings))
        return disabled[0](*arguments, **named)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return call


def import_keras_alone(backend: str) -> None:
    """Imports Keras; what has been imported already stays as it is."""
    given: dict[str, Any] = {name: _Deferred(name) for name in _DEFERRED}
    if "pandas" not in sys.modules and (found := find_spec("pandas")) is not None:
        given["pandas"] = _Deferred("pandas")
        given["pandas"].__spec__ = found  # torch, which Keras imports, asks for it
        for name in ("Series", "DataFrame"):
            setattr(given["pandas"], name, _PandasClass(name, (), {}))
    if backend == "torch" and find_spec("torch") is not None:
        import torch  # noqa: F401

        given[_COMPILER] = _Deferred(_COMPILER)
        given[_COMPILER].disable = _not_compiled
    if backend != "jax":
        given["jax"] = None  # which an import takes for "not installed"
    modules: dict[str, Any] = sys.modules
    given = {name: module for name, module in given.items() if name not in modules}
    modules.update(given)
    try:
        import keras  # noqa: F401
    finally:
        for name, module in given.items():
            if name in modules and modules[name] is module:
                del modules[name]
