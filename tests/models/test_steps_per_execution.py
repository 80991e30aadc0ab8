"""Several steps between callbacks train as one by one."""

import keras
import numpy as np
import pytest

from kerasllm import GPTCausalLM, GPTConfig
from kerasllm.errors import InputWarning
from kerasllm.tasks import CausalLanguageModeling
from kerasllm.training.optimization.optimizers import adamw

SHAPE = {"vocabulary_size": 50, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 16}
TOKENS = np.random.default_rng(0).integers(0, 50, (20, 17)).astype("int32")


def compiled_model(**settings):
    model = GPTCausalLM(GPTConfig(dropout=0.1, **SHAPE), seed=3)
    loss = CausalLanguageModeling().losses_and_metrics(model, "mean_with_sample_weight")
    model.compile(adamw(1e-2), **loss, jit_compile=True, **settings)
    return model


class Seen(keras.callbacks.Callback):
    """The batches at which it is called, and a weight at each."""

    def __init__(self):
        super().__init__()
        self.batches, self.weights = [], []

    def on_train_batch_end(self, batch, logs=None):
        assert np.isfinite(logs["loss"])
        self.batches.append(batch)
        self.weights.append(float(np.sum(self.model.get_weights()[0])))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # of Keras, where the last are fewer
def test_several_steps_at_a_time_are_those_of_one_by_one():
    """Ten steps of dropout, four at a time, of which the last are two; what callbacks see; what is predicted."""
    results = []
    for count in (1, 4):
        model, seen = compiled_model(steps_per_execution=count), Seen()
        inputs = {"token_ids": TOKENS[:, :-1]}
        model.fit(inputs, TOKENS[:, 1:], batch_size=2, shuffle=False, verbose=0, callbacks=[seen])
        loss = model.evaluate(inputs, TOKENS[:, 1:], batch_size=2, verbose=0)
        results.append((model.get_weights(), loss, model.predict(inputs, batch_size=2, verbose=0), seen))
    (weights, loss, logits, seen), (others, other_loss, other_logits, others_seen) = results
    for found, expected in zip(others, weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(other_logits, logits, atol=1e-5)
    assert logits.shape == (20, 16, 50)
    assert seen.batches == [*range(10)]
    assert [batch for batch in others_seen.batches if batch < 8] == [3, 7] and len(others_seen.batches) == 3
    np.testing.assert_allclose(others_seen.weights, [seen.weights[place] for place in (3, 7, 9)], rtol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="of PyTorch")
def test_without_compilation_each_step_is_executed_alone():
    model = GPTCausalLM(GPTConfig(**SHAPE), seed=3)
    with pytest.warns(InputWarning, match="no effect on PyTorch without jit_compile=True"):
        model.compile("sgd", steps_per_execution=4)
    seen = Seen()
    model.fit({"token_ids": TOKENS[:, :-1]}, TOKENS[:, 1:], batch_size=2, verbose=0, callbacks=[seen])
    assert seen.batches == [*range(10)]
