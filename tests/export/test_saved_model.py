"""SavedModels of each kind of model, read back by Keras on TensorFlow."""

from importlib.util import find_spec

import keras
import pytest

import kerasllm
from kerasllm.errors import InputError
from kerasllm.export.saved_model import write_saved_model

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="TensorFlow writes SavedModels, see the refusal of the others",
)
SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 64}


@needs_tensorflow
@pytest.mark.parametrize("kind", ["gpt2", "llama", "classifier", "seq2seq"])
def test_results_are_the_models(kind, make_gpt, with_weights, wordpiece, byte_level_bpe, tmp_path):
    if kind == "classifier":
        config = kerasllm.BertConfig(vocabulary_size=150, **SIZES)
        model = with_weights(kerasllm.BertClassifier(config, num_classes=3))
    elif kind == "seq2seq":
        model = with_weights(kerasllm.Seq2SeqLM(kerasllm.Seq2SeqConfig(vocabulary_size=301, **SIZES)))
    else:
        model = make_gpt(kind, num_layers=1)
    tokenizer = wordpiece if kind == "classifier" else byte_level_bpe
    report = write_saved_model(model, tokenizer, tmp_path)
    assert report["comparison"]["greatest_difference"] < 1e-5
    weights = 4 * model.count_params()  # bytes, which are there once
    (file,) = tmp_path.rglob("variables.data*")
    assert weights < file.stat().st_size < 1.3 * weights + 5000
    if kind == "classifier" and find_spec("tensorflow_text"):
        assert not report["notes"] and report["texts"]["greatest_difference"] < 1e-5
    else:
        (note,) = report["notes"]
        assert note.startswith("the SavedModel takes tokens and no texts")


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow writes it")
def test_other_backends_say_what_to_do(make_gpt, byte_level_bpe, tmp_path):
    with pytest.raises(InputError, match="run with KERAS_BACKEND=tensorflow"):
        write_saved_model(make_gpt(), byte_level_bpe, tmp_path)
