"""Data sets from texts: every example once an epoch, orders by seed and epoch, labels by name, mistakes by index."""

import itertools

import keras
import numpy as np
import pandas
import pyarrow
import pytest

import kerasllm
from kerasllm.errors import InputError, InputWarning

TEXTS = [" ".join("abcdefgh"[(i + j) % 8] for j in range(1 + i % 5)) for i in range(21)]
NAMES = ["odd" if i % 2 else "even" for i in range(21)]


@pytest.fixture(scope="module")
def tokenizer():
    return kerasllm.train_wordpiece([*TEXTS, "the quick fox. it ran."], vocabulary_size=60)


@pytest.fixture(scope="module")
def bpe():
    return kerasllm.train_byte_level_bpe(TEXTS, vocabulary_size=260)


def config(**changes):
    shape = {
        "vocabulary_size": 60,
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 8,
        "max_sequence_length": 32,
    }
    return kerasllm.BertConfig(**shape | {"dropout": 0.0} | changes)


def classification(tokenizer, texts=TEXTS, labels=NAMES, **settings):
    settings = {"batch_size": 8, "sequence_length": 16} | settings
    return kerasllm.TextClassificationData(texts, labels, tokenizer=tokenizer, **settings)


def decoded(tokenizer, item):
    return [tokenizer.decode(row.tolist()) for row in item[0]["token_ids"]]


def test_an_epoch_has_every_text_once_in_a_new_order(tokenizer):
    data, again = classification(tokenizer, seed=3), classification(tokenizer, seed=3)
    orders = []
    for epoch in range(3):
        data.epoch = epoch
        items = [data[index] for index in range(len(data))]
        orders.append([text for item in items for text in decoded(tokenizer, item)])
        assert sorted(orders[-1]) == sorted(TEXTS)
        labels = [label for item in items for label in item[1]]
        assert [TEXTS.index(text) % 2 for text in orders[-1]] == labels  # even is 0: alphabetical
    assert orders[0] != orders[1] != orders[2]
    again.epoch = 2
    assert [text for i in range(3) for text in decoded(tokenizer, again[i])] == orders[2]
    still = classification(tokenizer, shuffle=False)
    assert [text for i in range(3) for text in decoded(tokenizer, still[i])] == TEXTS
    with pytest.raises(IndexError):
        data[3]


def test_packed_texts(tokenizer):
    data = classification(tokenizer, packing=True)
    for epoch in (0, 7):  # epochs beyond those that were planned
        data.epoch = epoch
        items = [data[index] for index in range(len(data))]
        assert sum(int(item[2].sum()) for item in items) == 21
        assert sum(int((item[1] * item[2]).sum()) for item in items) == 10
        assert len({item[0]["token_ids"].shape for item in items}) == 1


@pytest.mark.usefixtures("uncompiled")
def test_fit_knows_the_epochs_and_the_models_names(tokenizer):
    model = kerasllm.BertClassifier(
        config(), label_names=["odd", "even"], seed=0
    )  # not in alphabetical order
    model.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data, held_out = classification(tokenizer), classification(tokenizer, shuffle=False)
    seen = []
    original = data.batches.batch
    data.batches.batch = lambda step, **other: seen.append(step) or original(step, **other)
    model.fit(data, epochs=2, validation_data=held_out, verbose=0)
    assert {0, 1, 2, 3, 4, 5} <= set(seen) <= {0, 1, 2, 3, 4, 5, 6}
    assert held_out.batches.labels.tolist() == [0 if name == "odd" else 1 for name in NAMES]
    model.fit(data, initial_epoch=4, epochs=5, verbose=0)
    assert set(seen[-3:]) == {12, 13, 14}
    assert isinstance(model.evaluate(data, verbose=0), float)
    shuffled, ordered = model.predict(data, verbose=0), model.predict(held_out, verbose=0)
    np.testing.assert_allclose(shuffled, ordered, atol=1e-6)
    assert shuffled.shape == (21, 2)


def test_names_that_do_not_fit_the_model(tokenizer):
    model = kerasllm.BertClassifier(config(), label_names=["odd", "even"], seed=0)
    for data, words in (
        (
            classification(tokenizer, labels=[*NAMES[:20], "evn"]),
            r"labels\[20\] is 'evn'.*did you mean 'even'",
        ),
        (classification(tokenizer, label_names=["even", "odd"]), "in the same order"),
        (classification(tokenizer, labels=[0, 1, 2] * 7), r"labels\[2\] is 2"),
        (classification(tokenizer, labels=[[0]] * 21, multi_label=True), "multi_label=True, the model"),
        (
            kerasllm.TextRegressionData(TEXTS, range(21), tokenizer=tokenizer),
            "is for a model that predicts a number",
        ),
        (classification(tokenizer, labels=None), "no labels"),
        (
            classification(tokenizer, [" ".join("abcdefgh" * 5)], ["odd"], sequence_length=48),
            "sequence_length=32",
        ),
    ):
        with pytest.raises(InputError, match=words):
            model.fit(data)
    small = kerasllm.BertClassifier(config(vocabulary_size=10), label_names=["odd", "even"])
    with pytest.raises(InputError, match="model's own tokenizer"):
        small.evaluate(classification(tokenizer))


def test_a_model_without_names_takes_those_of_the_data(tokenizer):
    model = kerasllm.BertClassifier(config(), num_classes=2, seed=0)
    classification(tokenizer).bind_to(model)
    assert model.label_names == ("even", "odd")
    three = kerasllm.BertClassifier(config(), num_classes=3, seed=0)
    with pytest.raises(InputError, match="2 names, the model 3 classes"):
        classification(tokenizer).bind_to(three)


def test_ids_of_any_kind_and_several_labels(tokenizer):
    for labels in (
        np.arange(21) % 2,
        (np.arange(21) % 2).astype("float32"),
        [bool(i % 2) for i in range(21)],
    ):
        assert classification(tokenizer, labels=labels).batches.labels.tolist() == [i % 2 for i in range(21)]
    numbers = ["10", "9", "2"] * 7
    assert classification(tokenizer, labels=numbers).label_names == ("2", "9", "10")
    several = [["x", "y"], [], ["y"]] * 7
    data = classification(tokenizer, labels=several, multi_label=True, shuffle=False)
    assert data.batches.labels[:3].tolist() == [[1, 1], [0, 0], [0, 1]] and data.label_names == ("x", "y")
    matrix = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]] * 7)
    for given in (matrix, matrix.tolist(), matrix.astype(float).tolist()):
        data = classification(tokenizer, labels=given, multi_label=True)
        assert data.batches.labels.tolist() == matrix.tolist() and data.batches.labels.dtype == np.float32
    packed = classification(tokenizer, labels=several, multi_label=True, packing=True)[0]
    assert packed[1].shape == (*packed[2].shape, 2)


@pytest.mark.parametrize(
    ("texts", "labels", "settings", "words"),
    [
        ("a text", ["x"], {}, "texts is 'a text', it must be a list"),
        ([], [], {}, "texts is empty"),
        (["a", None], ["x", "y"], {}, r"texts\[1\] is None"),
        (["a", 3.5], ["x", "y"], {}, r"texts\[1\] is 3.5 \(float\)"),
        (["a", ("b", "c")], ["x", "y"], {}, r"texts\[1\] is a pair, texts\[0\] is one text"),
        ([("a", "b", "c")], ["x"], {}, r"texts\[0\]"),
        (["a\ud800"], ["x"], {}, "half of a surrogate pair"),
        (["a", "b"], ["x"], {}, "2 texts and 1 labels"),
        (["a", "b"], "xy", {}, "labels is 'xy'"),
        (["a", "b"], ["x", None], {}, r"labels\[1\] is None"),
        (["a", "b"], [0, float("nan")], {}, r"labels\[1\] is nan"),
        (["a", "b"], [0, 0.5], {}, "TextRegressionData"),
        (["a", "b"], [0, "x"], {}, "both names and ids"),
        (["a", "b"], [0, -1], {}, r"labels\[1\] is -1"),
        (["a", "b"], [["x"], ["y"]], {}, "multi_label=True"),
        (["a", "b"], ["x", "y"], {"multi_label": True}, r"labels\[0\] is 'x'"),
        (["a", "b"], [[0, 1], [1, 0]], {"multi_label": True}, "ids or indicators"),
        (["a", "b"], np.full((2, 2), 2), {"multi_label": True}, "must be 0 or 1"),
        (
            ["a", "b"],
            ["x", "y"],
            {"label_names": ["x", "z"]},
            r"labels\[1\] is 'y'.*label_names \['x', 'z'\]",
        ),
        (["a", "b"], ["x", "y"], {"label_names": ["x", "x"]}, "'x' twice"),
        (["a", "b"], ["x", "y"], {"batch_size": 0}, "batch_size is 0"),
        (["a", "b"], ["x", "y"], {"batch_size": 2.5}, "batch_size is 2.5, it must be a whole number"),
        (["a", "b"], ["x", "y"], {"batch_size": "2"}, "batch_size is '2'"),
        (["a", "b"], ["x", "y"], {"sequence_length": "9"}, "sequence_length is '9'"),
        (["a", "b"], ["x", "y"], {"seed": None}, "seed is None"),
        ({"a", "b"}, ["x", "y"], {}, "it must be a list of texts"),
        (["a", "b"], {"x", "y"}, {}, "it must be a list of labels"),
        (np.full((2, 3), "a"), ["x", "y"], {}, r"texts\[0\] is \['a', 'a', 'a'\]"),
        (
            ["a", "b"],
            np.eye(2),
            {"multi_label": True, "label_names": ["x", "y", "z"]},
            "labels are indicators of 2 classes, label_names has 3",
        ),
        (["a", "b"], ["x", "y"], {"packing": True, "shuffle": False}, "packing"),
    ],
)
def test_mistakes_are_named_with_their_index(tokenizer, texts, labels, settings, words):
    with pytest.raises(InputError, match=words) as caught:
        classification(tokenizer, texts, labels, **settings)
    assert "\n" not in str(caught.value)


def test_tables_and_columns(tokenizer):
    """Of tables, the rows are read: iteration over one of pandas gives the names of its columns."""
    frame = pandas.DataFrame({"text": TEXTS, "other": TEXTS[::-1], "label": NAMES}, index=range(100, 121))
    expected = [item for item in classification(tokenizer, shuffle=False)[0][0]["token_ids"]]
    for texts, labels in (
        (frame["text"], frame["label"]),
        (frame[["text"]], frame[["label"]]),
        (np.array(TEXTS)[:, None], np.array(NAMES)[:, None]),
        (pyarrow.array(TEXTS), pyarrow.array(NAMES)),
    ):
        data = classification(tokenizer, texts, labels, shuffle=False)
        np.testing.assert_array_equal(data[0][0]["token_ids"], expected)
        assert data.batches.labels.tolist() == [i % 2 for i in range(21)]
    pairs = classification(tokenizer, list(zip(TEXTS, TEXTS[::-1], strict=True)), shuffle=False)[0][0]
    for texts in (frame[["text", "other"]], np.array([TEXTS, TEXTS[::-1]]).T):
        found = classification(tokenizer, texts, shuffle=False)[0][0]
        np.testing.assert_array_equal(found["token_ids"], pairs["token_ids"])
    marks = pandas.DataFrame({"x": [1, 0, 0] * 7, "y": 0, "z": [1, 1, 0] * 7})
    data = classification(tokenizer, labels=marks, multi_label=True)
    assert data.batches.labels.tolist() == marks.to_numpy().tolist()
    numbers = kerasllm.TextRegressionData(frame["text"], np.arange(21.0)[:, None], tokenizer=tokenizer)
    assert numbers.batches.labels.tolist() == list(range(21))


def test_indicators_have_a_column_for_each_class_of_the_model(tokenizer):
    model = kerasllm.BertClassifier(config(), label_names=["x", "y", "z"], multi_label=True, seed=0)
    data = classification(tokenizer, labels=np.zeros((21, 3), int), multi_label=True)
    data.bind_to(model)
    assert data.batches.labels.shape == (21, 3)
    with pytest.raises(InputError, match="indicators of 2 classes, the model has 3"):
        classification(tokenizer, labels=np.zeros((21, 2), int), multi_label=True).bind_to(model)


def test_names_that_are_there_twice(tokenizer):
    model = kerasllm.BertClassifier(config(), label_names=["odd", "even", "odd"], seed=0)
    with pytest.raises(InputError, match="'odd' twice"):
        classification(tokenizer).bind_to(model)


def test_numbers(tokenizer):
    data = kerasllm.TextRegressionData(TEXTS, range(21), tokenizer=tokenizer, shuffle=False)
    assert data[0][1].tolist() == list(range(21)) and data[0][1].dtype == np.float32
    for wrong in (float("nan"), None, "1", True, 1e39):
        with pytest.raises(InputError, match=r"labels\[0\]"):
            kerasllm.TextRegressionData(["a"], [wrong], tokenizer=tokenizer)


def test_what_is_cut_is_told(tokenizer):
    with pytest.warns(InputWarning, match="1 of 2 texts are cut to sequence_length 4"):
        data = kerasllm.TextClassificationData(
            ["a", "a b c d e"], [0, 1], tokenizer=tokenizer, sequence_length=4, shuffle=False
        )
    assert data.num_truncated == 1 and data[0][0]["token_ids"].shape[1] == 4


def test_the_saved_length_bounds_the_rows(tokenizer, tmp_path):
    kerasllm.BertClassifier(config(), seed=0).save_pretrained(tmp_path, tokenizer=tokenizer)
    loaded = kerasllm.load_tokenizer(tmp_path)
    data = kerasllm.MaskedLanguageModelData(TEXTS, tokenizer=loaded)
    assert data.longest == 32
    assert kerasllm.load_tokenizer(tmp_path / "tokenizer.json").to_str() == tokenizer.to_str()
    with pytest.raises(InputError, match="nowhere"):
        kerasllm.load_tokenizer(tmp_path / "nowhere")


DOCUMENTS = [
    f"The fox {i} ran. It was {'quick' if i % 2 else 'slow'}.\nThen it slept. All was well." for i in range(9)
]


def test_masked_texts(tokenizer):
    with pytest.raises(InputError, match="texts is 'one'"):
        kerasllm.MaskedLanguageModelData("one", tokenizer=tokenizer)
    data = kerasllm.MaskedLanguageModelData(DOCUMENTS, tokenizer=tokenizer, sequence_length=32, batch_size=4)
    first, tokens = data[0], []
    for epoch in range(2):
        data.epoch = epoch
        items = [data[index] for index in range(len(data))]
        real = [item[2]["masked_lm"].any(axis=1) for item in items]
        tokens.append(
            sum(
                int((item[0]["padding_mask"][rows].sum(axis=1) - 2).sum())
                for item, rows in zip(items, real, strict=True)
            )
        )
        assert set(items[0][1]) == {"masked_lm"}
    assert tokens[0] == tokens[1] == sum(len(tokenizer.encode(text).ids) - 2 for text in DOCUMENTS)
    assert not np.array_equal(first[0]["token_ids"], data[0][0]["token_ids"])
    data.epoch = 0
    np.testing.assert_array_equal(first[0]["token_ids"], data[0][0]["token_ids"])
    data.bind_to(kerasllm.BertMaskedLM(config()))
    with pytest.raises(InputError, match="not for BertPretraining"):
        data.bind_to(kerasllm.BertPretraining(config()))


def test_sentence_pairs(tokenizer):
    data = kerasllm.SentencePairPretrainingData(
        DOCUMENTS, tokenizer=tokenizer, sequence_length=32, batch_size=4
    )
    inputs, labels, weights = data[0]
    assert set(labels) == set(weights) == {"masked_lm", "next_sentence"} and inputs["segment_ids"].any()
    data.bind_to(kerasllm.BertPretraining(config()))
    with pytest.raises(InputError, match="BertPretraining, not for BertMaskedLM"):
        data.bind_to(kerasllm.BertMaskedLM(config()))


@pytest.mark.parametrize("context_length", [7, 64, 1000])
def test_each_token_is_predicted_once_an_epoch(bpe, context_length):
    data = kerasllm.CausalLanguageModelData(TEXTS, tokenizer=bpe, context_length=context_length, batch_size=4)
    end = bpe.token_to_id("<|endoftext|>")
    stream = [token for text in TEXTS for token in [*bpe.encode(text).ids, end]]
    pairs = sorted(itertools.pairwise(stream))
    places = []
    for epoch in range(3):
        data.epoch = epoch
        found = []
        for index in range(len(data)):
            inputs, labels, weights = data[index]
            assert inputs["token_ids"].shape == (4, context_length)
            real = weights > 0
            found += zip(inputs["token_ids"][real].tolist(), labels[real].tolist(), strict=True)
        assert sorted(found) == pairs
        places.append(found)
    if context_length == 7:
        assert places[0] != places[1] != places[2]
    still = kerasllm.CausalLanguageModelData(
        TEXTS, tokenizer=bpe, context_length=7, batch_size=4, shuffle=False
    )
    assert still[0][0]["token_ids"].ravel().tolist() == stream[:28]
    with pytest.raises(InputError, match="hold no tokens"):
        kerasllm.CausalLanguageModelData([""], tokenizer=bpe)


def test_conversations(bpe):
    talk = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c d"}]
    records = [{"messages": talk}, talk, {"prompt": "a", "completion": " b"}]
    data = kerasllm.ConversationData(records, tokenizer=bpe, context_length=64, batch_size=2)
    _, labels, weights = data[0]
    learned = bpe.decode(labels[weights > 0].tolist(), skip_special_tokens=False)
    assert learned.count(" c d<|endoftext|>") == 2 and learned.count(" b<|endoftext|>") == 1
    with pytest.warns(InputWarning, match="1 of 2 conversations are cut to context_length 32"):
        longer = [talk[0], {"role": "assistant", "content": "c d " * 9}]
        kerasllm.ConversationData([talk, longer], tokenizer=bpe, context_length=32)
    for wrong, words in (
        ([], "conversations is empty"),
        ({"messages": talk}, "must be a list"),
        ([3], r"conversations\[0\] is 3"),
        ([talk, [{"role": "user"}]], r"conversations\[1\]"),
    ):
        with pytest.raises(InputError, match=words):
            kerasllm.ConversationData(wrong, tokenizer=bpe)


def test_conversations_have_the_form_that_the_tokenizer_brings(bpe, tmp_path):
    talk = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c d"}]
    template = "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    named = [{"name": "default", "template": template}, {"name": "other", "template": "x"}]
    for given in (template, named):
        kerasllm.save_tokenizer(bpe, tmp_path, chat_template=given)
        data = kerasllm.ConversationData(
            [talk], tokenizer=kerasllm.load_tokenizer(tmp_path), context_length=32
        )
        row = bpe.decode(data[0][0]["token_ids"][0].tolist(), skip_special_tokens=False)
        assert row.startswith("<u>a b<|endoftext|><a>c d")


def test_what_is_no_tokenizer_is_told(bpe):
    class Other:
        """A tokenizer of another library."""

    for tokenizer, words in (
        ("my_bert", "load_tokenizer reads it from there"),
        (Other(), "is a Other, it must be"),
    ):
        for make in (
            lambda own: classification(own),
            lambda own: kerasllm.MaskedLanguageModelData(TEXTS, tokenizer=own),
            lambda own: kerasllm.CausalLanguageModelData(TEXTS, tokenizer=own),
            lambda own: kerasllm.ConversationData([], tokenizer=own),
            lambda own: kerasllm.Predictor(kerasllm.BertMaskedLM(config()), own),
        ):
            with pytest.raises(InputError, match=words):
                make(tokenizer)
    model = kerasllm.BertClassifier(config(vocabulary_size=300), label_names=["even", "odd"])
    model.compile("sgd")
    with pytest.raises(InputError, match=r"has no \[CLS\] and \[SEP\]"):
        model.fit(classification(bpe), verbose=0)


def test_any_keras_model_reads_new_epochs(tokenizer):
    """Another model's `fit` goes on to the next epoch after a whole pass."""
    data = classification(tokenizer)
    for expected in (0, 1):
        assert data.epoch == expected
        data.on_epoch_begin()
        items = [data[index] for index in range(len(data))]
        data.on_epoch_end()
        assert len(items) == 3
    data.on_epoch_begin()
    data[0]
    data.on_epoch_end()  # Keras reads one batch to build a model
    assert data.epoch == 2
