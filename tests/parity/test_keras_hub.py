"""KerasHub's backbones come in and ours go out: equal outputs on each backend, and the very same weights."""

import json

import pytest

pytest.importorskip("keras_hub", reason="keras-nlp (KerasHub) is not installed in this environment")


@pytest.fixture(scope="module", params=["torch", "jax", "tensorflow"])
def found(request, run_backend, tmp_path_factory):
    """What `keras_hub_models.py` found under one backend."""
    path = tmp_path_factory.mktemp(request.param) / "found.json"
    run_backend(request.param, "keras_hub_models", path)
    return json.loads(path.read_text())


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_in_and_out(found, family):
    """KerasHub's own: both use the tanh approximation, which the published BERT does not."""
    result = found[family]
    assert result["in"] <= 1e-5 and result["out"] <= 1e-5
    assert result["bits"] and result["their_bits"] and result["config"]
    assert result["activation"] == "gelu_tanh"


@pytest.mark.parametrize("shape", ["exact", "relu"])
def test_other_activations_go_out_and_come_back(found, shape):
    """Of a BERT with the exact GELU and a great epsilon, and of a GPT with ReLU, both within a task model."""
    assert found[shape] <= 1e-5 and found[f"{shape}_bits"]


def test_a_task_model_goes_on(found):
    """KerasHub's GPT2CausalLM and ours upon the converted backbone: the logits."""
    assert found["causal"] <= 1e-5


def test_what_has_no_counterpart_is_refused(found):
    pooler, positions, other = found["refused"]
    assert pooler == "the model has no pooler, KerasHub's BertBackbone always has one"
    assert positions == "positions is 'rotary', KerasHub's GPT2Backbone has 'learned'"
    assert other == "Dense is no BertBackbone or GPT2Backbone of KerasHub"
