"""Tokenizers and tiny models with weights that matter, of each class that can be exported."""

import numpy as np
import pytest

import kerasllm
from kerasllm.export.samples import TEXTS

SMALL = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32, "max_sequence_length": 64}


@pytest.fixture(scope="session")
def wordpiece():
    return kerasllm.train_wordpiece(TEXTS, vocabulary_size=150)


@pytest.fixture(scope="session")
def byte_level_bpe():
    return kerasllm.train_byte_level_bpe(TEXTS, vocabulary_size=300)


@pytest.fixture(scope="session")
def with_weights():
    """From a model to the same one with random weights, large enough that nothing vanishes beside rounding."""

    def fill(model):
        random = np.random.default_rng(0)
        for name, variable in sorted(model.named_variables().items()):
            values = random.normal(0, 0.2, tuple(variable.shape))
            if name.endswith("scale"):
                values += 1
            if name == "embeddings/token" and hasattr(model, "output_bias"):
                values[model.config.pad_token_id] = 0
            variable.assign(values)
        return model

    return fill


@pytest.fixture(scope="session")
def make_gpt(with_weights):
    """Makes a GPT in GPT-2's form, or in Llama's."""

    def make(form="gpt2", **changes):
        llama = {
            "normalization": "rms_norm",
            "positions": "rotary",
            "feed_forward": "gated",
            "activation": "silu",
            "use_bias": False,
            "num_key_value_heads": 2,
            "tie_embeddings": False,
        }
        settings = SMALL | {"vocabulary_size": 300, "end_token_id": 299} | (llama if form == "llama" else {})
        return with_weights(kerasllm.GPTCausalLM(kerasllm.GPTConfig(**settings | changes)))

    return make
