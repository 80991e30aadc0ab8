"""What models take as inputs, under which names, and what they say of others."""

import keras
import numpy as np
import pytest

from kerasllm import (
    BertClassifier,
    BertConfig,
    BertMaskedLM,
    BertTokenClassifier,
    GPTCausalLM,
    GPTConfig,
    RecurrentClassifier,
    RecurrentConfig,
)
from kerasllm.errors import InputError

SHAPE = {"vocabulary_size": 40, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_sequence_length": 8}
TOKENS = np.random.default_rng(0).integers(5, 40, (4, 6)).astype("int32")
MASK = (np.arange(6) < [[6], [4], [6], [3]]).astype("int32")
SEGMENTS = np.repeat([[0, 0, 0, 1, 1, 1]], 4, axis=0).astype("int32")
CLASSES = TOKENS[:, 0] % 2

pytestmark = pytest.mark.usefixtures("uncompiled")


@pytest.fixture(scope="module")
def bert():
    model = BertClassifier(BertConfig(**SHAPE, dropout=0.0), seed=0)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=keras.backend.backend() != "jax")
    return model


@pytest.fixture(scope="module")
def gpt():
    model = GPTCausalLM(GPTConfig(**SHAPE, dropout=0.0), seed=0)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=keras.backend.backend() != "jax")
    return model


def changed(array, value):
    array = array.copy()
    array[0, 1] = value
    return array


def test_names_of_hugging_face_and_bare_ids(bert):
    ours = {"token_ids": TOKENS, "segment_ids": SEGMENTS, "padding_mask": MASK}
    theirs = {"input_ids": TOKENS, "token_type_ids": SEGMENTS, "attention_mask": MASK}
    expected = keras.ops.convert_to_numpy(bert(ours))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(bert(theirs)), expected)
    np.testing.assert_allclose(bert.predict(theirs, verbose=0), expected, atol=1e-6)
    lists = {name: value.tolist() for name, value in theirs.items()}
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(bert(lists)), expected)
    loss = bert.fit(theirs, CLASSES, verbose=0).history["loss"][0]
    assert loss == pytest.approx(bert.evaluate(ours, CLASSES, verbose=0), rel=1e-6)
    bare = keras.ops.convert_to_numpy(bert(TOKENS))
    np.testing.assert_array_equal(bare, keras.ops.convert_to_numpy(bert({"token_ids": TOKENS})))


WRONG = {
    "texts": (["one", "two"], "was given texts: .*TextClassificationData"),
    "a text": ("one", "was given texts: .*kerasllm.Predictor"),
    "texts in an array": (np.array(["one", "two"]), "was given texts"),
    "texts by name": ({"token_ids": np.array([["one"]])}, "was given texts as token_ids"),
    "pairs of texts": ([("one", "two")], "was given texts"),
    "arrays in a list": ([TOKENS, MASK], "was given a list: it takes a dict of token_ids"),
    "one row": (TOKENS[0], r"was given an array \(6,\) of int32"),
    "floats": (TOKENS * 0.5, r"was given an array \(4, 6\) of float64"),
    "no ids": ({"padding_mask": MASK}, "was given padding_mask and no token_ids"),
    "a misspelt name": ({"token_id": TOKENS}, "'token_id': did you mean token_ids"),
    "labels": ({"input_ids": TOKENS, "labels": CLASSES}, r"beside the inputs, as \(inputs, labels\)"),
    "both names": (
        {"token_ids": TOKENS, "input_ids": TOKENS},
        "given token_ids twice, as token_ids and as input_ids",
    ),
    "one row by name": (
        {"token_ids": TOKENS[0]},
        r"token_ids of shape \(6,\): they must be \(batch, length\)",
    ),
    "a shorter mask": (
        {"token_ids": TOKENS, "padding_mask": MASK[:, :3]},
        r"padding_mask of shape \(4, 3\) and token_ids of shape \(4, 6\)",
    ),
    "segments of a row": (
        {"token_ids": TOKENS, "segment_ids": SEGMENTS[:1]},
        r"segment_ids of shape \(1, 6\)",
    ),
    "ragged rows": ({"input_ids": [[1, 2], [3]]}, "input_ids is a list of rows of different lengths"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wanted_is_said_in_one_line(bert, name):
    inputs, message = WRONG[name]
    for use in (
        bert,
        lambda x: bert.predict(x, verbose=0),
        lambda x: bert.fit(x, CLASSES, verbose=0),
        lambda x: bert.evaluate(x, CLASSES, verbose=0),
    ):
        with pytest.raises(InputError, match=message) as caught:
            use(inputs)
        assert "\n" not in str(caught.value)


def test_a_gpt_has_no_segments(gpt):
    with pytest.raises(InputError, match=r"takes no segment_ids \(as token_type_ids\)"):
        gpt({"input_ids": TOKENS, "token_type_ids": SEGMENTS})
    assert gpt.predict({"input_ids": TOKENS, "attention_mask": MASK}, verbose=0).shape == (4, 6, 40)


OUT_OF_RANGE = {
    "token_ids holds 40": {"token_ids": changed(TOKENS, 40)},
    "token_ids holds -1": {"token_ids": changed(TOKENS, -1)},
    "segment_ids holds 2": {"token_ids": TOKENS, "segment_ids": changed(SEGMENTS, 2)},
    "segment_ids holds -3": {"token_ids": TOKENS, "segment_ids": changed(SEGMENTS, -3)},
    "position_ids holds 8": {"token_ids": TOKENS, "position_ids": changed(SEGMENTS, 8)},
    "masked_positions holds 6": {"token_ids": TOKENS, "masked_positions": np.array([[0, 6]] * 4)},
    "masked_positions holds -1": {"token_ids": TOKENS, "masked_positions": np.array([[0, -1]] * 4)},
}


class OneBatch(keras.utils.PyDataset):
    def __init__(self, inputs):
        super().__init__()
        self.inputs = inputs

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.inputs, CLASSES


@pytest.mark.parametrize("message", OUT_OF_RANGE)
def test_values_out_of_range(bert, message):
    """They are told before a step; in one they are NaN, or an error, on each backend."""
    inputs = OUT_OF_RANGE[message]
    for use in (
        lambda: bert.fit(inputs, CLASSES, verbose=0),
        lambda: bert.fit(OneBatch(inputs), verbose=0),
        lambda: bert.predict(inputs, verbose=0),
    ):
        with pytest.raises(InputError, match=message):
            use()
    model = BertMaskedLM(bert.config, backbone=bert.backbone, seed=0) if "masked" in message else bert
    try:
        output = model(inputs)
    except Exception:
        assert keras.backend.backend() != "jax"
        return
    assert np.isnan(keras.ops.convert_to_numpy(output["masked_lm"] if model is not bert else output)).any()


def test_fractions_and_labels_that_are_texts(bert):
    with pytest.raises(InputError, match=r"token_ids holds 5\.5, which is no whole number"):
        bert.fit({"token_ids": changed(TOKENS.astype("float32"), 5.5)}, CLASSES, verbose=0)
    for labels in (np.array(["a", "b", "a", "b"]), ["a", "b", "a", "b"]):
        with pytest.raises(InputError, match=r"the labels are texts: .*TextClassificationData"):
            bert.fit({"token_ids": TOKENS}, labels, verbose=0)


def test_a_model_of_one_segment_refuses_a_second_text():
    model = BertClassifier(BertConfig(**SHAPE, num_segments=1), seed=0)
    with pytest.raises(InputError, match="num_segments is 1; pairs of texts need a model that has 2"):
        model.predict({"token_ids": TOKENS, "segment_ids": SEGMENTS}, verbose=0)


def test_labels_out_of_range(bert, gpt):
    with pytest.raises(InputError, match="labels hold 2, the model has 2 classes"):
        bert.fit(TOKENS, CLASSES + 1, verbose=0)
    with pytest.raises(InputError, match="labels hold -1, the model has 40 tokens"):
        gpt.fit(TOKENS, changed(TOKENS, -1), verbose=0)
    expected = gpt.evaluate(TOKENS, TOKENS, sample_weight=changed(MASK, 0), verbose=0)
    for label in (-1, -100, 40):
        labels = np.where(changed(MASK, 0) == 0, label, TOKENS)
        assert gpt.evaluate(TOKENS, labels, sample_weight=changed(MASK, 0), verbose=0) == pytest.approx(
            expected
        )


def test_class_weights_are_for_one_class_a_row(gpt):
    with pytest.raises(InputError, match="GPTCausalLM is none: give sample_weight"):
        gpt.fit(TOKENS, TOKENS, class_weight={0: 2.0}, verbose=0)


def test_class_weights_are_by_class_id(bert):
    for wrong, words in (
        ({"ham": 2.0}, "class_weight holds 'ham', it must hold class ids, 0 to 1"),
        ({0: 1.0, 2: 2.0}, "class_weight holds 2"),
        (np.ones(2), "it must be a dict"),
    ):
        with pytest.raises(InputError, match=words):
            bert.fit(TOKENS, CLASSES, class_weight=wrong, verbose=0)


def test_names_of_classes_are_a_list_of_texts():
    config, recurrent = BertConfig(**SHAPE), RecurrentConfig(vocabulary_size=40, hidden_dim=4)
    for cls, of in (
        (BertClassifier, config),
        (BertTokenClassifier, config),
        (RecurrentClassifier, recurrent),
    ):
        with pytest.raises(InputError, match="label_names is 'ham', it must be a list"):
            cls(of, label_names="ham")
        with pytest.raises(InputError, match=r"label_names\[1\] is 1, it must be a name"):
            cls(of, label_names=["ham", 1])
