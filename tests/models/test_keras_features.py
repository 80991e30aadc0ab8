"""What Keras' users do with a model: functional models, .keras files, copies, precision, export."""

import copy
import warnings

import keras
import numpy as np
import pytest

from kerasllm import (
    BertBackbone,
    BertClassifier,
    BertConfig,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
    GPTBackbone,
    GPTCausalLM,
    GPTConfig,
)
from kerasllm.errors import InputError

SIZES = {"vocabulary_size": 40, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_sequence_length": 12}
BERT, GPT = BertConfig(**SIZES, dropout=0.2), GPTConfig(**SIZES, dropout=0.2)
ROTARY = GPTConfig(**SIZES, positions="rotary", normalization="rms_norm", feed_forward="gated")
MODELS = {
    "BertBackbone": lambda **more: BertBackbone(BERT, seed=3, **more),
    "BertPretraining": lambda **more: BertPretraining(BERT, seed=3, **more),
    "BertMaskedLM": lambda **more: BertMaskedLM(BERT, seed=3, **more),
    "BertClassifier": lambda **more: BertClassifier(BERT, num_classes=3, seed=3, **more),
    "BertRegressor": lambda **more: BertRegressor(BERT, seed=3, **more),
    "GPTBackbone": lambda **more: GPTBackbone(GPT, seed=3, **more),
    "GPTCausalLM": lambda **more: GPTCausalLM(GPT, seed=3, **more),
    "rotary": lambda **more: GPTCausalLM(ROTARY, seed=3, **more),
}


def batch(rows=4, length=6):
    token_ids = np.random.default_rng(rows * length).integers(5, 40, (rows, length), dtype="int32")
    padding_mask = np.ones((rows, length), "int32")
    padding_mask[0, -2:] = 0
    return {"token_ids": token_ids, "padding_mask": padding_mask}


def values(outputs):
    if isinstance(outputs, dict):
        outputs = [outputs[name] for name in sorted(outputs)]
    return [
        keras.ops.convert_to_numpy(keras.ops.cast(each, "float32")) for each in keras.tree.flatten(outputs)
    ]


def symbols(length):
    return {name: keras.Input((length,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}


class Wrapped(keras.Model):
    """A model of a user's own, without `compute_output_shape`, which Keras traces."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)


def shapes(outputs):
    """Returns the type and the shape of each output by name; an unknown number of rows is 3, and of tokens 6."""
    outputs = outputs if isinstance(outputs, dict) else {"": outputs}
    return {
        name: (
            keras.backend.standardize_dtype(each.dtype),
            [known or (6 if axis else 3) for axis, known in enumerate(each.shape)],
        )
        for name, each in outputs.items()
    }


@pytest.mark.parametrize("length", [None, 6])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_symbolic_outputs_are_as_real_ones(name, length, policy):
    """PyTorch's are tried with 83 tokens, more than the model has positions."""
    model = MODELS[name](dtype=policy)
    expected = shapes(model(batch(3, 6)))
    assert shapes(model(symbols(length))) == shapes(Wrapped(model)(symbols(length))) == expected


def test_functional_models_are_trained_saved_and_loaded(tmp_path, uncompiled):
    inputs, labels = batch(), np.array([0, 1, 0, 1])
    for make in (lambda: BertBackbone(BERT, pooler=False, seed=3), MODELS["GPTBackbone"]):
        symbolic = symbols(None)
        first = make()(symbolic)["sequence_output"][:, 0]
        model = keras.Model(symbolic, keras.layers.Dense(2)(first))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        assert np.isfinite(model.fit(inputs, labels, verbose=0).history["loss"]).all()
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        for others in (inputs, batch(2, 9)):
            np.testing.assert_array_equal(again.predict(others, verbose=0), model.predict(others, verbose=0))


def test_float_ids_are_exact_in_bfloat16():
    model = BertBackbone(BertConfig(**SIZES | {"vocabulary_size": 400}), dtype="mixed_bfloat16")
    for called in (model, lambda inputs: model.embeddings(inputs["token_ids"])):
        rows = np.array([[257, 259, 399]])
        floats, ids = ({"token_ids": rows.astype(kind)} for kind in ("float32", "int32"))
        for one, other in zip(values(called(floats)), values(called(ids)), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", MODELS)
def test_too_long_a_sequence_is_refused(name):
    with pytest.raises(ValueError, match="13 tokens long"):
        MODELS[name]()(batch(1, 13))


def compiled(model):
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def one_more_epoch(model):
    inputs, labels = batch(), np.array([0, 1, 2, 0])
    return model.fit(inputs, labels, batch_size=2, verbose=0, shuffle=False).history["loss"]


FREEZES = {
    "encoder": lambda model: setattr(model.backbone, "trainable", False),
    "block": lambda model: setattr(model.backbone.blocks[0], "trainable", False),
}


@pytest.mark.parametrize("part", FREEZES)
def test_a_loaded_model_goes_on_as_if_it_had_not_been_saved(part, tmp_path, uncompiled):
    """With dropout, whose calls are counted on."""
    model = MODELS["BertClassifier"](name="mine", backbone=BertBackbone(BERT, seed=5, name="encoder"))
    FREEZES[part](model)
    one_more_epoch(compiled(model))
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = [keras.saving.load_model(tmp_path / "model.keras") for _ in range(2)]
    expected = one_more_epoch(model)
    for again in loaded:
        assert (again.name, again.backbone.name, again.seed, again.backbone.seed) == ("mine", "encoder", 3, 5)
        assert len(again.trainable_variables) == len(model.trainable_variables)
        assert one_more_epoch(again) == expected


def test_what_was_frozen_or_unfrozen_stays_so(tmp_path):
    whole = MODELS["GPTCausalLM"]()
    whole.trainable = False
    adapted = MODELS["GPTCausalLM"](lora_rank=2)
    adapted.backbone.embeddings.trainable = True
    for model in (whole, adapted):
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        names = [[weight.path for weight in each.trainable_variables] for each in (again, model)]
        assert names[0] == names[1]
        assert again.get_config() == model.get_config()


@pytest.mark.parametrize(
    "make_copy",
    [
        keras.models.clone_model,
        copy.deepcopy,
        lambda model: type(model).from_config(model.get_config()),
    ],
)
def test_copies_are_alike(make_copy, tmp_path):
    for name in ("BertPretraining", "BertMaskedLM", "GPTCausalLM"):
        model = MODELS[name](dtype="mixed_bfloat16")
        model.save_weights(tmp_path / "model.weights.h5")
        again = make_copy(model)
        again.load_weights(tmp_path / "model.weights.h5")
        assert again.get_config() == model.get_config()
        assert {layer.compute_dtype for layer in again._flatten_layers()} == {"bfloat16"}
        for one, other in zip(values(again(batch())), values(model(batch())), strict=True):
            np.testing.assert_array_equal(one, other)


def test_precision_is_chosen_for_one_model_and_kept(tmp_path):
    MODELS["BertClassifier"]().save_pretrained(tmp_path / "plain")
    model = BertClassifier.from_pretrained(tmp_path / "plain", dtype=keras.DTypePolicy("mixed_bfloat16"))
    assert model.classifier.compute_dtype == model.backbone.blocks[0].compute_dtype == "bfloat16"
    assert BertRegressor(BERT, backbone=model.backbone).regressor.compute_dtype == "bfloat16"
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(values(again(batch())), values(model(batch())))


def test_a_backbone_of_more_parts_is_saved_with_the_task(tmp_path):
    model = BertMaskedLM(BERT, backbone=BertBackbone(BERT, pooler=True))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(values(again(batch())), values(model(batch())))


def test_summary_shows_shapes(capsys):
    for make in MODELS.values():
        make().summary()
    assert "?" not in capsys.readouterr().out


def test_what_has_no_quantized_form_says_so():
    with pytest.raises(InputError, match="no quantized form"):
        MODELS["GPTCausalLM"]().quantize("int8")


def test_a_model_that_was_not_called_is_not_exported_without_a_signature(tmp_path):
    with pytest.raises(InputError, match="give input_signature"):
        MODELS["GPTCausalLM"]().export(tmp_path / "model", verbose=False)


def test_onnx_is_written_from_the_weights(tmp_path):
    model = MODELS["BertClassifier"]()
    model.predict(batch(), verbose=0)
    with pytest.raises(InputError, match="kerasllm export --model DIRECTORY --format onnx"):
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)


@pytest.mark.parametrize("name", ["BertClassifier", "GPTCausalLM"])
def test_exported_models_serve_any_length(name, tmp_path):
    model = MODELS[name]()
    model.predict(batch(), verbose=0)
    if keras.backend.backend() == "torch":
        with pytest.raises(InputError, match="export it with KERAS_BACKEND=tensorflow"):
            model.export(tmp_path / "model", verbose=False)
        return
    tensorflow = pytest.importorskip("tensorflow", reason="Keras writes a SavedModel with TensorFlow")
    model.export(tmp_path / "model", verbose=False)
    served = tensorflow.saved_model.load(str(tmp_path / "model"))
    for inputs in (batch(), batch(2, 9), batch(1, 12)):
        np.testing.assert_allclose(served.serve(inputs), values(model(inputs))[0], atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only of JAX, another framework runs the export")
def test_what_was_exported_and_cannot_be_run_is_told(tmp_path, monkeypatch):
    """TensorFlow may be older than JAX, and not know its operations."""
    tensorflow = pytest.importorskip("tensorflow", reason="Keras writes a SavedModel with TensorFlow")

    def load(path):
        raise tensorflow.errors.InvalidArgumentError(None, None, "unregistered operation")

    monkeypatch.setattr(tensorflow.saved_model, "load", load)
    model = MODELS["GPTCausalLM"]()
    model.predict(batch(), verbose=0)
    with pytest.raises(InputError, match=r"cannot run what JAX .* wrote \(InvalidArgumentError\): install"):
        model.export(tmp_path / "model", verbose=False)
