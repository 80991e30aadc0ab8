"""The scores of answers: the loss by hand, packed rows, and saving."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasllm import AnswerSpanLoss, BertBackbone, BertConfig, BertQuestionAnswering
from kerasllm.errors import NewHeadWarning

CONFIG = BertConfig(vocabulary_size=30, num_layers=1, num_heads=2, hidden_dim=8, max_sequence_length=16)
INPUTS = {
    "token_ids": np.arange(1, 21, dtype="int32").reshape(2, 10),
    "segment_ids": np.repeat([[0] * 4 + [1] * 6], 2, axis=0).astype("int32"),
    "padding_mask": np.array([[1] * 10, [1] * 7 + [0] * 3], "int32"),
}


@pytest.fixture(scope="module")
def model():
    return BertQuestionAnswering(CONFIG, seed=1)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def test_loss_by_hand():
    """The mean of both cross-entropies among all tokens; weights of rows, and of starts and ends."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 7, 2)).astype("float32")
    labels = np.array([[1, 4], [0, 0], [6, 6]], "int32")
    each = np.log(np.exp(logits).sum(axis=1)) - np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    loss = AnswerSpanLoss()
    assert float(loss(labels, logits)) == pytest.approx(each.mean(), abs=1e-6)
    rows, both = np.array([1, 0, 3], "float32"), random.random((3, 2)).astype("float32")
    assert float(loss(labels, logits, rows)) == pytest.approx((each.T @ rows).sum() / 8, abs=1e-6)
    assert float(loss(labels, logits, both)) == pytest.approx((each * both).sum() / both.sum(), abs=1e-6)
    whole = AnswerSpanLoss(reduction="sum")(labels, logits, both)
    assert float(whole) == pytest.approx((each * both).sum(), abs=1e-5)
    np.testing.assert_allclose(numpy(AnswerSpanLoss(reduction=None)(labels, logits)), each, atol=1e-6)


def test_scores_do_not_depend_on_padding(model):
    """Or on others in a packed row."""
    expected = numpy(model(INPUTS))
    assert expected.shape == (2, 10, 2)
    short = {name: values[1:, :7] for name, values in INPUTS.items()}
    np.testing.assert_allclose(numpy(model(short))[0], expected[1, :7], atol=1e-5)
    packed = {
        name: np.concatenate([INPUTS[name][1:, :7], INPUTS[name][1:, :7]], axis=1)
        for name in ("token_ids", "segment_ids")
    }
    packed["sequence_ids"] = np.repeat([[0, 1]], 7, axis=1).astype("int32")
    packed["position_ids"] = np.tile(np.arange(7, dtype="int32"), 2)[None]
    found = numpy(model(packed))[0]
    np.testing.assert_allclose(found[:7], expected[1, :7], atol=1e-5)
    np.testing.assert_allclose(found[7:], expected[1, :7], atol=1e-5)


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    expected = numpy(model(INPUTS))
    model.save_pretrained(tmp_path / "ours")
    model.save(tmp_path / "model.keras")
    for again in (
        BertQuestionAnswering.from_pretrained(tmp_path / "ours"),
        keras.saving.load_model(tmp_path / "model.keras"),
    ):
        assert isinstance(again, BertQuestionAnswering)
        assert np.array_equal(numpy(again(INPUTS)), expected)


def test_a_pretrained_encoder_gets_a_new_head(tmp_path):
    backbone = BertBackbone(CONFIG, seed=2)
    backbone.save_pretrained(tmp_path)
    with pytest.warns(NewHeadWarning) as caught:
        model = BertQuestionAnswering.from_pretrained(tmp_path, seed=0)
    assert caught[0].message.heads == ("answer_head",) and model.backbone.pooler is None
    expected = numpy(backbone(INPUTS)["sequence_output"])
    np.testing.assert_array_equal(numpy(model.backbone(INPUTS)["sequence_output"]), expected)
