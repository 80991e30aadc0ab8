"""What users write: short scripts from texts to a trained model and what it says, as the README shows them."""

import keras
import numpy as np
import pytest

import kerasllm

pytestmark = [
    pytest.mark.usefixtures("uncompiled"),
    pytest.mark.filterwarnings("ignore:.*new, with initial values"),
]
SPAM = ["win a prize now", "free prize call now", "call to win free tones"]
HAM = ["see you at home", "i am at work", "home at last my dear"]
TEXTS, LABELS = (SPAM + HAM) * 4, (["spam"] * 3 + ["ham"] * 3) * 4
DOCUMENTS = [f"{one}. {two}.\n{one}. {two}." for one in SPAM for two in HAM]


@pytest.fixture(scope="module")
def my_bert(tmp_path_factory):
    """A BERT that has learned nothing, with its tokenizer."""
    path = tmp_path_factory.mktemp("bert")
    tokenizer = kerasllm.train_wordpiece(DOCUMENTS, vocabulary_size=80)
    config = kerasllm.BertConfig(
        vocabulary_size=80,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        max_sequence_length=32,
        dropout=0.0,
        initializer_range=0.3,
    )
    kerasllm.BertBackbone(config, seed=0).save_pretrained(path, tokenizer=tokenizer)
    return path


@pytest.fixture(scope="module")
def my_gpt(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt")
    tokenizer = kerasllm.train_characters([*DOCUMENTS, "User: Assistant:"])
    config = kerasllm.GPTConfig(
        vocabulary_size=tokenizer.get_vocab_size(),
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        max_sequence_length=64,
    )
    kerasllm.GPTCausalLM(config, seed=0).save_pretrained(path, tokenizer=tokenizer)
    return path


def test_classifier(my_bert):
    tokenizer = kerasllm.load_tokenizer(my_bert)
    model = kerasllm.BertClassifier.from_pretrained(my_bert, label_names=["ham", "spam"], seed=0)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(
        kerasllm.TextClassificationData(TEXTS, LABELS, tokenizer=tokenizer, batch_size=8),
        epochs=10,
        verbose=0,
    )
    found = kerasllm.Predictor(model, tokenizer).predict(["win a prize now", "i am at home"])
    assert [row["label"] for row in found] == ["spam", "ham"] and min(row["score"] for row in found) > 0.8


def test_pairs_with_adapters(my_bert, tmp_path):
    tokenizer = kerasllm.load_tokenizer(my_bert)
    pairs = [(one, two) for one in SPAM + HAM for two in SPAM + HAM]
    alike = [int((one in SPAM) == (two in SPAM)) for one, two in pairs]
    model = kerasllm.BertClassifier.from_pretrained(my_bert, lora_rank=4, seed=0)
    model.compile(keras.optimizers.Adam(1e-2), metrics=["accuracy"])
    data = kerasllm.TextClassificationData(pairs, alike, tokenizer=tokenizer, batch_size=12)
    history = model.fit(data, epochs=2, validation_data=data, class_weight={0: 1.0, 1: 2.0}, verbose=0)
    assert {"accuracy", "val_accuracy"} <= set(history.history)
    model.save_pretrained(tmp_path, tokenizer=tokenizer)
    found = kerasllm.load(tmp_path).predict(pairs[:3])
    expected = kerasllm.Predictor(model, tokenizer).predict(pairs[:3])
    assert [row["score"] for row in found] == pytest.approx([row["score"] for row in expected], abs=1e-5)


def test_regression(my_bert):
    tokenizer = kerasllm.load_tokenizer(my_bert)
    model = kerasllm.BertRegressor.from_pretrained(my_bert, seed=0)
    model.compile(keras.optimizers.Adam(1e-2))
    numbers = [float(label == "spam") for label in LABELS]
    model.fit(
        kerasllm.TextRegressionData(TEXTS, numbers, tokenizer=tokenizer, batch_size=8), epochs=14, verbose=0
    )
    one, other = kerasllm.Predictor(model, tokenizer).predict([SPAM[0], HAM[0]])
    assert one["value"] > 0.7 and other["value"] < 0.3


def test_several_labels(my_bert):
    tokenizer = kerasllm.load_tokenizer(my_bert)
    topics = [[word for word in ("free", "home", "win") if word in text.split()] for text in TEXTS]
    model = kerasllm.BertClassifier.from_pretrained(
        my_bert, label_names=["home", "win", "free"], multi_label=True, seed=0
    )
    model.compile(keras.optimizers.Adam(1e-2))
    data = kerasllm.TextClassificationData(TEXTS, topics, tokenizer=tokenizer, batch_size=8, multi_label=True)
    model.fit(data, epochs=12, verbose=0)
    found = kerasllm.Predictor(model, tokenizer).predict(TEXTS[:6])
    assert [sorted(row["labels"]) for row in found] == topics[:6]


@pytest.mark.parametrize("pairs", [False, True])
def test_pretraining(tmp_path, pairs):
    tokenizer = kerasllm.train_wordpiece(DOCUMENTS, vocabulary_size=80)
    config = kerasllm.BertConfig(
        vocabulary_size=80, num_layers=1, num_heads=2, hidden_dim=16, max_sequence_length=32
    )
    model = (kerasllm.BertPretraining if pairs else kerasllm.BertMaskedLM)(config, seed=0)
    model.compile(keras.optimizers.Adam(1e-2))
    data_class = kerasllm.SentencePairPretrainingData if pairs else kerasllm.MaskedLanguageModelData
    history = model.fit(
        data_class(DOCUMENTS, tokenizer=tokenizer, batch_size=4, sequence_length=32), epochs=3, verbose=0
    )
    assert history.history["loss"][-1] < history.history["loss"][0]
    model.save_pretrained(tmp_path, tokenizer=tokenizer)
    (found,) = kerasllm.load(tmp_path).predict(["see you at [MASK]."], top_k=3)
    assert len(found["masks"][0]) == 3


def test_causal_language_model(my_gpt):
    tokenizer = kerasllm.load_tokenizer(my_gpt)
    model = kerasllm.GPTCausalLM.from_pretrained(my_gpt)
    model.compile(keras.optimizers.Adam(1e-2))
    data = kerasllm.CausalLanguageModelData(DOCUMENTS, tokenizer=tokenizer, context_length=32, batch_size=8)
    history = model.fit(data, epochs=3, validation_data=data, verbose=0)
    assert history.history["val_loss"][-1] < history.history["val_loss"][0]
    texts = kerasllm.Predictor(model, tokenizer).generate(["see ", "win "], max_new_tokens=3)
    assert [text[:4] for text in texts] == ["see ", "win "]


def test_conversations(my_gpt):
    tokenizer = kerasllm.load_tokenizer(my_gpt)
    model = kerasllm.GPTCausalLM.from_pretrained(my_gpt)
    model.compile(keras.optimizers.Adam(1e-2))
    talks = [[{"role": "user", "content": one}, {"role": "assistant", "content": "home"}] for one in HAM]
    data = kerasllm.ConversationData(talks, tokenizer=tokenizer, batch_size=2)
    losses = model.fit(data, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_one_seed_one_curve(my_bert):
    """Whatever `shuffle` of `fit` is, and whatever Python's own random numbers are."""
    tokenizer = kerasllm.load_tokenizer(my_bert)
    curves = []
    for _ in range(2):
        model = kerasllm.BertClassifier.from_pretrained(my_bert, label_names=["ham", "spam"], seed=0)
        model.compile(keras.optimizers.Adam(1e-2))
        data = kerasllm.TextClassificationData(TEXTS, LABELS, tokenizer=tokenizer, batch_size=8, seed=1)
        curves.append(model.fit(data, epochs=2, verbose=0).history["loss"])
    np.testing.assert_array_equal(*curves)
