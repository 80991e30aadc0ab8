"""The same weights in transformers and here, as a GPT-2 and as a Llama: logits, loss, and the way back."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

transformers = pytest.importorskip("transformers", reason="transformers is not installed in this environment")
torch = pytest.importorskip("torch", reason="transformers computes with torch, which is not installed")

BACKENDS = ["torch", "jax", "tensorflow"]
TOLERANCE = {"rtol": 0, "atol": 1e-4}
VOCABULARY = 211
END = 2  # Llama's
SHAPE = {"vocab_size": VOCABULARY, "num_hidden_layers": 3, "num_attention_heads": 4}
THEIRS = {
    "gpt2": (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=48, n_layer=3, n_head=4, n_positions=32, eos_token_id=END
        ),
    ),
    "gpt2_odd": (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=20,
            n_inner=52,
            n_layer=1,
            n_head=2,
            n_positions=24,
            activation_function="gelu",
            layer_norm_epsilon=1e-3,
            tie_word_embeddings=False,
            eos_token_id=END,
        ),
    ),
    "llama": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            **SHAPE, hidden_size=48, intermediate_size=100, num_key_value_heads=2, max_position_embeddings=64
        ),
    ),
    "llama_tied": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            **SHAPE,
            hidden_size=32,
            intermediate_size=70,
            num_key_value_heads=1,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        ),
    ),
}
SEARCHES = {
    "greedy": {"max_new_tokens": 10},
    "beams": {"max_new_tokens": 10, "num_beams": 3, "length_penalty": 0.5, "repetition_penalty": 1.3},
}
CHANGED = {
    "own_head": ("gpt2", "lm_head.weight", {}),
    "llama_own_head": ("llama_tied", "lm_head.weight", {}),
    "two_bases": ("llama", None, {"rope_theta": 500.0}),
    "base_within": (
        "llama",
        None,
        {"rope_parameters": ..., "rope_scaling": {"rope_type": "default", "rope_theta": 70.0}},
    ),
}
"""Files that say two things, and which transformers reads in one way: a tensor added, settings changed."""
IDS = np.random.default_rng(0).integers(0, VOCABULARY, (4, 22)).astype("int32")


def run_theirs(model, ids) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = model.eval()(
            torch.tensor(ids).long(), labels=torch.tensor(ids).long(), output_hidden_states=True
        )
    return {
        "logits": outputs.logits.numpy(),
        "loss": outputs.loss.numpy(),
        "hidden": outputs.hidden_states[-1].numpy(),
    }


def continue_theirs(model, ids) -> dict[str, np.ndarray]:
    """Texts by each of `SEARCHES`."""
    prompts = torch.tensor(ids[:, :6]).long()
    more = {"do_sample": False, "pad_token_id": END, "attention_mask": torch.ones_like(prompts)}
    return {name: model.generate(prompts, **settings, **more).numpy() for name, settings in SEARCHES.items()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, request):
    """Random models of transformers, saved, with their outputs."""
    directory = tmp_path_factory.mktemp("theirs")
    np.save(directory / "ids.npy", IDS)
    (directory / "searches.json").write_text(json.dumps(dict.fromkeys(THEIRS, SEARCHES)))
    torch.manual_seed(0)
    outputs = {}
    for name, (cls, config) in THEIRS.items():
        model = cls(config)
        for parameter in model.parameters():  # initial values are so small that much would go unnoticed
            mean, deviation = (0, 0.1) if parameter.dim() > 1 else (0.5, 0.3)
            torch.nn.init.normal_(parameter, mean, deviation)
        model.tie_weights()
        model.save_pretrained(directory / name)
        outputs[name] = run_theirs(model, IDS) | continue_theirs(model, IDS)
    for name, (source, tensor, settings) in CHANGED.items():
        shutil.copytree(directory / source, directory / name)
        if tensor:
            file = directory / name / "model.safetensors"
            shape = (VOCABULARY, THEIRS[source][1].hidden_size)
            value = np.random.default_rng(5).normal(size=shape).astype("float32")
            tensors = load_file(file)
            file.unlink()
            save_file(tensors | {tensor: value}, file, {"format": "pt"})
        file = directory / name / "config.json"
        config = json.loads(file.read_text()) | settings
        file.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
        model = THEIRS[source][0].from_pretrained(directory / name)
        outputs[name] = run_theirs(model, IDS)
        if "own_head" in name or name == "base_within":
            assert np.abs(outputs[name]["logits"] - outputs[source]["logits"]).max() > 0.1
    return directory, outputs


@pytest.fixture(scope="module", params=BACKENDS)
def ours(request, prepared, run_backend, tmp_path_factory):
    results = tmp_path_factory.mktemp(request.param)
    run_backend(request.param, "gpt_outputs", prepared[0], results)
    return results


@pytest.mark.parametrize("name", THEIRS)
def test_outputs_equal(name, prepared, ours):
    found, expected = np.load(ours / f"{name}.npz"), prepared[1][name]
    for key in ("hidden", "logits", "loss"):
        np.testing.assert_allclose(found[key], expected[key], **TOLERANCE, err_msg=key)
    assert np.abs(expected["logits"]).max() > 0.5


@pytest.mark.parametrize("name", CHANGED)
def test_files_that_say_two_things_are_read_alike(name, prepared, ours):
    found = np.load(ours / f"{name}.npz")["logits"]
    np.testing.assert_allclose(found, prepared[1][name]["logits"], **TOLERANCE)
    model, report = THEIRS[CHANGED[name][0]][0].from_pretrained(ours / name, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_allclose(
        run_theirs(model, IDS)["logits"], prepared[1][name]["logits"], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", THEIRS)
def test_texts_equal(name, search, prepared, ours):
    found, expected = np.load(ours / f"{name}.npz")[search], prepared[1][name][search]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", THEIRS)
def test_transformers_loads_what_is_saved(name, prepared, ours):
    model, report = THEIRS[name][0].from_pretrained(ours / name, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = prepared[1][name]
    np.testing.assert_allclose(run_theirs(model, IDS)["logits"], expected["logits"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", THEIRS)
def test_transformers_loads_the_backbone_alone(name, prepared, ours):
    model, report = transformers.AutoModel.from_pretrained(
        ours / f"{name}_backbone", output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        found = model.eval()(torch.tensor(IDS).long()).last_hidden_state.numpy()
    np.testing.assert_allclose(found, prepared[1][name]["hidden"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", THEIRS)
def test_there_and_back_bit_for_bit(name, ours, tmp_path):
    """Ours, written by transformers, and read here again."""
    import keras

    from kerasllm import GPTCausalLM

    THEIRS[name][0].from_pretrained(ours / name).save_pretrained(tmp_path)
    before, after = (GPTCausalLM.from_pretrained(path) for path in (ours / name, tmp_path))
    assert before.config == after.config
    variables = after.named_variables()
    assert variables.keys() == before.named_variables().keys()
    for key, variable in before.named_variables().items():
        first, second = (keras.ops.convert_to_numpy(value) for value in (variable, variables[key]))
        assert first.tobytes() == second.tobytes(), key


def test_a_random_checkpoint_of_the_hub(shared_data, run_backend, tmp_path):
    source = shared_data / "tiny_gpt2_random"
    ids = np.random.default_rng(1).integers(0, 21, (2, 30)).astype("int32")
    prepared, results = tmp_path / "prepared", tmp_path / "results"
    results.mkdir()
    (prepared / "tiny").mkdir(parents=True)
    np.save(prepared / "ids.npy", ids)
    (prepared / "searches.json").write_text(json.dumps({"tiny": {"greedy": {"max_new_tokens": 10}}}))
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, prepared / "tiny" / name)
    run_backend("torch", "gpt_outputs", prepared, results)
    expected = run_theirs(transformers.GPT2LMHeadModel.from_pretrained(source), ids)
    np.testing.assert_allclose(np.load(results / "tiny.npz")["logits"], expected["logits"], **TOLERANCE)
