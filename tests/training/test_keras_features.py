"""What Keras' `compile` and `fit` offer, with models of ours, on each backend."""

import keras
import numpy as np
import pytest

from kerasllm import (
    BertClassifier,
    BertConfig,
    BertMaskedLM,
    BertPretraining,
    BertRegressor,
    CausalLanguageModelLoss,
    ClassificationLoss,
    GPTBackbone,
    GPTCausalLM,
    GPTConfig,
    MaskedLanguageModelLoss,
    NextSentenceLoss,
    SquaredErrorLoss,
)
from kerasllm.errors import InputError
from kerasllm.layers.heads import FinalNorm

SHAPE = {"vocabulary_size": 40, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_sequence_length": 8}
CONFIG = BertConfig(**SHAPE, dropout=0.1)
X = {"token_ids": np.random.default_rng(0).integers(5, 40, (10, 6)).astype("int32")}
Y = X["token_ids"][:, 0] % 2

pytestmark = pytest.mark.usefixtures("uncompiled")


def fitted(optimizer=None, *, cls=BertClassifier, compiled=None, **settings):
    """The losses of two epochs of two batches, and the model."""
    model = cls(CONFIG, seed=0)
    model.compile(optimizer or keras.optimizers.SGD(0.1), **(compiled or {}))
    settings = {"x": X, "y": Y, "batch_size": 5, "epochs": 2, "shuffle": False, "verbose": 0} | settings
    return model.fit(**settings).history, model


class WithoutDropout(BertClassifier):
    def call(self, inputs, training=False):
        return super().call(inputs, training=False)


@pytest.fixture(scope="module")
def plain(without_compiling):
    with without_compiling():
        return fitted()[0]["loss"]


class OwnLoss(BertClassifier):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 1.0 * super().compute_loss(x, y, y_pred, sample_weight, training)


@pytest.mark.parametrize(
    "settings",
    [
        {"cls": OwnLoss, "compiled": {"steps_per_execution": 2}},
        {
            "compiled": {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
            "sample_weight": np.ones((10, 1)),
        },
    ],
    ids=["own compute_loss, steps_per_execution", "Keras' loss, sample_weight"],
)
@pytest.mark.filterwarnings("ignore:steps_per_execution has no effect")
def test_options_that_change_nothing(plain, settings):
    np.testing.assert_allclose(fitted(**settings)[0]["loss"], plain, atol=1e-5)


def test_class_weights_are_sample_weights():
    history, model = fitted(
        keras.optimizers.SGD(0.0), cls=WithoutDropout, epochs=1, class_weight={0: 1.0, 1: 3.0}
    )
    found = model.fit(X, Y, sample_weight=np.where(Y == 1, 3.0, 1.0), batch_size=5, shuffle=False, verbose=0)
    assert history["loss"] == pytest.approx(found.history["loss"], rel=1e-6)


def test_callbacks_validation_and_the_best_file(tmp_path):
    callbacks = keras.callbacks
    ours = [
        callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        callbacks.EarlyStopping(patience=1, restore_best_weights=True),
        callbacks.ReduceLROnPlateau(patience=0),
        callbacks.CSVLogger(tmp_path / "log.csv"),
        callbacks.TerminateOnNaN(),
        callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
    ]
    optimizer = keras.optimizers.AdamW(1e-2)
    history, model = fitted(
        optimizer, validation_split=0.3, callbacks=ours, compiled={"weighted_metrics": ["accuracy"]}
    )
    assert np.isfinite(history["val_loss"]).all() and {"accuracy", "val_accuracy"} <= history.keys()
    loaded = keras.saving.load_model(tmp_path / "best.keras")
    assert isinstance(loaded.loss, ClassificationLoss)
    assert isinstance(loaded.optimizer, keras.optimizers.AdamW)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)  # of the best epoch, which EarlyStopping restored


def test_rows_of_padding_alone_in_float16():
    """Keras scales the loss by itself then."""
    keras.config.set_dtype_policy("mixed_float16")
    mask = np.ones((10, 6), "int32")
    mask[1], mask[2, 3:] = 0, 0
    optimizer = keras.optimizers.AdamW(1e-3)
    history, model = fitted(optimizer, x={**X, "padding_mask": mask}, sample_weight=mask.max(1), epochs=1)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(history["loss"]).all() and all(np.isfinite(w).all() for w in model.get_weights())


def test_seeds_repeat():
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        weights.append(BertClassifier(CONFIG).get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_model_knows_its_loss():
    gpt = GPTConfig(**SHAPE)
    for model, loss in (
        (BertRegressor(CONFIG), SquaredErrorLoss),
        (BertMaskedLM(CONFIG), {"masked_lm": MaskedLanguageModelLoss}),
        (BertPretraining(CONFIG), {"masked_lm": MaskedLanguageModelLoss, "next_sentence": NextSentenceLoss}),
        (BertPretraining(CONFIG, objectives=["next_sentence"]), {"next_sentence": NextSentenceLoss}),
        (GPTCausalLM(gpt), CausalLanguageModelLoss),
    ):
        model.compile("sgd")
        assert keras.tree.map_structure(type, model.loss) == loss
        model.compile("sgd", "mse")
        assert model.loss == "mse"
    backbone = GPTBackbone(gpt)
    backbone.compile("sgd")
    assert backbone.loss is None


class OwnStep(BertClassifier):
    """Needs no labels, or gives the parity of the first tokens, which are the labels of the tests."""

    def train_step(self, *arguments):
        *state, data = arguments
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        labels = inputs["token_ids"][:, 0] % 2
        return super().train_step(*state, (inputs, labels))


def test_a_step_of_its_own_with_the_default_loss(plain):
    np.testing.assert_allclose(fitted(cls=OwnStep)[0]["loss"], plain, atol=1e-5)
    found, _ = fitted(cls=OwnStep, y=None, epochs=1)
    assert found["loss"][0] == pytest.approx(plain[0], abs=1e-5)
    with pytest.raises(InputError, match="BertClassifier was given no labels"):
        fitted(y=None)


def test_a_model_of_several_labels_learns_them(tmp_path):
    labels = np.stack([Y, 1 - Y, np.ones_like(Y)], axis=1)
    model = BertClassifier(CONFIG, label_names=["a", "b", "c"], multi_label=True, seed=0)
    model.compile(keras.optimizers.AdamW(5e-2))
    losses = model.fit(X, labels, batch_size=5, epochs=6, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(np.log(2), abs=0.1) and losses[-1] < 0.8 * losses[0]
    model.save_pretrained(tmp_path)
    again = BertClassifier.from_pretrained(tmp_path)
    assert again.multi_label and again.label_names == ("a", "b", "c")


class NormWithLoss(FinalNorm):
    def call(self, hidden):
        self.add_loss(2.0 * keras.ops.mean(keras.ops.square(self.norm_scale)))
        return super().call(hidden)


@pytest.mark.filterwarnings(
    "ignore:Gradients do not exist"
)  # of the layer that was replaced, which torch keeps
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # by Keras' own train_on_batch
def test_a_loss_that_projects_leaves_out_no_other():
    """A regularizer, add_loss of a layer and loss_weights count, however the loss is computed."""
    tokens, found = X["token_ids"], []
    for chunk_size in (None, 0):
        model = GPTCausalLM(GPTConfig(**SHAPE, dropout=0.0), seed=0)
        table = model.backbone.embeddings.token
        table.regularizer = keras.regularizers.L2(1.0)
        del model.backbone.final_norm
        model.backbone.final_norm = NormWithLoss(normalization="layer_norm", name="final_norm")
        model.backbone.final_norm.build((None, None, 8))
        loss = CausalLanguageModelLoss(chunk_size=chunk_size)
        others = 2.0 + float(np.square(keras.ops.convert_to_numpy(table)).sum())
        expected = 0.5 * float(keras.ops.convert_to_numpy(loss(tokens, model(X)))) + others
        model.compile(keras.optimizers.SGD(0.1), loss=loss, loss_weights=0.5)
        found.append([float(model.train_on_batch(X, tokens)), float(model.train_on_batch(X, tokens))])
        assert found[-1][0] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(*found, atol=1e-5)
