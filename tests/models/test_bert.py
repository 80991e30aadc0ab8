"""BERT's models as their users meet them: configs, plain `fit` on every kind of data, saving, seeds."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

import kerasllm
from kerasllm import (
    BertBackbone,
    BertClassifier,
    BertConfig,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
    MaskedLanguageModelAccuracy,
    MaskedLanguageModelLoss,
    NextSentenceAccuracy,
    NextSentenceLoss,
)

CONFIG = BertConfig(
    vocabulary_size=60, num_layers=2, num_heads=2, hidden_dim=16, max_sequence_length=24, dropout=0.0
)


def inputs(rows=8, length=12, slots=3):
    draw = np.random.default_rng(0)
    return {
        "token_ids": draw.integers(5, 60, (rows, length)).astype("int32"),
        "segment_ids": np.tile((np.arange(length) > 5).astype("int32"), (rows, 1)),
        "padding_mask": np.tile((np.arange(length) < 10).astype("int32"), (rows, 1)),
        "masked_positions": np.sort(draw.integers(1, 10, (rows, slots)), axis=1).astype("int32"),
    }


def labels(rows=8, slots=3):
    draw = np.random.default_rng(1)
    return {
        "masked_lm": draw.integers(5, 60, (rows, slots)).astype("int32"),
        "next_sentence": draw.integers(0, 2, rows).astype("int32"),
    }


def weights(rows=8, slots=3):
    masked = np.ones((rows, slots), "float32")
    masked[:, -1] = 0
    return {"masked_lm": masked, "next_sentence": np.ones(rows, "float32")}


def compiled(model, optimizer=None, **settings):
    model.compile(
        optimizer=optimizer or keras.optimizers.AdamW(5e-3),
        loss={"masked_lm": MaskedLanguageModelLoss(), "next_sentence": NextSentenceLoss()},
        weighted_metrics={
            "masked_lm": [MaskedLanguageModelAccuracy()],
            "next_sentence": [NextSentenceAccuracy()],
        },
        **settings,
    )
    return model


def test_sizes_are_those_of_the_papers():
    """Turc et al. 2019, table 1, and Devlin et al. 2019: millions of parameters, without heads."""
    published = {"tiny": 4.4, "mini": 11.3, "small": 29.1, "medium": 41.7, "base": 110.1, "large": 335.1}
    for size, millions in published.items():
        config = BertConfig.from_size(size)
        width, wide = config.hidden_dim, config.intermediate_dim
        block = 4 * width * (width + 1) + 2 * width * wide + wide + width + 4 * width
        count = (30522 + 512 + 2 + 2) * width + config.num_layers * block + width * (width + 1)
        assert abs(count / 1e6 - millions) < 0.8, size
    model = BertBackbone(BertConfig.from_size("tiny"))
    assert model.count_params() == 4_385_920


def test_config_is_checked_and_frozen():
    assert BertConfig(hidden_dim=128, num_heads=2).intermediate_dim == 512
    with pytest.raises(ValueError, match="hidden_dim 100 does not divide by num_heads 3"):
        BertConfig(hidden_dim=100, num_heads=3)
    with pytest.raises(ValueError, match="choose one of tiny, mini"):
        BertConfig.from_size("huge")
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.num_layers = 3


@pytest.mark.parametrize("cls", [BertBackbone, BertPretraining, BertMaskedLM, BertClassifier, BertRegressor])
def test_config_round_trip_and_keras_file(cls, tmp_path):
    model = cls(CONFIG, seed=1)
    again = cls.from_config(model.get_config())
    assert again.config == model.config and again.get_config() == model.get_config()
    expected = model(inputs())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is cls
    for ours, theirs in zip(keras.tree.flatten(expected), keras.tree.flatten(loaded(inputs())), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs), atol=1e-6)


def test_settings_of_the_tasks_survive():
    assert BertClassifier.from_config(BertClassifier(CONFIG, num_classes=5).get_config()).num_classes == 5
    model = BertPretraining.from_config(BertPretraining(CONFIG, objectives=("masked_lm",)).get_config())
    assert model.objectives == ("masked_lm",) and set(model(inputs())) == {"masked_lm"}


def test_segments_and_padding_may_be_left_out():
    model = BertBackbone(CONFIG)
    full = inputs()
    full["segment_ids"][:] = 0
    full["padding_mask"][:] = 1
    bare = model({"token_ids": full["token_ids"]})
    for name, value in model(full).items():
        np.testing.assert_allclose(ops.convert_to_numpy(value), ops.convert_to_numpy(bare[name]), atol=1e-6)


def test_one_seed_gives_one_model_and_another_seed_another():
    first, second, third = (
        BertPretraining(CONFIG, seed=7),
        BertPretraining(CONFIG, seed=7),
        BertPretraining(CONFIG, seed=8),
    )
    values = [
        {k: ops.convert_to_numpy(v) for k, v in m.named_variables().items()} for m in (first, second, third)
    ]
    for name in values[0]:
        np.testing.assert_array_equal(values[0][name], values[1][name])
    assert (values[0]["block_0/output_kernel"] != values[2]["block_0/output_kernel"]).any()
    # The same on every backend, for all time: drawn by NumPy's Philox.
    assert abs(float(np.abs(values[0]["embeddings/token"]).sum()) - 14.3) < 1.0
    keras.utils.set_random_seed(3)
    fourth = BertBackbone(CONFIG)
    keras.utils.set_random_seed(3)
    fifth = BertBackbone(CONFIG)
    np.testing.assert_array_equal(*(ops.convert_to_numpy(m.embeddings.token) for m in (fourth, fifth)))


def kinds_of_data(kind):
    x, y, w = inputs(), labels(), weights()
    if kind == "numpy":
        return {"x": x, "y": y, "sample_weight": w, "batch_size": 4}

    def batch(index):
        rows = slice(4 * index, 4 * index + 4)
        return tuple({key: value[rows] for key, value in part.items()} for part in (x, y, w))

    if kind == "pydataset":

        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return 2

            def __getitem__(self, index):
                return batch(index)

        return {"x": Batches()}
    if kind == "tf.data":
        tensorflow = pytest.importorskip("tensorflow", reason="tensorflow is not in this environment")
        return {"x": tensorflow.data.Dataset.from_tensor_slices((x, y, w)).batch(4)}
    torch = pytest.importorskip("torch", reason="torch is not in this environment")

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return tuple({key: value[index] for key, value in part.items()} for part in (x, y, w))

    return {"x": torch.utils.data.DataLoader(Rows(), batch_size=4)}


@pytest.mark.parametrize("kind", ["numpy", "pydataset", "tf.data", "torch"])
def test_plain_fit_takes_every_kind_of_data(kind):
    # On TensorFlow, XLA takes most of the time, and tests/parity/test_fit_inputs.py has it for every kind.
    plain = keras.backend.backend() == "tensorflow" and kind != "numpy"
    model = compiled(BertPretraining(CONFIG, seed=0), **({"jit_compile": False} if plain else {}))
    data = kinds_of_data(kind)
    history = model.fit(**data, shuffle=False, epochs=30, verbose=0).history
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert set(history) >= {"loss", "masked_lm_loss", "next_sentence_loss"}
    result = model.evaluate(**data, verbose=0, return_dict=True)
    assert result["loss"] < history["loss"][0]


def test_masked_lm_alone_takes_arrays_and_dicts():
    x, y, w = inputs(), labels()["masked_lm"], weights()["masked_lm"]
    model = BertMaskedLM(CONFIG, seed=0)
    model.compile("adam", loss={"masked_lm": MaskedLanguageModelLoss()})
    first = model.evaluate(x, {"masked_lm": y}, sample_weight={"masked_lm": w}, verbose=0)
    model.compile("adam", loss=MaskedLanguageModelLoss())
    second = model.evaluate(x, y, sample_weight=w, verbose=0)
    assert first == pytest.approx(second, rel=1e-6)
    model.fit(x, y, sample_weight=w, verbose=0)


def test_classifier_and_regressor_learn():
    x = inputs(rows=32)
    x.pop("masked_positions")
    classes = (x["token_ids"][:, 1] > 30).astype("int32")
    classifier = BertClassifier(CONFIG, num_classes=2, seed=0)
    classifier.compile(
        keras.optimizers.AdamW(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = classifier.fit(x, classes, batch_size=8, epochs=25, verbose=0).history
    assert history["accuracy"][-1] > 0.95
    assert classifier.predict(x, verbose=0).shape == (32, 2)
    regressor = BertRegressor(CONFIG, seed=0)
    regressor.compile(keras.optimizers.AdamW(3e-3), keras.losses.MeanSquaredError())
    history = regressor.fit(x, classes.astype("float32"), batch_size=8, epochs=25, verbose=0).history
    assert history["loss"][-1] < 0.1 * history["loss"][0]
    assert regressor.predict(x, verbose=0).shape == (32,)


def test_lengths_may_differ_from_batch_to_batch():
    """TensorFlow then no longer knows them while it traces; elsewhere each has a program of its own."""
    classifier, pretraining = BertClassifier(CONFIG, seed=0), BertPretraining(CONFIG, seed=0)
    for length in (8, 10, 12) if keras.backend.backend() == "tensorflow" else (8, 12):
        given = inputs()
        short = {name: array[:, :length] for name, array in given.items() if name != "masked_positions"}
        whole = classifier(short)
        np.testing.assert_allclose(classifier.predict_on_batch(short), ops.convert_to_numpy(whole), atol=1e-5)
        short["masked_positions"] = np.minimum(given["masked_positions"], length - 1)
        found, whole = pretraining.predict_on_batch(short), pretraining(short)
        for name in whole:
            np.testing.assert_allclose(found[name], ops.convert_to_numpy(whole[name]), atol=1e-5)


def test_new_heads_on_a_trained_backbone():
    pretrained = BertPretraining(CONFIG, seed=0)
    classifier = BertClassifier(CONFIG, num_classes=3, backbone=pretrained.backbone)
    assert classifier.backbone.embeddings.token is pretrained.backbone.embeddings.token
    with pytest.raises(ValueError, match="without a pooler"):
        BertClassifier(CONFIG, backbone=BertMaskedLM(CONFIG).backbone)


def test_per_step_metrics_are_those_of_the_batch():
    class Logs(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.seen = []

        def on_train_batch_end(self, batch, logs=None):
            self.seen.append({name: float(value) for name, value in logs.items()})

    x, y, w = inputs(), labels(), weights()
    seen = {}
    for per_step, eagerly in ((False, False), (True, False), (True, True)):
        # SGD has few operations, of which each is a program where a step is not compiled.
        model = compiled(BertPretraining(CONFIG, seed=0), keras.optimizers.SGD(0.1))
        model.per_step_metrics, model.run_eagerly = per_step, eagerly
        recorder = Logs()
        model.fit(x, y, sample_weight=w, batch_size=2, shuffle=False, verbose=0, callbacks=[recorder])
        names = sorted(recorder.seen[0])
        seen[per_step, eagerly] = np.array([[logs[name] for name in names] for logs in recorder.seen])
    assert {"loss", "masked_lm_accuracy", "masked_lm_loss", "next_sentence_loss"} <= set(names)
    np.testing.assert_allclose(seen[True, False], seen[True, True], rtol=1e-4)  # a graph's, too, step by step
    losses = seen[True, False][:, names.index("loss")]
    running = np.cumsum(losses) / np.arange(1, 5)
    np.testing.assert_allclose(seen[False, False][:, names.index("loss")], running, rtol=1e-5)
    assert not np.allclose(losses[1:], running[1:], rtol=1e-5)


def test_mixed_bfloat16_is_close_and_keeps_float32_weights():
    expected = BertPretraining(CONFIG, seed=0)(inputs())
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = compiled(BertPretraining(CONFIG, seed=0))
        outputs = model(inputs())
        assert {keras.backend.standardize_dtype(value.dtype) for value in outputs.values()} == {"bfloat16"}
        assert {variable.dtype for variable in model.named_variables().values()} == {"float32"}
        for name, value in outputs.items():
            near = ops.convert_to_numpy(ops.cast(value, "float32"))
            np.testing.assert_allclose(near, ops.convert_to_numpy(expected[name]), atol=0.05)
        history = model.fit(inputs(), labels(), sample_weight=weights(), epochs=20, verbose=0).history
        assert history["loss"][-1] < history["loss"][0]
    finally:
        keras.config.set_dtype_policy("float32")


def test_public_names():
    for name in kerasllm.__all__:
        assert hasattr(kerasllm, name)


def test_adapters_learn_beside_the_head_and_merge(tmp_path):
    config = BertConfig(
        vocabulary_size=30,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        max_sequence_length=12,
        dropout=0,
        initializer_range=0.5,
    )
    plain = BertClassifier(config, seed=1)
    model = BertClassifier(config, lora_rank=2, seed=1)
    x = {"token_ids": np.random.default_rng(0).integers(5, 30, (8, 6)).astype("int32")}
    start = ops.convert_to_numpy(plain(x))
    np.testing.assert_allclose(ops.convert_to_numpy(model(x)), start, atol=1e-6)  # b is zero at first
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss=loss, run_eagerly=keras.backend.backend() == "tensorflow")
    before = {name: ops.convert_to_numpy(value).copy() for name, value in model.named_variables().items()}
    losses = [model.train_on_batch(x, np.arange(8) % 2) for _ in range(5)]
    assert losses[-1] < losses[0]
    after = {name: ops.convert_to_numpy(value) for name, value in model.named_variables().items()}
    moved = {name for name, value in after.items() if np.abs(value - before[name]).max() > 0}
    layers = {name.partition("/")[0] for name in moved if "lora" not in name}
    assert layers == {"classifier", "pooler"}
    assert sum("lora" in name for name in moved) == 2 * 4
    model.save_pretrained(tmp_path)
    merged = BertClassifier.from_pretrained(tmp_path)
    assert not any("lora" in name for name in merged.named_variables())
    np.testing.assert_allclose(ops.convert_to_numpy(merged(x)), ops.convert_to_numpy(model(x)), atol=1e-5)
    assert BertClassifier.from_config(model.get_config()).backbone.lora_rank == 2


def test_adapters_leave_the_masked_lm_head_alone():
    config = BertConfig(vocabulary_size=30, num_layers=1, num_heads=2, hidden_dim=8, max_sequence_length=12)
    names = [variable.path for variable in BertMaskedLM(config, lora_rank=2).trainable_variables]
    assert len(names) == 8 and all("lora" in name for name in names)
    with pytest.raises(ValueError, match="lora_rank is -1"):
        BertPretraining(config, lora_rank=-1)
