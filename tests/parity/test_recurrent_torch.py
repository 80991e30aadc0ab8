"""The same weights in torch.nn's LSTM, GRU and RNN and here; and one curve on three backends."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch", reason="torch.nn is compared with, and torch is not installed")
BACKENDS = ["jax", "torch", "tensorflow"]
CELLS = {
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
    "rnn": (torch.nn.RNN, {}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
}
VOCABULARY, WIDTH, UNITS = 30, 12, 16


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A directory of models of torch.nn in our form, and their logits."""
    directory = tmp_path_factory.mktemp("theirs")
    torch.manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (4, 20))
    np.save(directory / "ids.npy", ids.numpy().astype("int32"))
    logits = {}
    for name, (kind, settings) in CELLS.items():
        embedding, output = (
            torch.nn.Embedding(VOCABULARY, WIDTH),
            torch.nn.Linear(UNITS, VOCABULARY),
        )
        layers = kind(WIDTH, UNITS, num_layers=2, batch_first=True, **settings)
        with torch.no_grad():
            for weight in layers.parameters():
                weight.mul_(2)  # so that much would be noticed
            logits[name] = output(layers(embedding(ids))[0]).numpy()
        tensors = {f"rnn.{key}": value.numpy() for key, value in layers.state_dict().items()}
        tensors |= {"embedding.weight": embedding.weight.detach().numpy()}
        tensors |= {f"decoder.{key}": value.numpy() for key, value in output.state_dict().items()}
        (directory / name).mkdir()
        save_file(tensors, directory / name / "model.safetensors")
        shape = {"vocabulary_size": VOCABULARY, "num_layers": 2, "hidden_dim": UNITS, "embedding_dim": WIDTH}
        activation = settings.get("nonlinearity", "tanh")
        config = {
            "model_type": "kerasllm_recurrent",
            "architectures": ["RecurrentLM"],
            "cell": name[:4].rstrip("_"),
        }
        (directory / name / "config.json").write_text(json.dumps(config | shape | {"activation": activation}))
    return directory, logits


@pytest.fixture(scope="module")
def ours(theirs, run_backend, tmp_path_factory):
    """The results of recurrent_outputs.py by backend."""
    directory = tmp_path_factory.mktemp("ours")
    for backend in BACKENDS:
        run_backend(backend, "recurrent_outputs", theirs[0], directory / f"{backend}.npz", trains=True)
    return directory


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_are_those_of_torch_nn(ours, theirs, backend):
    found = np.load(ours / f"{backend}.npz")
    for name, expected in theirs[1].items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=name)


def test_what_is_written_loads_into_torch_nn(ours, theirs):
    for name, (kind, settings) in CELLS.items():
        written = load_file(ours / "jax" / name / "model.safetensors")
        state = {key[4:]: torch.from_numpy(value) for key, value in written.items() if key.startswith("rnn.")}
        layers = kind(WIDTH, UNITS, num_layers=2, batch_first=True, **settings)
        layers.load_state_dict(state)  # raises if a name is missing or surplus
        read = load_file(theirs[0] / name / "model.safetensors")
        assert set(written) == set(read) and all((written[key] == read[key]).all() for key in read)


def test_one_curve_on_three_backends(ours):
    curves = [json.loads((ours / f"{backend}.json").read_text())["lstm"] for backend in BACKENDS]
    assert curves[0][-1] < curves[0][0] - 0.5
    for other in curves[1:]:
        np.testing.assert_allclose(other, curves[0], rtol=1e-4)
