"""The works of the benchmark: their shapes, and the contenders of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

MINI_BERT = {"num_layers": 4, "num_heads": 4, "hidden_dim": 256, "vocabulary_size": 30522}
MINI_BERT |= {"length": 128, "batch_size": 32}
TINY_GPT = {"num_layers": 4, "num_heads": 4, "hidden_dim": 128, "vocabulary_size": 66}
NO_GPT = {"num_layers": 1, "num_heads": 1, "hidden_dim": 16, "vocabulary_size": 66}
SMALL_GPT = {"num_layers": 6, "num_heads": 6, "hidden_dim": 384}
GENERATED = {"vocabulary_size": 50257, "length": 32, "new_tokens": 128}
SMALL_TRANSLATOR = {"num_layers": 3, "num_heads": 4, "hidden_dim": 256, "intermediate_dim": 512}
RECURRENT = {"hidden_dim": 256, "embedding_dim": 128, "vocabulary_size": 65, "length": 64, "batch_size": 32}
READ = {"processes": 2, "megabytes": 30}
WORKS: dict[str, list[dict[str, Any]]] = {
    "bert": [{**MINI_BERT, "slots": 20, "dropout": 0.1}],
    "packing": [{**MINI_BERT, "dropout": 0.1}],
    "gpt": [{**SMALL_GPT, "vocabulary_size": 50304, "length": 256, "batch_size": 8}],
    "shakespeare": [{**TINY_GPT, "length": 64, "batch_size": 12}],
    "translation": [{**SMALL_TRANSLATOR, "vocabulary_size": 8000, "batch_tokens": 2048, "dropout": 0.1}],
    "recurrent": [{**RECURRENT, "cell": cell} for cell in ("lstm", "gru", "rnn")],
    "host": [{**NO_GPT, "length": 8, "batch_size": 2}],
    "generation": [{**SMALL_GPT, **GENERATED, "batch_size": size} for size in (1, 8)],
    "input": [
        {"kind": "pairs", "length": 128, "batch_size": 32, **READ},
        {"kind": "windows", "length": 256, "batch_size": 8, **READ},
    ],
}
"""The shapes that each work is measured with."""

TITLES = {
    "bert": "BERT mini, pretraining",
    "packing": "BERT mini, short pairs",
    "gpt": "GPT 6x384, training",
    "shakespeare": "GPT 4x128 of characters, training",
    "translation": "Encoder-decoder 3+3x256, training",
    "recurrent": "1x256 of characters, training",
    "host": "GPT 1x16, the time around the arithmetic",
    "generation": "GPT 6x384, generation",
    "input": "Text file to batches",
}
STEPS = {"shakespeare": 25.0, "translation": 8.0, "recurrent": 8.0, "host": 125.0, "generation": 0.375}
"""Measured steps, or calls, per step of `--steps`, for works where that is not 1."""

PEERS = {
    "bert": ("kerasllm", "keras_hub", "transformers"),
    "packing": ("kerasllm", "kerasllm_padded"),
    "gpt": ("kerasllm", "kerasllm_all_logits", "keras_hub", "transformers"),
    "shakespeare": ("kerasllm", "torch_loop"),
    "translation": ("kerasllm", "transformers", "torch_loop"),
    "recurrent": ("kerasllm", "keras", "torch_loop"),
    "host": ("kerasllm", "kerasllm_callbacks", "torch_loop", "torch_loop_compiled"),
    "generation": ("kerasllm", "keras_hub", "transformers"),
    "input": ("kerasllm", "datasets"),
}
NAMES = {"kerasllm_all_logits": "kerasllm, all logits", "kerasllm_padded": "padded rows"}
NAMES |= {"keras_hub": "KerasHub", "torch_loop": "plain PyTorch", "torch_loop_compiled": "compiled PyTorch"}
NAMES |= {"kerasllm_callbacks": "kerasllm, all callbacks", "keras": "Keras' layers"}
NEEDS = {"keras_hub": ("keras_hub",), "transformers": ("torch", "transformers"), "torch_loop": ("torch",)}
NEEDS |= {"torch_loop_compiled": ("torch",), "keras": ("keras",)}
NEEDS |= {"datasets": ("datasets", "torch", "transformers")}
ON_TORCH_ONLY = ("transformers", "torch_loop", "torch_loop_compiled")
IN_BOTH_PRECISIONS = ("bert", "gpt", "translation", "generation")


class Case(NamedTuple):
    """One contender at one work."""

    work: str
    peer: str
    backend: str
    precision: str
    shape: dict[str, Any]

    @property
    def title(self) -> str:
        """The name of the work, with its shape if there are several."""
        if self.work == "recurrent":
            return f"{self.shape['cell'].upper()} {TITLES[self.work]}"
        batch = f", batch {self.shape['batch_size']}" if self.work == "generation" else ""
        return TITLES[self.work] + batch + (f", {self.shape['kind']}" if self.work == "input" else "")

    @property
    def library(self) -> str:
        """The contender's name in tables."""
        return NAMES.get(self.peer, self.peer)

    @property
    def label(self) -> str:
        """The full name of the case."""
        return f"{self.title}: {self.library} on {self.backend}, {self.precision}"


def contenders(
    work: str, backends: Sequence[str], precisions: Sequence[str], peers: bool = True, **more: Any
) -> Iterator[Case]:
    """Yields the cases of a work, in the order in which they take turns.

    Args:
        work: a key of `WORKS`.
        backends: installed Keras backends; the input needs none and uses the first.
        precisions: precisions of the works that are not measured in float32 alone.
        peers: whether other libraries that are installed take part.
        more: entries to add to each shape.
    """
    taking_part = [
        peer
        for peer in PEERS[work]
        if peer.startswith("kerasllm") or (peers and all(map(find_spec, NEEDS[peer])))
    ]
    for shape in WORKS[work]:
        for precision in precisions if work in IN_BOTH_PRECISIONS else ["float32"]:
            for backend in backends[:1] if work == "input" else backends:
                for peer in taking_part:
                    if backend == "torch" or peer not in ON_TORCH_ONLY:
                        yield Case(work, peer, backend, precision, shape | more)
