"""GPT in Hugging Face's format: ours → theirs → ours, bit for bit; what cannot be represented is refused."""

import dataclasses
import json

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file, save_file

from kerasllm import GPTBackbone, GPTCausalLM, GPTConfig
from kerasllm.errors import InputError, InputWarning
from kerasllm.generation.continuation import padding

GPT2 = GPTConfig(
    vocabulary_size=30,
    num_layers=2,
    num_heads=4,
    hidden_dim=16,
    max_sequence_length=12,
    attention_dropout=0.2,
    embedding_dropout=0.3,
    end_token_id=29,
)
LLAMA = dataclasses.replace(
    GPT2,
    dropout=0.0,
    attention_dropout=0.1,
    embedding_dropout=0.0,
    normalization="rms_norm",
    layer_norm_epsilon=1e-6,
    positions="rotary",
    rotary_base=5e5,
    feed_forward="gated",
    activation="silu",
    intermediate_dim=24,
    num_key_value_heads=2,
    use_bias=False,
    tie_embeddings=False,
)
MIXED = dataclasses.replace(GPT2, positions="rotary", num_key_value_heads=1, normalization="rms_norm")
UNTIED = dataclasses.replace(GPT2, tie_embeddings=False)
SHAPES = {"gpt2": GPT2, "llama": LLAMA, "kerasllm_gpt": MIXED}


def variables(model):
    return {name: ops.convert_to_numpy(value) for name, value in model.named_variables().items()}


@pytest.fixture
def saved(tmp_path):
    GPTCausalLM(GPT2, seed=1).save_pretrained(tmp_path)
    return tmp_path


def edit(directory, **changes):
    """Changes config.json, and takes the generation_config.json away, which would have the last word about tokens."""
    (directory / "generation_config.json").unlink(missing_ok=True)
    path = directory / "config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))


@pytest.mark.parametrize("cls", [GPTBackbone, GPTCausalLM])
@pytest.mark.parametrize(
    ("model_type", "config"), [*SHAPES.items(), ("gpt2", UNTIED)], ids=[*SHAPES, "untied"]
)
def test_there_and_back(cls, model_type, config, tmp_path):
    model = cls(config, seed=3)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == model_type
    again = cls.from_pretrained(tmp_path)
    assert again.config == config
    ours, theirs = variables(model), variables(again)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(theirs[name], value, err_msg=name)
    again.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_names_and_shapes_are_those_of_gpt2(saved):
    tensors = load_file(saved / "model.safetensors")
    assert tensors["transformer.wte.weight"].shape == (30, 16)
    assert tensors["transformer.h.1.attn.c_attn.weight"].shape == (16, 48)  # (inputs, outputs), unlike Linear
    assert tensors["transformer.h.0.mlp.c_proj.weight"].shape == (64, 16)
    assert "lm_head.weight" not in tensors
    ours = variables(GPTCausalLM(GPT2, seed=1))
    np.testing.assert_array_equal(
        tensors["transformer.h.0.mlp.c_fc.weight"], ours["block_0/intermediate_kernel"]
    )


def test_older_files(saved):
    """Without the prefix, with the causal mask's buffers and a copy of the tied head, as hubs have them."""
    tensors = load_file(saved / "model.safetensors")
    older = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    older["h.0.attn.bias"] = np.ones((1, 1, 12, 12), "float32")
    older["h.0.attn.masked_bias"] = np.full((1,), -1e4, "float32")
    older["lm_head.weight"] = older["wte.weight"].copy()
    save_file(older, saved / "model.safetensors")
    again = GPTCausalLM.from_pretrained(saved)  # a warning would be an error
    for name, value in variables(GPTCausalLM(GPT2, seed=1)).items():
        np.testing.assert_array_equal(variables(again)[name], value, err_msg=name)


def test_a_missing_head_is_new_and_named(tmp_path):
    GPTBackbone(UNTIED, seed=1).save_pretrained(tmp_path)
    with pytest.warns(InputWarning, match="initial values: head"):
        GPTCausalLM.from_pretrained(tmp_path)


def test_dropout_may_be_changed(saved):
    config = GPTCausalLM.from_pretrained(saved, dropout=0.3).config
    assert (config.dropout, config.attention_dropout, config.embedding_dropout) == (0.3, 0.3, 0.3)


def test_end_tokens_as_chat_models_list_them(saved):
    edit(saved, eos_token_id=[7, 9])
    assert GPTCausalLM.from_pretrained(saved).config.end_token_ids == (7, 9)


@pytest.mark.usefixtures("uncompiled")
def test_generation_config_has_the_last_word(saved):
    """About the tokens; all that it holds is written again."""
    path, prompt = saved / "generation_config.json", [[1, 2, 3]]
    assert json.loads(path.read_text()) == {"_from_model_config": True, "eos_token_id": 29}
    free = GPTCausalLM.from_pretrained(saved).generate(prompt, max_new_tokens=6, stop_token_ids=[])[0]
    settings = {"do_sample": True, "temperature": 0.6, "eos_token_id": [29, int(free[4])], "pad_token_id": 11}
    path.write_text(json.dumps(settings | {"bos_token_id": 4}))
    model = GPTCausalLM.from_pretrained(saved)
    assert (model.config.begin_token_id, model.config.pad_token_id) == (4, 11)
    np.testing.assert_array_equal(
        model.generate(prompt, max_new_tokens=6)[0], free[: 4 + (free[3] != free[4])]
    )
    model.save_pretrained(saved / "again")
    assert json.loads((saved / "again" / path.name).read_text()) == settings | {"bos_token_id": 4}
    assert (
        json.loads((saved / "again" / "config.json").read_text())["eos_token_id"] == settings["eos_token_id"]
    )
    path.write_text(json.dumps({"eos_token_id": None, "temperature": 0.6}))
    assert GPTCausalLM.from_pretrained(saved).config.end_token_ids == (29,)
    for wrong in ("</s>", [7, 1.5], [], True, -2):
        path.write_text(json.dumps({"eos_token_id": wrong}))
        with pytest.raises(
            InputError, match=r"generation_config.json: eos_token_id is .*, it must be a token's number"
        ):
            GPTCausalLM.from_pretrained(saved)


@pytest.mark.usefixtures("uncompiled")
def test_rows_that_ended_are_filled_with_the_padding_token():
    model = GPTCausalLM(dataclasses.replace(GPT2, pad_token_id=11), seed=1)
    prompts = [[1, 2, 3], [7, 8, 9]]
    free = model.generate(prompts, max_new_tokens=4, stop_token_ids=[])
    stop = next(int(token) for token in free[0, 3:] if token not in free[1, 3:])
    rows = model.generate(prompts, max_new_tokens=4, stop_token_ids=[stop])
    new = rows[0, 3:].tolist()
    assert set(new[new.index(stop) + 1 :]) <= {11} and new.index(stop) < 3
    np.testing.assert_array_equal(rows[1], free[1])
    paddings = [padding(dataclasses.replace(GPT2, pad_token_id=token)) for token in (None, -1, 30, 0)]
    assert paddings == [None, None, None, 0]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model_type": "bert"}, "only 'gpt2' or 'llama' can be read"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"activation_function": "swish2"}, "activation_function is 'swish2'"),
        ({"embd_pdrop": 1.2}, "embd_pdrop is 1.2"),
        ({"n_layer": ...}, "lacks n_layer"),
        ({"n_head": 3}, "hidden_dim 16 does not divide|n_embd 16 does not divide"),
        ({"vocab_size": 10**12}, "do not belong together"),
        ({"n_positions": 10**9}, "do not belong together"),
        ({"n_inner": 63}, "do not belong together"),
        ({"n_layer": 3}, "hold no h.2"),
        ({"n_layer": "many"}, "n_layer is 'many'"),
    ],
)
def test_what_cannot_be_is_refused(saved, changes, fault):
    edit(saved, **changes)
    with pytest.raises(InputError, match=fault) as refused:
        GPTCausalLM.from_pretrained(saved)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"attention_bias": True}, "attention_bias is True"),
        ({"head_dim": 8}, "head_dim is 8"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope type is 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope type is 'llama3'"),
    ],
)
def test_what_this_llama_cannot_do_is_refused(tmp_path, changes, fault):
    GPTCausalLM(LLAMA, seed=1).save_pretrained(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(InputError, match=fault):
        GPTCausalLM.from_pretrained(tmp_path)


def test_special_tokens_are_kept(saved):
    tokens = {"bos_token_id": 3, "eos_token_id": [29, 7, 5], "pad_token_id": 11}
    edit(saved, **tokens)
    model = GPTCausalLM.from_pretrained(saved)
    assert model.config.end_token_ids == (29, 7, 5)
    model.save_pretrained(saved / "again")
    for name in ("config.json", "generation_config.json"):
        written = json.loads((saved / "again" / name).read_text())
        assert {key: written[key] for key in tokens} == tokens


def test_every_end_token_ends_a_text(saved):
    prompt = np.array([[1, 2, 3]])
    model = GPTCausalLM.from_pretrained(saved)
    free = model.generate(prompt, max_new_tokens=6, stop_token_ids=[])[0]
    edit(
        saved, eos_token_id=[10**6, int(free[4])]
    )  # no text holds the first, as the vocabulary has not so many
    ended = GPTCausalLM.from_pretrained(saved).generate(prompt, max_new_tokens=6)[0]
    first = 3 + int(np.argmax(free[3:] == free[4]))
    np.testing.assert_array_equal(ended, free[: first + 1])
