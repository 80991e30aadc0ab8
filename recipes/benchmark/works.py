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
"""The shapes that each work is measured with on a CPU."""

BASE_BERT = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "vocabulary_size": 30522, "dropout": 0.1}
GPT2 = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768}
WORKS_ON_GPU: dict[str, list[dict[str, Any]]] = {
    "bert": [
        {**BASE_BERT, "length": 128, "batch_size": 128, "slots": 20},
        {**BASE_BERT, "length": 512, "batch_size": 32, "slots": 77},
    ],
    "packing": [{**BASE_BERT, "length": 128, "batch_size": 128}],
    "gpt": [{**GPT2, "vocabulary_size": 50304, "length": 1024, "batch_size": 16}],
    "shakespeare": [{**SMALL_GPT, "vocabulary_size": 66, "length": 256, "batch_size": 64, "dropout": 0.2}],
    "host": WORKS["host"],
    "generation": [{**GPT2, **GENERATED, "batch_size": size} for size in (1, 32)],
}
"""The shapes that works are measured with on a GPU; the others are left to CPUs."""

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
TITLES_ON_GPU = TITLES | {
    "bert": "BERT base, pretraining",
    "packing": "BERT base, short pairs",
    "gpt": "GPT-2 124M, training",
    "shakespeare": "GPT 6x384 of characters, training",
    "generation": "GPT-2 124M, generation",
}
STEPS = {"shakespeare": 25.0, "translation": 8.0, "recurrent": 8.0, "host": 125.0, "generation": 0.375}
"""Measured steps, or calls, per step of `--steps`, for works where that is not 1."""

STEPS_IN_A_BLOCK = 10
"""Steps of a GPU that are timed together, after which the clock waits for it."""

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
PEERS_ON_GPU = PEERS | {
    "gpt": (*PEERS["gpt"], "torch_loop_compiled"),
    "shakespeare": (*PEERS["shakespeare"], "torch_loop_compiled"),
}
NAMES = {"kerasllm_all_logits": "kerasllm, all logits", "kerasllm_padded": "padded rows"}
NAMES |= {"keras_hub": "KerasHub", "torch_loop": "plain PyTorch", "torch_loop_compiled": "compiled PyTorch"}
NAMES |= {"kerasllm_callbacks": "kerasllm, all callbacks", "keras": "Keras' layers"}
NEEDS = {"keras_hub": ("keras_hub",), "transformers": ("torch", "transformers"), "torch_loop": ("torch",)}
NEEDS |= {"torch_loop_compiled": ("torch",), "keras": ("keras",)}
NEEDS |= {"datasets": ("datasets", "torch", "transformers")}
ON_TORCH_ONLY = ("transformers", "torch_loop", "torch_loop_compiled")
IN_BOTH_PRECISIONS = ("bert", "gpt", "translation", "generation")
IN_BOTH_PRECISIONS_ON_GPU = ("bert", "packing", "gpt", "shakespeare", "generation")


class Case(NamedTuple):
    """One contender at one work."""

    work: str
    peer: str
    backend: str
    precision: str
    shape: dict[str, Any]
    device: str = "cpu"

    @property
    def title(self) -> str:
        """The name of the work, with its shape if there are several."""
        title = (TITLES_ON_GPU if self.on_gpu else TITLES)[self.work]
        if self.work == "recurrent":
            return f"{self.shape['cell'].upper()} {title}"
        batch = f", batch {self.shape['batch_size']}" if self.work == "generation" else ""
        length = f", length {self.shape['length']}" if self.on_gpu and self.work == "bert" else ""
        return title + batch + length + (f", {self.shape['kind']}" if self.work == "input" else "")

    @property
    def on_gpu(self) -> bool:
        """Whether it is measured on a GPU."""
        return self.device == "gpu"

    @property
    def block(self) -> int:
        """The number of training steps that are timed together: a GPU's run ahead of the clock."""
        return STEPS_IN_A_BLOCK if self.on_gpu and self.work not in ("generation", "host") else 1

    @property
    def library(self) -> str:
        """The contender's name in tables."""
        return NAMES.get(self.peer, self.peer)

    @property
    def label(self) -> str:
        """The full name of the case."""
        return f"{self.title}: {self.library} on {self.backend}, {self.precision}"


def contenders(
    work: str,
    backends: Sequence[str],
    precisions: Sequence[str],
    peers: bool = True,
    device: str = "cpu",
    **more: Any,
) -> Iterator[Case]:
    """Yields the cases of a work, in the order in which they take turns.

    Args:
        work: a key of `WORKS`, or of `WORKS_ON_GPU` for a GPU.
        backends: installed Keras backends; the input needs none and uses the first.
        precisions: precisions of the works that are not measured in float32 alone.
        peers: whether other libraries that are installed take part.
        device: "cpu" or "gpu".
        more: entries to add to each shape.
    """
    on_gpu = device == "gpu"
    in_both = IN_BOTH_PRECISIONS_ON_GPU if on_gpu else IN_BOTH_PRECISIONS
    taking_part = [
        peer
        for peer in (PEERS_ON_GPU if on_gpu else PEERS)[work]
        if peer.startswith("kerasllm") or (peers and all(map(find_spec, NEEDS[peer])))
    ]
    for shape in (WORKS_ON_GPU if on_gpu else WORKS)[work]:
        for precision in precisions if work in in_both else ["float32"]:
            for backend in backends[:1] if work == "input" else backends:
                for peer in taking_part:
                    if backend == "torch" or peer not in ON_TORCH_ONLY:
                        yield Case(work, peer, backend, precision, shape | more, device)
