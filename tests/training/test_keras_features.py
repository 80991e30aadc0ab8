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
    GPTBackbone,
    GPTCausalLM,
    GPTConfig,
    MaskedLanguageModelLoss,
    NextSentenceLoss,
    SquaredErrorLoss,
)
from kerasllm.layers.heads import FinalNorm

SHAPE = {"vocabulary_size": 40, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_sequence_length": 8}
CONFIG = BertConfig(**SHAPE, dropout=0.1)
X = {"token_ids": np.random.default_rng(0).integers(5, 40, (10, 6)).astype("int32")}
Y = X["token_ids"][:, 0] % 2

pytestmark = pytest.mark.usefixtures("uncompiled")


def fitted(optimizer=None, *, cls=BertClassifier, compiled=None, **settings):
    """The losses of two epochs of three batches, the last of two rows, and the model."""
    model = cls(CONFIG, seed=0)
    model.compile(optimizer or keras.optimizers.SGD(0.1), **(compiled or {}))
    settings = {"x": X, "y": Y, "batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0} | settings
    return model.fit(**settings).history, model


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
        {"compiled": {"run_eagerly": True}},
        {"compiled": {"steps_per_execution": 2}},
        {"compiled": {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}},
        {"cls": OwnLoss},
        {"class_weight": {0: 1.0, 1: 1.0}},
        {"sample_weight": np.full((10, 1), 2.0)},
    ],
    ids=[
        "eagerly",
        "steps_per_execution",
        "Keras' loss",
        "own compute_loss",
        "class_weight",
        "sample_weight",
    ],
)
@pytest.mark.filterwarnings("ignore:steps_per_execution has no effect")
def test_options_that_change_nothing(plain, settings):
    np.testing.assert_allclose(fitted(**settings)[0]["loss"], plain, atol=1e-5)


def test_class_weights_are_sample_weights():
    weighted = fitted(class_weight={0: 1.0, 1: 3.0})[0]["loss"]
    np.testing.assert_allclose(
        weighted, fitted(sample_weight=np.where(Y == 1, 3.0, 1.0))[0]["loss"], atol=1e-6
    )


def test_callbacks_validation_and_the_best_file(tmp_path):
    callbacks = keras.callbacks
    ours = [
        callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        callbacks.EarlyStopping(patience=1, restore_best_weights=True),
        callbacks.ReduceLROnPlateau(patience=0),
        callbacks.CSVLogger(tmp_path / "log.csv"),
        callbacks.TerminateOnNaN(),
        callbacks.SwapEMAWeights(),
        callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
    ]
    optimizer = keras.optimizers.AdamW(1e-2, use_ema=True)
    history, model = fitted(
        optimizer, validation_split=0.3, callbacks=ours, compiled={"weighted_metrics": ["accuracy"]}
    )
    assert np.isfinite(history["val_loss"]).all() and {"accuracy", "val_accuracy"} <= history.keys()
    loaded = keras.saving.load_model(tmp_path / "best.keras")
    assert type(loaded.loss) is type(model.loss) and loaded.optimizer.name == "adamw"
    if len(history["val_loss"]) == 2 and history["val_loss"][1] < history["val_loss"][0]:
        np.testing.assert_allclose(loaded.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_rows_of_padding_alone_are_finite(policy):
    """In float16 with loss scaling, which Keras adds by itself."""
    keras.config.set_dtype_policy(policy)
    mask = np.ones((10, 6), "int32")
    mask[1], mask[2, 3:] = 0, 0
    history, model = fitted(
        keras.optimizers.AdamW(1e-3), x={**X, "padding_mask": mask}, sample_weight=mask.max(1), epochs=1
    )
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(model.predict({**X, "padding_mask": mask}, verbose=0).astype("float32")).all()
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")


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
        def train_step(self, *arguments):
            return super().train_step(*arguments)

    own = OwnStep(CONFIG)
    own.compile("sgd")
    assert own.loss is None


def test_a_model_of_several_labels_learns_them(tmp_path):
    labels = np.stack([Y, 1 - Y, np.ones_like(Y)], axis=1)
    model = BertClassifier(CONFIG, label_names=["a", "b", "c"], multi_label=True, seed=0)
    model.compile(keras.optimizers.AdamW(5e-2))
    losses = model.fit(X, labels, batch_size=5, epochs=6, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(np.log(2), abs=0.1) and losses[-1] < 0.8 * losses[0]
    model.save_pretrained(tmp_path)
    again = BertClassifier.from_pretrained(tmp_path)
    assert again.multi_label and again.label_names == ("a", "b", "c")
    np.testing.assert_allclose(again.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-6)


class NormWithLoss(FinalNorm):
    def call(self, hidden):
        self.add_loss(2.0 * keras.ops.mean(keras.ops.square(self.norm_scale)))
        return super().call(hidden)


def causal(kind, chunk_size):
    model = GPTCausalLM(GPTConfig(**SHAPE, dropout=0.0), seed=0)
    if kind == "a regularizer":
        model.backbone.embeddings.token.regularizer = keras.regularizers.L2(1.0)
    if kind == "add_loss":
        model.backbone.final_norm = NormWithLoss(name="final_norm")
        model.backbone.final_norm.build((None, None, 8))
    weights = {"loss_weights": 0.5} if kind == "loss_weights" else {}
    model.compile(keras.optimizers.SGD(0.1), loss=CausalLanguageModelLoss(chunk_size=chunk_size), **weights)
    return model


@pytest.mark.parametrize("kind", ["a regularizer", "add_loss", "loss_weights"])
def test_a_loss_that_projects_leaves_out_no_other(kind):
    tokens = X["token_ids"]
    found = []
    for chunk_size in (None, 0):
        model = causal(kind, chunk_size)
        losses = [float(model.train_on_batch(X, tokens)), float(model.test_on_batch(X, tokens))]
        found.append(losses)
    np.testing.assert_allclose(*found, atol=1e-5)
    plain = float(causal("", None).test_on_batch(X, tokens))
    assert abs(found[0][0] - plain) > 0.1  # the other loss counts
