"""Tags: decoding against brute force, figures by hand, and predictions for raw text."""

import itertools

import keras
import numpy as np
import pytest

from kerasllm import BertConfig, BertTokenClassifier
from kerasllm.data.batches.tagged import TaggingBatches
from kerasllm.data.examples.tagged import encode_words
from kerasllm.data.sources.tag_schemes import may_follow
from kerasllm.tasks import PredictionSettings, Tagging, task_of
from kerasllm.tasks.entity_figures import tagging_figures
from kerasllm.tasks.saved_model import open_model
from kerasllm.tasks.viterbi import decode_legal
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.wordpiece import bert_tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ann", "##a", "sings", "in", "rome", "."]
TOKENIZER = bert_tokenizer({piece: index for index, piece in enumerate(PIECES)}, {"do_lower_case": True})
NAMES = ("O", "B-P", "I-P")
BIOES = ("O", "B-P", "I-P", "E-P", "S-P", "B-L", "I-L", "E-L", "S-L")


@pytest.mark.parametrize(("names", "scheme"), [(NAMES, "IOB2"), (BIOES[:5], "BIOES")])
def test_viterbi_equals_brute_force(names, scheme):
    random = np.random.default_rng(0)
    lengths = np.array([3, 1, 4, 2])
    scores = random.normal(size=(10, len(names)))
    expected, start = [], 0
    for length in lengths:
        legal = [
            path
            for path in itertools.product(range(len(names)), repeat=length)
            if all(
                may_follow(one, other, scheme)
                for one, other in itertools.pairwise([None, *(names[i] for i in path), None])
            )
        ]
        expected.append(
            max(legal, key=lambda path: sum(scores[start + i, tag] for i, tag in enumerate(path)))
        )
        start += length
    found = decode_legal(scores, lengths, names, scheme)
    assert [tuple(tags) for tags in found] == expected


def test_figures_by_hand():
    """Two entities of three are found; one of the two predicted types is spurious."""
    right = [["B-P", "I-P", "O", "B-L"], ["B-P", "O"]]
    found = [["B-P", "I-P", "O", "B-P"], ["I-P", "O"]]
    figures = tagging_figures(right, found, "IOB2")
    assert figures["accuracy"] == 4 / 6
    assert figures["precision"] == figures["recall"] == figures["f1"] == 2 / 3
    assert figures["types"]["P"] == {"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "entities": 2}
    assert figures["types"]["L"]["f1"] == 0.0 and figures["f1_macro"] == 0.4
    assert figures["f1_strict"] == pytest.approx(2 / 5)
    assert tagging_figures([["O"]], [["O"]], "IOB2")["f1"] == 0.0
    assert tagging_figures(right, found, "none") == {"accuracy": 4 / 6}


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """A model that gives "ann" and "rome" B-P, and "##a" and "sings" I-P, by its embeddings alone."""
    directory = tmp_path_factory.mktemp("tagger")
    config = BertConfig(
        vocabulary_size=len(PIECES),
        num_layers=1,
        num_heads=1,
        hidden_dim=4,
        max_sequence_length=16,
        dropout=0,
    )
    model = BertTokenClassifier(config, label_names=NAMES, seed=0)
    for name, variable in model.named_variables().items():
        value = np.zeros(variable.shape, "float32")
        if name.endswith("norm_scale"):
            value += 1
        if name == "embeddings/token":
            value[:, 0] = 1
            value[[5, 9]] = [[0, 1, 0, 0]]
            value[[6, 7]] = [[0, 0, 1, 0]]
        if name == "classifier/kernel":
            value[:3, :3] = np.eye(3)
        variable.assign(value)
    model.save_pretrained(directory)
    save_tokenizer(TOKENIZER, directory, max_length=16)
    return directory


def test_predictions_are_whole_words_with_places(tagger):
    saved = open_model(str(tagger), BertConfig)
    assert task_of(saved) is Tagging
    texts = [("😀 Anna sings in ROME.",), ("in",), ("",)]
    model = Tagging.load(saved)
    rows, num_cut = Tagging.predict(model, saved.tokenizer, texts, PredictionSettings(16))
    assert num_cut == 0
    assert [[(e["text"], e["label"], e["start"], e["end"]) for e in row["entities"]] for row in rows] == [
        [("Anna sings", "P", 2, 12), ("ROME", "P", 16, 20)],
        [],
        [],
    ]
    assert 0.5 < rows[0]["entities"][0]["score"] < 1
    assert Tagging.show(Tagging.record(texts[0], rows[0]))[2].endswith("\t16-20\tROME")


def test_evaluation_counts_each_word_once(tagger):
    sentences = [("anna", "sings", "in", "rome"), ("in", "\ufe0f", "rome")]
    labels = np.array([1, 2, 0, 1, 0, 1, 1], "int32")
    model = BertTokenClassifier.from_pretrained(tagger)
    task = Tagging(NAMES, "IOB2")
    task.compile(model)
    figures = {}
    for length in (16, 5):
        encoded = encode_words(TOKENIZER, sentences, length, stride=0)
        batches = TaggingBatches(encoded, labels, batch_size=2, shuffle=False)
        figures[length] = task.evaluate(model, batches)
    assert figures[16]["accuracy"] == 6 / 7  # the word without a token is O
    assert figures[16]["precision"] == 1.0 and figures[16]["recall"] == 3 / 4
    assert {name: value for name, value in figures[5].items() if name != "loss"} == {
        name: value for name, value in figures[16].items() if name != "loss"
    }
    np.testing.assert_allclose(
        figures[16]["loss"], model.evaluate(batches, verbose=0, return_dict=True)["loss"], rtol=0.2
    )


def test_a_new_head_begins_with_the_frequencies(tagger):
    model = BertTokenClassifier.from_pretrained(tagger)
    model.classifier.kernel.assign(np.zeros(model.classifier.kernel.shape))
    model.begin_with_frequencies([97, 0, 1])
    inputs = {"token_ids": np.array([[2, 5, 3]], "int32")}
    shares = keras.ops.convert_to_numpy(keras.ops.softmax(model(inputs)))
    np.testing.assert_allclose(shares[0], [[98 / 101, 1 / 101, 2 / 101]] * 3, rtol=1e-5)
    model.begin_with_frequencies([0, 0, 9])  # it is no longer new
    np.testing.assert_allclose(keras.ops.convert_to_numpy(keras.ops.softmax(model(inputs))), shares)
