"""What the tests of checkpoints share: weights as NumPy, and edits of the files of a saved model."""

import json

import pytest
from keras import ops
from safetensors.numpy import load_file, save_file


@pytest.fixture
def weights():
    """All variables of a model by name."""

    def of(model):
        return {name: ops.convert_to_numpy(value) for name, value in model.named_variables().items()}

    return of


@pytest.fixture
def edit_config():
    """Changes config.json; `...` removes a setting."""

    def edit(directory, **changes):
        path = directory / "config.json"
        settings = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))

    return edit


@pytest.fixture
def edit_tensors():
    """Passes the tensors through a function, from dict to dict, and writes them again."""

    def edit(directory, change):
        path = directory / "model.safetensors"
        tensors = change(load_file(path))
        path.unlink()
        save_file(tensors, path)

    return edit
