"""The models of a server: each with its name, its task and the thread that runs it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from kerasllm.checkpoints import resolve_directory
from kerasllm.errors import InputError
from kerasllm.serving.batching import Batcher
from kerasllm.serving.engine import Engine
from kerasllm.tasks.base import PredictionSettings
from kerasllm.tasks.predictor import Predictor, load
from kerasllm.tasks.sentence_encoder import SentenceEncoder
from kerasllm.tokenizers.loading import find_chat_template

PATHS = {
    "causal_lm": "/v1/completions",
    "embedding": "/v1/embeddings",
    "classification": "/classify",
    "regression": "/classify",
    "masked_lm": "/fill-mask",
    "tagging": "/tag",
    "question_answering": "/answer",
    "translation": "/translate",
}
"""The path at which models of a task are asked."""

_WARM_UP = {
    "masked_lm": ("a [MASK]",),
    "question_answering": ("what", "a word"),
}


_READ_IN_WINDOWS = ("tagging", "question_answering")
"""Tasks whose texts are not cut: they are read in windows."""


@dataclass(frozen=True)
class PredictionKey:
    """The settings that texts of one batch share.

    Args:
        top_k: candidates for each [MASK].
        purpose: what vectors are for, see `SentenceEncoder.prompt`.
    """

    top_k: int = 5
    purpose: str | None = None


@dataclass
class ServedModel:
    """A model of a server.

    Args:
        name: the name by which clients ask for it.
        predictor: the model with its tokenizer.
        chat_template: its chat template, or None if it has none.
    """

    name: str
    predictor: Predictor
    chat_template: str | None = None
    engine: Engine | None = field(default=None, init=False)
    batcher: Batcher | None = field(default=None, init=False)
    created: int = field(default_factory=lambda: int(time.time()), init=False)

    @property
    def task(self) -> str:
        """The name of its task."""
        return self.predictor.task.name

    @property
    def positions(self) -> int:
        """The most tokens of a text."""
        return int(self.predictor.model.config.max_sequence_length)

    def start(self, *, slots: int, batch_size: int, queue_length: int, is_compiled: bool = True) -> int:
        """Starts the model's thread.

        Args:
            slots: texts that a GPT continues at the same time.
            batch_size: texts that another model takes at the same time.
            queue_length: texts, or requests, that may wait.
            is_compiled: whether programs are compiled before, so that the first clients need not wait.

        Returns:
            The number of programs that were compiled.
        """
        self._batch_size = batch_size
        if self.task == "causal_lm":
            self.engine = Engine(self.predictor.model, slots=slots, queue_length=queue_length)
            return self.engine.start(is_compiled=is_compiled)
        compiled = self._warm_up() if is_compiled else 0
        self.batcher = Batcher(self._predict, batch_size=batch_size, queue_length=queue_length)
        return compiled

    def close(self) -> None:
        """Ends the thread after what waits."""
        for worker in (self.engine, self.batcher):
            if worker is not None:
                worker.close()

    def describe(self) -> dict[str, Any]:
        """Returns the model as /v1/models lists it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "kerasllm",
            "task": self.task,
            "path": PATHS[self.task],
            "chat": self.chat_template is not None,
            "positions": self.positions,
        }

    def count_tokens(self, text: tuple[str, ...]) -> int:
        """Returns the number of tokens of a text or pair that the model reads, with special tokens."""
        count = len(self.predictor.tokenizer.encode(*text).ids)
        if self.task in _READ_IN_WINDOWS:
            return count
        return min(count, self.predictor.sequence_length)

    def _predict(self, texts: Sequence[tuple[str, ...]], key: PredictionKey) -> list[tuple[dict, int]]:
        """Returns the prediction for each text, with its number of tokens."""
        model, tokenizer, task = self.predictor.model, self.predictor.tokenizer, self.predictor.task
        with self.predictor.turn:
            if task.name == "embedding":
                encoder = SentenceEncoder(model, tokenizer, self.name)
                plain = [text for (text,) in texts]
                vectors = encoder.encode(plain, key.purpose, batch_size=self._batch_size)
                found = [{"vector": vector} for vector in vectors]
            else:
                settings = PredictionSettings(self.positions, self._batch_size, key.top_k, probabilities=True)
                found, _ = task.predict(model, tokenizer, texts, settings)
        return list(zip(found, map(self.count_tokens, texts), strict=True))

    def _warm_up(self) -> int:
        """Predicts for texts of several lengths, so that clients rarely wait for a compilation, and counts them."""
        example = _WARM_UP.get(self.task, ("a word",))
        rows = [1 << power for power in range(self._batch_size.bit_length())]
        lengths = [1 << power for power in range(4, self.positions.bit_length())]
        shapes = [(length, number) for length in lengths for number in rows if length <= 128 or number == 1]
        if self.task == "translation":
            shapes = [(length, number) for length in (16, 32) for number in (1, rows[-1])]
        if keras.backend.backend() == "torch":  # which runs step by step
            shapes = [(16, 1)]
        for length, number in shapes:
            filled = (*example[:-1], example[-1] + " a" * (length - 8))
            self._predict([filled] * number, PredictionKey())
        return len(shapes)


def load_models(sources: Sequence[str]) -> dict[str, ServedModel]:
    """Returns the models of runs, model directories or hub ids by name.

    Args:
        sources: `RUN` or `NAME=RUN`; the name of a run is by default that of its directory.

    Raises:
        InputError: there is no such model, it is not finished or its task is not served, or two have the same name.
    """
    named: dict[str, str] = {}
    for source in sources:
        name, equals, place = source.partition("=")
        if not equals or Path(source).exists():
            name, place = _name_of(source), source
        if not name.strip() or not place.strip():
            raise InputError(f"--model {source}: give RUN, or NAME=RUN")
        if name in named:
            raise InputError(
                f"--model: {named[name]} and {place} are both named {name!r}: give one another name, as NAME={place}"
            )
        named[name] = place
    return {name: _load(name, place) for name, place in named.items()}


def _name_of(source: str) -> str:
    path = Path(source).resolve() if Path(source).exists() else Path(source)
    return path.parent.name if path.name == "model" else path.name


def _load(name: str, place: str) -> ServedModel:
    predictor = load(place)
    if predictor.task.name not in PATHS:
        raise InputError(f"{place}: models for {predictor.task.name} are not served")
    template = None
    if predictor.task.name == "causal_lm":
        found, source = find_chat_template(None, resolve_directory(place))
        template = found if source else None
    return ServedModel(name, predictor, template)
