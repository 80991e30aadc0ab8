"""When a run's step is compiled."""

import keras
import pytest

from kerasllm import backend
from kerasllm.errors import InputError
from kerasllm.training.hardware.compilation import FROM_STEPS, choose_compilation

TORCH = keras.backend.backend() == "torch"


def test_long_runs_are_compiled(monkeypatch):
    monkeypatch.setattr(backend, "can_compile", lambda: True)
    assert choose_compilation(None, FROM_STEPS) is (True if TORCH else backend.jit_compile)
    assert choose_compilation(None, FROM_STEPS - 1) is backend.jit_compile
    assert choose_compilation(True, 1) is True
    assert choose_compilation(False, 10**6) is False


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(backend, "can_compile", lambda: False)
    assert choose_compilation(None, 10**6) is backend.jit_compile
    with pytest.raises(InputError, match=r"install g\+\+ and python3-dev"):
        choose_compilation(True, 10**6)
