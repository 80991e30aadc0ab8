"""The table of model classes that can be written to ONNX, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerasllm.errors import InputError
from kerasllm.export.onnx import bert, gpt, recurrent, recurrent_seq2seq, seq2seq
from kerasllm.export.onnx.graph import Graph
from kerasllm.export.onnx.sessions import Sessions
from kerasllm.models import BertConfig, GPTCausalLM, RecurrentConfig, RecurrentSeq2SeqLM, Seq2SeqLM


@dataclass(frozen=True)
class Exporter:
    """How the models of a kind are written to ONNX.

    Args:
        graphs: a function of a model that returns its graphs by the names of their files.
        run: a function of sessions, the model, and inputs by our names, that returns what the model returns.
    """

    graphs: Callable[[Any], dict[str, Graph]]
    run: Callable[[Sessions, Any, Mapping[str, np.ndarray]], Any]


EXPORTERS: dict[type, Exporter] = {
    BertConfig: Exporter(bert.graphs, bert.run),
    GPTCausalLM: Exporter(gpt.graphs, gpt.run),
    RecurrentConfig: Exporter(recurrent.graphs, recurrent.run),
    RecurrentSeq2SeqLM: Exporter(recurrent_seq2seq.graphs, recurrent_seq2seq.run),
    Seq2SeqLM: Exporter(seq2seq.graphs, seq2seq.run),
}
"""The exporters by model class, or by config class for all models of a family."""


def exporter_of(model: Any) -> Exporter:
    """Returns the exporter of a model.

    Raises:
        InputError: there is none.
    """
    for kind, exporter in EXPORTERS.items():
        if isinstance(model, kind) or isinstance(model.config, kind):
            return exporter
    raise InputError(f"a {type(model).__name__} cannot be written to ONNX")


class ExportedModel:
    """An exported model, which returns what the model returned that it was made from, computed by onnxruntime.

    It has the model's attributes, so that `kerasllm.tasks` can evaluate it.

    Args:
        model: the model.
        sessions: its exported files.
    """

    def __init__(self, model: Any, sessions: Sessions) -> None:
        self._model, self._sessions = model, sessions
        self._run = exporter_of(model).run

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the model."""
        return getattr(self._model, name)

    def predict_on_batch(self, inputs: Mapping[str, np.ndarray]) -> Any:
        """Returns the model's outputs as NumPy arrays.

        Args:
            inputs: padded inputs by our names; packed rows are not possible.
        """
        return self._run(self._sessions, self._model, inputs)
