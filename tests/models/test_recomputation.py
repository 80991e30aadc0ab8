"""Training whose blocks are computed again in the backward pass is the same, with dropout, and computes them twice."""

import keras
import numpy as np
import pytest

from kerasllm import BertClassifier, BertConfig, GPTCausalLM, GPTConfig, Seq2SeqConfig, Seq2SeqLM, backend
from kerasllm.training.hardware.batch_size import memory_of_step

SHAPE = {"vocabulary_size": 50, "num_heads": 2, "hidden_dim": 16, "dropout": 0.2}
TOKENS = np.random.default_rng(0).integers(1, 50, (4, 9)).astype("int32")


def gpt():
    model = GPTCausalLM(GPTConfig(num_layers=2, max_sequence_length=8, **SHAPE), seed=3)
    return model, {"token_ids": TOKENS[:, :-1]}, TOKENS[:, 1:]


def bert():
    config = BertConfig(num_layers=3, max_sequence_length=16, **SHAPE)
    return BertClassifier(config, num_classes=2, seed=3), {"token_ids": TOKENS}, TOKENS[:, 0] % 2


def seq2seq():
    model = Seq2SeqLM(Seq2SeqConfig(num_layers=1, max_sequence_length=16, **SHAPE), seed=3)
    inputs = {"encoder_token_ids": TOKENS, "decoder_token_ids": TOKENS[:, :-1]}
    return model, inputs | {"encoder_padding_mask": (TOKENS > 5).astype("int32")}, TOKENS[:, 1:]


def trained(make, recompute, jit_compile):
    model, inputs, labels = make()
    model.backbone.recompute = recompute
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=jit_compile)
    losses = [float(model.train_on_batch(inputs, labels)) for _ in range(4)]
    return losses, [keras.ops.convert_to_numpy(variable) for variable in model.variables]


@pytest.mark.parametrize("make", [gpt, bert, seq2seq])
def test_the_same_training(make, monkeypatch):
    calls = []
    recomputed = backend.recomputed
    monkeypatch.setattr(backend, "recomputed", lambda *given: calls.append(1) or recomputed(*given))
    losses, state = trained(make, False, backend.jit_compile)
    assert not calls
    found_losses, found = trained(make, True, backend.jit_compile)
    assert len(calls) >= 1 and losses[0] != losses[1]
    np.testing.assert_allclose(found_losses, losses, rtol=1e-5)
    for one, other in zip(found, state, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the others are compiled above")
def test_the_same_training_compiled(capsys):
    losses, state = trained(gpt, False, True)
    found_losses, found = trained(gpt, True, True)
    np.testing.assert_allclose(found_losses, losses, rtol=1e-5)
    for one, other in zip(found, state, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert "without compilation" not in capsys.readouterr().err


def test_inference_computes_nothing_again(monkeypatch):
    model, inputs, _ = gpt()
    model.backbone.recompute = True
    monkeypatch.setattr(backend, "recomputed", None)
    assert model.predict(inputs, verbose=0).shape == (4, 8, 50)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="TensorFlow keeps what a step frees: peaks of two models mix",
)
def test_a_step_takes_less_memory():
    """Without recomputation each of 8 layers keeps its widest values before and after the activation, 16 MB each."""
    wide = {"num_layers": 8, "intermediate_dim": 1024, "max_sequence_length": 128, "dropout": 0.0}
    config = GPTConfig(**SHAPE | wide)
    tokens = np.ones((32, 128), "int32")

    def make(recompute):
        model = GPTCausalLM(config, seed=3)
        model.backbone.recompute = recompute
        model.compile("sgd", jit_compile=backend.jit_compile)
        return model

    def take(recompute):
        if (
            keras.backend.backend() == "torch"
        ):  # whose process keeps what was freed: what is kept for the backward pass
            return kept_by_torch(make(recompute), tokens)
        return memory_of_step(lambda: make(recompute), ({"token_ids": tokens}, tokens), 0).peak

    again, kept = take(True), take(False)
    assert kept - again > 96 * 2**20  # of 7 layers, of which XLA may keep one of the two values alone


def kept_by_torch(model, tokens):
    """Returns the bytes of all values that the backward pass will read."""
    import torch

    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model({"token_ids": tokens}, training=True)
    assert logits.requires_grad
    return sum(kept.values())
