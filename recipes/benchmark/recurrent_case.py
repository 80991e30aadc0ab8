"""Measures the training of an LSTM, a GRU or a simple RNN on random tokens: by kerasllm, Keras' layers or torch.nn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clocks import time_calls
from works import Case

WARM_UP = 3
TOKENS = 500_000


def measure(case: Case, steps: int) -> dict[str, Any]:
    """Returns the figures of one case.

    Args:
        case: a case of the peer `kerasllm`, `keras` or `torch_loop`.
        steps: measured steps after the warm-up.
    """
    figures = {"kerasllm": by_kerasllm, "keras": by_keras, "torch_loop": by_torch}[case.peer](case, steps)
    return figures | {"tokens": float(case.shape["batch_size"] * case.shape["length"])}


def by_kerasllm(case: Case, steps: int) -> dict[str, Any]:
    """Trains by plain `fit`, the state carried from batch to batch."""
    import numpy as np
    from keras_case import random_tokens, time_fit, versions

    from kerasllm import RecurrentConfig, RecurrentLM
    from kerasllm.data.batches.lanes import LaneBatches
    from kerasllm.data.token_cache.stream import TokenStream
    from kerasllm.tasks import CausalLanguageModeling
    from kerasllm.training.hardware.compilation import FROM_STEPS, choose_compilation
    from kerasllm.training.optimization.optimizers import adamw

    shape = case.shape
    names = ("cell", "hidden_dim", "embedding_dim", "vocabulary_size")
    model = RecurrentLM(RecurrentConfig(**{name: shape[name] for name in names}), seed=0)
    model.carry_state(training_rows=shape["batch_size"])
    compiled = choose_compilation(None, FROM_STEPS)  # as in a run that is long enough to be compiled
    CausalLanguageModeling().compile(model, adamw(1e-4), jit_compile=compiled)
    vocabulary = shape["vocabulary_size"]
    stream = TokenStream(random_tokens(case, TOKENS), np.zeros(1, np.int64), vocabulary, vocabulary - 1)
    settings = {"context_length": shape["length"], "batch_size": shape["batch_size"], "seed": 0}
    figures = time_fit(model, LaneBatches(stream, steps=WARM_UP + steps, **settings))
    flops = model.training_flops(shape["length"])
    return figures | {"flops_per_token": flops, "versions": versions()}


def by_keras(case: Case, steps: int) -> dict[str, Any]:
    """Trains Keras' own layer by plain `fit` over arrays; the state begins with zeros in each batch."""
    import keras
    import numpy as np
    from keras_case import random_tokens, time_fit, versions

    shape = case.shape
    layer = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}[shape["cell"]]
    model = keras.Sequential(
        [
            keras.layers.Embedding(shape["vocabulary_size"], shape["embedding_dim"]),
            layer(shape["hidden_dim"], return_sequences=True),
            keras.layers.Dense(shape["vocabulary_size"]),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-4, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True if keras.backend.backend() == "tensorflow" else "auto",
    )
    rows = shape["batch_size"] * (WARM_UP + steps)
    tokens = random_tokens(case, rows, shape["length"]).astype("int32")
    labels = np.roll(tokens, -1, axis=1)
    return time_fit(model, tokens, labels, batch_size=shape["batch_size"]) | {"versions": versions()}


def by_torch(case: Case, steps: int) -> dict[str, Any]:
    """Trains torch.nn's layer in a plain loop, the state carried from batch to batch."""
    from torch_case import torch

    return time_calls(torch_step(case), steps, WARM_UP) | {"versions": {"torch": torch.__version__}}


def torch_step(case: Case) -> Callable[[], float]:
    """Returns a function that trains one step: forward, backward, clipping, AdamW."""
    from torch_case import functional, torch

    torch.manual_seed(0)
    shape, nn = case.shape, torch.nn
    layer = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[shape["cell"]]
    embedding = nn.Embedding(shape["vocabulary_size"], shape["embedding_dim"])
    recurrent = layer(shape["embedding_dim"], shape["hidden_dim"], batch_first=True)
    output = nn.Linear(shape["hidden_dim"], shape["vocabulary_size"])
    weights = [weight for part in (embedding, recurrent, output) for weight in part.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
    lanes = torch.randint(shape["vocabulary_size"], (shape["batch_size"], TOKENS // shape["batch_size"]))
    place, state = 0, None

    def step() -> float:
        nonlocal place, state
        if place + shape["length"] >= lanes.shape[1]:
            place, state = 0, None
        tokens = lanes[:, place : place + shape["length"] + 1]
        place += shape["length"]
        hidden, after = recurrent(embedding(tokens[:, :-1]), state)
        state = tuple(part.detach() for part in after) if isinstance(after, tuple) else after.detach()
        loss = functional.cross_entropy(output(hidden).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step
