"""Adapters beside the `peft` package: it loads ours, and we load its."""

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

import kerasllm

pytestmark = pytest.mark.filterwarnings("ignore")
TOKENS = np.random.default_rng(0).integers(0, 50, (3, 9)).astype(np.int32)
SIZES = {"vocabulary_size": 50, "num_layers": 2, "num_heads": 4, "hidden_dim": 16, "max_sequence_length": 32}
LLAMA = {
    "normalization": "rms_norm",
    "positions": "rotary",
    "feed_forward": "gated",
    "activation": "silu",
    "use_bias": False,
    "num_key_value_heads": 2,
    "tie_embeddings": False,
}
CASES = {
    "bert": (
        lambda: kerasllm.BertClassifier(kerasllm.BertConfig(**SIZES), num_classes=3),
        transformers.AutoModelForSequenceClassification,
        {"target_modules": ["query", "value", "intermediate.dense"]},
    ),
    "gpt2": (
        lambda: kerasllm.GPTCausalLM(kerasllm.GPTConfig(**SIZES)),
        transformers.AutoModelForCausalLM,
        {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    ),
    "llama": (
        lambda: kerasllm.GPTCausalLM(kerasllm.GPTConfig(**SIZES, **LLAMA)),
        transformers.AutoModelForCausalLM,
        {"target_modules": "all-linear", "use_rslora": True},
    ),
}


def shaken(model, part=""):
    random = np.random.default_rng(1)
    for name, variable in sorted(model.named_variables().items()):
        if part in name:
            variable.assign(random.normal(0, 0.2, tuple(variable.shape)) + name.endswith("scale"))
    return model


def logits(theirs):
    with torch.no_grad():
        return theirs.eval()(torch.tensor(TOKENS.astype(np.int64))).logits.numpy()


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    make, auto, settings = CASES[request.param]
    model = shaken(make())
    model.save_pretrained(tmp_path / "base")
    return type(model), auto, settings


def test_peft_loads_ours(case, tmp_path):
    kind, auto, _ = case
    ours = shaken(kind.from_pretrained(tmp_path / "base", lora_rank=4, lora_alpha=6.0), "lora")
    if hasattr(ours, "classifier"):
        shaken(ours, "classifier")
    ours.save_adapter(tmp_path / "adapter", str(tmp_path / "base"))
    theirs = PeftModel.from_pretrained(auto.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    np.testing.assert_allclose(logits(theirs), ours.predict_on_batch({"token_ids": TOKENS}), atol=2e-5)


def test_we_load_theirs(case, tmp_path):
    kind, auto, settings = case
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, **settings)
    theirs = get_peft_model(auto.from_pretrained(tmp_path / "base"), config)
    theirs.save_pretrained(tmp_path / "adapter")
    ours = kind.from_adapter(tmp_path / "adapter", tmp_path / "base")
    plain = kind.from_pretrained(tmp_path / "base").predict_on_batch({"token_ids": TOKENS})
    found = ours.predict_on_batch({"token_ids": TOKENS})
    np.testing.assert_allclose(found, logits(theirs), atol=2e-5)
    assert np.abs(found - plain).max() > 1e-2
