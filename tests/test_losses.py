"""Losses and metrics against NumPy in float64, and accumulation against the big batch."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm import (
    CausalLanguageModelLoss,
    ClassificationLoss,
    MaskedLanguageModelAccuracy,
    MaskedLanguageModelLoss,
    MultiLabelLoss,
    NextSentenceAccuracy,
    NextSentenceLoss,
    Perplexity,
    SquaredErrorLoss,
)


def example(rows=6, slots=4, classes=11, scale=3.0):
    draw = np.random.default_rng(0)
    logits = draw.normal(0, scale, (rows, slots, classes)).astype("float32")
    labels = draw.integers(0, classes, (rows, slots)).astype("int32")
    weights = (draw.random((rows, slots)) < 0.6).astype("float32")
    return labels, logits, weights


def numpy_losses(labels, logits, smoothing=0.0):
    logits = logits.astype("float64")
    log_probabilities = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    log_probabilities -= logits.max(-1, keepdims=True)
    target = np.eye(logits.shape[-1])[labels] * (1 - smoothing) + smoothing / logits.shape[-1]
    return -(target * log_probabilities).sum(-1)


def value(tensor):
    return float(ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_masked_lm_loss_is_the_mean_over_the_real_slots(smoothing):
    labels, logits, weights = example()
    expected = (numpy_losses(labels, logits, smoothing) * weights).sum() / weights.sum()
    loss = MaskedLanguageModelLoss(label_smoothing=smoothing)
    assert value(loss(labels, logits, weights)) == pytest.approx(expected, rel=1e-5)
    again = MaskedLanguageModelLoss.from_config(loss.get_config())
    assert value(again(labels, logits, weights)) == pytest.approx(expected, rel=1e-5)


def test_next_sentence_loss_with_and_without_weights():
    labels, logits, _ = example(classes=2)
    labels, logits = labels[:, 0], logits[:, 0]
    losses = numpy_losses(labels, logits)
    assert value(NextSentenceLoss()(labels, logits)) == pytest.approx(losses.mean(), rel=1e-5)
    weights = np.array([1, 1, 0, 0, 0, 1], "float32")
    assert value(NextSentenceLoss()(labels, logits, weights)) == pytest.approx(
        losses[[0, 1, 5]].mean(), rel=1e-5
    )


def test_nothing_in_an_unused_slot_matters():
    labels, logits, weights = example()
    expected = value(MaskedLanguageModelLoss()(labels, logits, weights))
    logits[weights == 0] = np.nan
    assert value(MaskedLanguageModelLoss()(labels, logits, weights)) == expected
    assert value(MaskedLanguageModelLoss()(labels, logits, np.zeros_like(weights))) == 0


def test_large_logits_and_bfloat16_are_safe():
    labels = np.array([[0, 1]], "int32")
    logits = np.array([[[3e4, -3e4, 0], [3e4, -3e4, 0]]], "float32")
    assert value(MaskedLanguageModelLoss()(labels, logits)) == pytest.approx(3e4, rel=1e-3)
    labels, logits, weights = example(classes=4000, scale=1.0)
    half = ops.cast(ops.convert_to_tensor(logits), "bfloat16")
    exact = (
        numpy_losses(labels, ops.convert_to_numpy(ops.cast(half, "float32"))) * weights
    ).sum() / weights.sum()
    assert value(MaskedLanguageModelLoss()(labels, half, weights)) == pytest.approx(exact, rel=1e-5)


def test_bad_label_smoothing_is_refused():
    with pytest.raises(ValueError, match=r"label_smoothing is 1\.5"):
        MaskedLanguageModelLoss(label_smoothing=1.5)


def linear_model(reduction, accumulation):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.Dense(11, kernel_initializer="zeros")])
    model.compile(
        keras.optimizers.SGD(1.0, gradient_accumulation_steps=accumulation if accumulation > 1 else None),
        loss=MaskedLanguageModelLoss(reduction=reduction),
    )
    return model


def test_accumulation_equals_the_big_batch():
    """Micro-batches with very unequal numbers of real slots; weights scaled as the module's text says."""
    labels, _, weights = example(rows=8)
    weights[:2], weights[2:4] = 0, 1
    weights[1, 0] = 1
    inputs = np.random.default_rng(1).normal(size=(8, 4, 3)).astype("float32")
    big = linear_model("mean_with_sample_weight", 1)
    big.fit(inputs, labels, sample_weight=weights, batch_size=8, shuffle=False, verbose=0)
    small = linear_model("sum", 4)
    scaled = weights * 4 / weights.sum()
    small.fit(inputs, labels, sample_weight=scaled, batch_size=2, shuffle=False, verbose=0)
    naive = linear_model("mean_with_sample_weight", 4)
    naive.fit(inputs, labels, sample_weight=weights, batch_size=2, shuffle=False, verbose=0)
    kernels = [ops.convert_to_numpy(model.weights[0]) for model in (big, small, naive)]
    np.testing.assert_allclose(kernels[0], kernels[1], atol=1e-6)
    assert np.abs(kernels[0] - kernels[2]).max() > 0.05  # the trap is real


def test_metrics_against_numpy_over_two_batches():
    labels, logits, weights = example()
    hits = logits.argmax(-1) == labels
    accuracy, perplexity = MaskedLanguageModelAccuracy(), Perplexity()
    for rows in (slice(0, 2), slice(2, 6)):
        accuracy.update_state(labels[rows], logits[rows], weights[rows])
        perplexity.update_state(labels[rows], logits[rows], weights[rows])
    assert value(accuracy.result()) == pytest.approx((hits * weights).sum() / weights.sum(), rel=1e-6)
    losses = (numpy_losses(labels, logits) * weights).sum() / weights.sum()
    assert value(perplexity.result()) == pytest.approx(np.exp(losses), rel=1e-5)
    accuracy.reset_state()
    assert value(accuracy.result()) == 0


def test_a_tie_counts_as_a_fair_draw():
    metric = NextSentenceAccuracy()
    metric.update_state(np.array([0, 1, 1]), np.array([[1.0, 1.0], [0.0, 2.0], [2.0, 0.0]], "float32"))
    assert value(metric.result()) == pytest.approx(0.5)


def test_perplexity_in_a_compiled_model_is_exp_of_the_loss():
    labels, _, weights = example(rows=8)
    inputs = np.random.default_rng(1).normal(size=(8, 4, 3)).astype("float32")
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.Dense(11)])
    model.compile("sgd", loss=MaskedLanguageModelLoss(), weighted_metrics=[Perplexity()])
    history = model.fit(inputs, labels, sample_weight=weights, batch_size=8, verbose=0).history
    assert history["perplexity"][0] == pytest.approx(np.exp(history["loss"][0]), rel=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 5, 24, 100, None])
def test_projecting_in_chunks_against_numpy(chunk_size):
    labels, _, weights = example()
    draw = np.random.default_rng(3)
    hidden, table = draw.normal(0, 1, (6, 4, 8)), draw.normal(0, 1, (11, 8))
    expected = (numpy_losses(labels, hidden @ table.T) * weights).sum()
    hidden, table = hidden.astype("float32"), table.astype("float32")
    for reduction, total in (("sum", 1.0), ("mean_with_sample_weight", weights.sum())):
        loss = CausalLanguageModelLoss(chunk_size=chunk_size, reduction=reduction)
        found = loss.project(labels, ops.convert_to_tensor(hidden), ops.convert_to_tensor(table), weights)
        assert value(found) == pytest.approx(expected / total, rel=1e-5)
        logits = ops.convert_to_tensor(hidden @ table.T)
        assert value(loss(labels, logits, weights)) == pytest.approx(expected / total, rel=1e-5)


def test_projecting_no_weights_is_zero_and_finite():
    labels, _, _ = example()
    hidden = ops.convert_to_tensor(np.full((6, 4, 8), np.nan, "float32"))
    table = ops.convert_to_tensor(np.ones((11, 8), "float32"))
    assert value(CausalLanguageModelLoss().project(labels, hidden, table, np.zeros((6, 4)))) == 0


def test_projecting_in_bfloat16_is_cross_entropy_in_float32():
    labels, _, _ = example()
    draw = np.random.default_rng(4)
    hidden = ops.cast(draw.normal(0, 8, (6, 4, 8)).astype("float32"), "bfloat16")
    table = draw.normal(0, 8, (11, 8)).astype("float32")
    exact = ops.convert_to_numpy(ops.cast(hidden, "float32")) @ table.T
    found = value(CausalLanguageModelLoss().project(labels, hidden, ops.convert_to_tensor(table)))
    assert found == pytest.approx(numpy_losses(labels, exact).mean(), rel=1e-2)


def test_causal_settings_are_checked_and_kept():
    with pytest.raises(ValueError, match="chunk_size is -1"):
        CausalLanguageModelLoss(chunk_size=-1)
    loss = CausalLanguageModelLoss(label_smoothing=0.1, chunk_size=8, reduction="sum")
    assert CausalLanguageModelLoss.from_config(loss.get_config()).get_config() == loss.get_config()
    assert loss.projects
    assert CausalLanguageModelLoss(chunk_size=8).projects
    assert not CausalLanguageModelLoss(chunk_size=0).projects


@pytest.mark.parametrize("length", [4, 6])  # 6 is the number of rows, too
@pytest.mark.parametrize("loss", [MaskedLanguageModelLoss(), CausalLanguageModelLoss(label_smoothing=0.1)])
def test_a_weight_of_a_row_weighs_all_its_labels(loss, length):
    labels, logits, _ = example(slots=length)
    row = np.array([0, 1, 5, 2, 1, 3], "float32")
    whole = np.repeat(row[:, None], length, axis=1)
    expected = (numpy_losses(labels, logits, loss.label_smoothing) * whole).sum() / whole.sum()
    for weights in (row, row[:, None], whole):
        assert value(loss(labels, logits, weights)) == pytest.approx(expected, rel=1e-5)
        metric = Perplexity()
        metric.update_state(labels, logits, weights)
        mean = (numpy_losses(labels, logits) * whole).sum() / whole.sum()
        assert value(metric.result()) == pytest.approx(np.exp(mean), rel=1e-5)
    with pytest.raises(ValueError, match=r"sample weights of shape \(5,\) do not fit labels of shape \(6, "):
        loss(labels, logits, np.ones(5))
    with pytest.raises(ValueError, match=r"sample weights of shape \(6, 3\)"):
        loss(labels, logits, np.ones((6, 3)))


def test_weights_of_a_row_when_projecting():
    labels, _, _ = example()
    draw = np.random.default_rng(3)
    hidden, table = (
        draw.normal(0, 1, (6, 4, 8)).astype("float32"),
        draw.normal(0, 1, (11, 8)).astype("float32"),
    )
    row = np.arange(6, dtype="float32")
    expected = (numpy_losses(labels, hidden @ table.T) * row[:, None]).sum() / (4 * row.sum())
    for weights in (row, row[:, None]):
        found = CausalLanguageModelLoss().project(labels, ops.convert_to_tensor(hidden), table, weights)
        assert value(found) == pytest.approx(expected, rel=1e-5)


def losses_of(labels, logits, weights):
    """The loss, the loss that projects, and a metric, which all look at labels."""
    hidden, table = ops.convert_to_tensor(logits), np.eye(logits.shape[-1], dtype="float32")
    metric = MaskedLanguageModelAccuracy()
    metric.update_state(labels, logits, weights)
    return [
        value(MaskedLanguageModelLoss()(labels, logits, weights)),
        value(CausalLanguageModelLoss().project(labels, hidden, table, weights)),
        value(metric.result()),
    ]


@pytest.mark.parametrize("label", [-1, -100, 11, 10**6])
def test_a_label_without_weight_may_be_anything(label):
    labels, logits, weights = example()
    expected = losses_of(labels, logits, weights)
    assert np.isfinite(expected).all()
    labels = np.where(weights == 0, label, labels)
    assert losses_of(labels, logits, weights) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("label", [-1, -99, 11, 10**6])
def test_a_label_that_is_no_class_gives_no_number(label):
    labels, logits, weights = example()
    labels[tuple(np.argwhere(weights)[0])] = label
    assert np.isnan(losses_of(labels, logits, weights)).all()


def test_the_label_of_hugging_face_does_not_count():
    labels, logits, weights = example()
    ignored = np.where(weights == 0, -100, labels)
    assert losses_of(ignored, logits, None) == pytest.approx(losses_of(labels, logits, weights), rel=1e-6)


def test_labels_in_a_column():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    labels, numbers = np.array([0, 1, 2, 1, 0]), np.arange(5.0)
    for loss, right, outputs in (
        (ClassificationLoss(), labels, logits),
        (SquaredErrorLoss(), numbers, logits[:, 0]),
    ):
        expected = value(loss(right, outputs))
        assert value(loss(right[:, None], outputs, np.ones((5, 1)))) == pytest.approx(expected)
    assert value(ClassificationLoss()(labels, logits)) == pytest.approx(
        numpy_losses(labels, logits).mean(), rel=1e-5
    )
    with pytest.raises(ValueError, match=r"labels have shape \(5, 3\)"):
        SquaredErrorLoss()(logits, logits[:, 0])


def test_several_labels_against_numpy():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(0, 3, (5, 3)), draw.integers(0, 2, (5, 3))
    losses = -np.where(labels == 1, np.log(1 / (1 + np.exp(-logits))), np.log(1 / (1 + np.exp(logits))))
    row = np.array([0, 1, 2, 1, 0.5])
    found = value(MultiLabelLoss()(labels, logits.astype("float32"), row))
    assert found == pytest.approx((losses.mean(1) * row).sum() / row.sum(), rel=1e-5)
    found = value(MultiLabelLoss(reduction="sum")(labels, logits.astype("float32"), row))
    assert found == pytest.approx((losses.mean(1) * row).sum(), rel=1e-5)
    unknown = np.where(draw.random((5, 3)) < 0.5, -100, labels)
    expected = losses[unknown >= 0].mean()
    assert value(MultiLabelLoss()(unknown, logits.astype("float32"))) == pytest.approx(expected, rel=1e-5)
    labels[1, 1] = 2
    assert np.isnan(value(MultiLabelLoss()(labels, logits.astype("float32"))))
    with pytest.raises(ValueError, match="takes 0 or 1 for each of 3 labels"):
        MultiLabelLoss()(labels[:, 0], logits.astype("float32"))
