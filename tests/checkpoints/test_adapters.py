"""Low-rank adapters written and read again; beside `peft` itself they are in tests/parity."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import kerasllm
from kerasllm.errors import InputError

LLAMA = {
    "normalization": "rms_norm",
    "positions": "rotary",
    "feed_forward": "gated",
    "activation": "silu",
    "use_bias": False,
    "num_key_value_heads": 1,
}
SIZES = {"vocabulary_size": 20, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_sequence_length": 8}


def shaken(model, part):
    random = np.random.default_rng(0)
    for name, variable in sorted(model.named_variables().items()):
        if part in name:
            variable.assign(random.normal(0, 0.3, tuple(variable.shape)))
    return model


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def adapted(request, tmp_path_factory):
    """A class, the directory of a base model, and a model with adapters that are not zero."""
    path = tmp_path_factory.mktemp("base")
    if request.param == "bert":
        kind, config = kerasllm.BertTokenClassifier, kerasllm.BertConfig(**SIZES)
    else:
        kind, config = (
            kerasllm.GPTCausalLM,
            kerasllm.GPTConfig(**SIZES, **(LLAMA if request.param == "llama" else {})),
        )
    shaken(kind(config), "kernel").save_pretrained(path)
    model = shaken(kind.from_pretrained(path, lora_rank=2, lora_alpha=3.0), "lora")
    return kind, path, shaken(model, "classifier")


def test_round_trip(adapted, tmp_path):
    kind, base, model = adapted
    model.save_adapter(tmp_path, str(base))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == 2 and config["lora_alpha"] == 3.0 and config["base_model_name_or_path"] == str(base)
    assert config["modules_to_save"] == (["classifier"] if hasattr(model, "classifier") else None)
    again = kind.from_adapter(tmp_path)
    assert again.backbone.lora_rank == 2  # the factors that several of their kernels share are one
    for name in model.named_variables():
        if "lora" not in name:
            np.testing.assert_allclose(again.merged(name), model.merged(name), atol=1e-6)


def spoil(directory, **changes):
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', only 'LORA' can be read"),
        ({"use_dora": True}, "use_dora is True, only False"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_alpha": "8"}, "lora_alpha is '8', it must be a number"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
    ],
)
def test_what_cannot_be_represented_is_named(changes, message, adapted, tmp_path):
    kind, base, model = adapted
    model.save_adapter(tmp_path, str(base))
    spoil(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        kind.from_adapter(tmp_path)


def test_a_damaged_file_is_named(adapted, tmp_path):
    kind, base, model = adapted
    model.save_adapter(tmp_path, str(base))
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        kind.from_adapter(tmp_path)
    name = "base_model.model.strange.lora_A.weight"
    for array in (np.float32(1), np.ones((2, 2, 2), np.float32)):
        save_file({name: np.asarray(array)}, file)
        with pytest.raises(InputError, match=r"strange.lora_A.weight has shape"):
            kind.from_adapter(tmp_path)
    save_file({name: np.ones((2, 2), np.float32)}, file)
    with pytest.raises(InputError, match="holds no adapter of this model"):
        kind.from_adapter(tmp_path)


def test_adapters_of_another_model_are_refused(adapted, tmp_path):
    kind, base, model = adapted
    model.save_adapter(tmp_path / "adapter", str(base))
    wider = type(model.config)(**SIZES | {"hidden_dim": 16})
    kind(wider).save_pretrained(tmp_path / "wide")
    with pytest.raises(InputError, match=r"the two do not belong together|holds no adapter of this model"):
        kind.from_adapter(tmp_path / "adapter", tmp_path / "wide")


def test_a_model_without_adapters_has_none_to_write(tmp_path):
    model = kerasllm.GPTCausalLM(kerasllm.GPTConfig(**SIZES))
    with pytest.raises(InputError, match="has no low-rank adapters"):
        model.save_adapter(tmp_path, "base")
    own = kerasllm.GPTConfig(**SIZES, normalization="rms_norm")
    with pytest.raises(InputError, match="transformers has no GPT of kerasllm's own shape"):
        kerasllm.GPTCausalLM(own, lora_rank=1).save_adapter(tmp_path, "base")
    with pytest.raises(InputError, match="no such file"):
        kerasllm.GPTCausalLM.from_adapter(tmp_path)
