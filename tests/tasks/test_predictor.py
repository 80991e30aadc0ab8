"""Predictions of texts against what the models compute for one text at a time; lazily, cut, in threads."""

import threading

import numpy as np
import pytest
from keras import ops

import kerasllm
from kerasllm.errors import InputError, InputWarning
from kerasllm.tasks.sentence_encoder import SentenceEncoder

TEXTS = ["a b c", "b", "c d e f g h a b c", "h [MASK] g", "a"]


@pytest.fixture(scope="module")
def tokenizer():
    return kerasllm.train_wordpiece(["a b c d e f g h"] * 3, vocabulary_size=40)


def shape():
    return kerasllm.BertConfig(
        vocabulary_size=40,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        max_sequence_length=16,
        initializer_range=0.5,
    )


def alone(model, tokenizer, text):
    ids = tokenizer.encode(*([text] if isinstance(text, str) else text))
    inputs = {"token_ids": np.array([ids.ids]), "segment_ids": np.array([ids.type_ids])}
    outputs = model(inputs)
    return ops.convert_to_numpy(outputs["masked_lm"] if isinstance(outputs, dict) else outputs)[0]


def test_classes(tokenizer, tmp_path):
    model = kerasllm.BertClassifier(shape(), label_names=["ham", "spam", "other"], seed=0)
    predictor = kerasllm.Predictor(model, tokenizer)
    found = predictor.predict(TEXTS, probabilities=True, batch_size=1)
    for text, prediction in zip(TEXTS, found, strict=True):
        logits = alone(model, tokenizer, text)
        expected = np.exp(logits) / np.exp(logits).sum()
        assert prediction["label"] == model.label_names[expected.argmax()]
        assert prediction["score"] == pytest.approx(expected.max(), abs=1e-5)
        assert list(prediction["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
    assert predictor.predict("a b c") == [
        pytest.approx({"label": found[0]["label"], "score": found[0]["score"]})
    ]
    assert predictor.predict([]) == []
    (pair,) = predictor.predict([("a", "b c")])
    logits = alone(model, tokenizer, ("a", "b c"))
    assert pair["score"] == pytest.approx(np.exp(logits).max() / np.exp(logits).sum(), abs=1e-5)
    lazy = predictor.predict((text for text in TEXTS), batch_size=1)
    assert next(lazy)["label"] == found[0]["label"] and len(list(lazy)) == 4
    model.save_pretrained(tmp_path, tokenizer=tokenizer)
    again = kerasllm.load(tmp_path).predict(TEXTS, batch_size=1)
    assert [row["label"] for row in again] == [row["label"] for row in found]
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(predictor.predict(TEXTS, batch_size=1)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (
        all([row["label"] for row in rows] == [row["label"] for row in found] for rows in results)
        and len(results) == 3
    )


def test_several_labels_and_numbers(tokenizer):
    model = kerasllm.BertClassifier(shape(), label_names=["x", "y", "z"], multi_label=True, seed=1)
    (found,) = kerasllm.Predictor(model, tokenizer).predict(["a b"], probabilities=True)
    scores = 1 / (1 + np.exp(-alone(model, tokenizer, "a b")))
    assert found["labels"] == [name for name, score in zip("xyz", scores, strict=True) if score > 0.5]
    assert list(found["probabilities"].values()) == pytest.approx(scores, abs=1e-5)
    assert found["scores"] == pytest.approx([score for score in scores if score > 0.5], abs=1e-5)
    number = kerasllm.BertRegressor(shape(), seed=1)
    (found,) = kerasllm.Predictor(number, tokenizer).predict([("a", "b")])
    assert found == {"value": pytest.approx(alone(number, tokenizer, ("a", "b")), abs=1e-5)}


def test_masks(tokenizer):
    model = kerasllm.BertMaskedLM(shape(), seed=0)
    predictor = kerasllm.Predictor(model, tokenizer)
    (found,) = predictor.predict(["h [MASK] g"], top_k=2)
    logits = alone(model, tokenizer, "h [MASK] g")[2]
    assert [each["token"] for each in found["masks"][0]] == [
        tokenizer.id_to_token(int(number)) for number in np.argsort(-logits)[:2]
    ]
    with pytest.raises(InputError, match=r"holds no \[MASK\]"):
        predictor.predict(["a"])
    with pytest.raises(InputError, match="does not continue texts"):
        predictor.generate("a")


def test_what_is_wrong(tokenizer):
    predictor = kerasllm.Predictor(kerasllm.BertClassifier(shape(), seed=0), tokenizer)
    with pytest.warns(InputWarning, match="1 of 2 texts were cut to 16 tokens"):
        predictor.predict(["a", "a b c d e f g h " * 9])
    for texts, words in (
        ([3], r"texts\[0\] is 3"),
        ({"a": 1}, "must be a list"),
        (["a", None], r"texts\[1\]"),
    ):
        with pytest.raises(InputError, match=words):
            predictor.predict(texts)
    with pytest.raises(InputError, match="above the model's 16 positions"):
        predictor.predict(["a"], sequence_length=17)
    with pytest.raises(InputError, match="of no task"):
        kerasllm.Predictor(object(), tokenizer)
    other = kerasllm.train_byte_level_bpe(["a b c"], vocabulary_size=260)
    with pytest.raises(InputError, match="the tokenizer has 257 tokens, the model 40"):
        kerasllm.Predictor(predictor.model, other)


def test_a_backbone_alone_is_for_vectors(tokenizer, tmp_path):
    kerasllm.BertBackbone(shape(), seed=0).save_pretrained(tmp_path, tokenizer=tokenizer)
    with pytest.raises(InputError, match=r"hold no masked_lm_head.*BertEncoder\.from_pretrained"):
        kerasllm.load(tmp_path)


def test_texts_are_continued(tmp_path):
    tokenizer = kerasllm.train_characters(["abcdefgh "])
    config = kerasllm.GPTConfig(
        vocabulary_size=10,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        max_sequence_length=24,
        initializer_range=0.5,
    )
    model = kerasllm.GPTCausalLM(config, seed=0)
    model.save_pretrained(tmp_path, tokenizer=tokenizer)
    predictor = kerasllm.load(tmp_path)
    prompts = ["ab", "abc", "h"]
    settings = {"max_new_tokens": 4, "temperature": 1.0, "seed": 3}
    expected = model.generate(prompts, tokenizer=tokenizer, **settings)
    assert predictor.generate(prompts, batch_size=2, **settings) == expected
    assert list(predictor.generate(iter(prompts), batch_size=1, **settings)) == expected
    assert predictor.generate("ab", **settings) == expected[0]
    assert predictor.predict(["ab"])[0]["text"].startswith("ab")
    with pytest.raises(InputError, match="prompt is one text"):
        predictor.generate([("a", "b")])
    with pytest.raises(InputError, match="temperature"):
        predictor.generate("a", temperature=-1)


def test_a_wrong_text_is_named_by_its_place_among_all():
    """Texts are read some batches at a time, and continued a batch at a time."""
    tokenizer = kerasllm.train_characters(["abcdefgh "])
    shape = kerasllm.RecurrentConfig(vocabulary_size=10, hidden_dim=4)
    classifier = kerasllm.Predictor(kerasllm.RecurrentClassifier(shape, seed=0), tokenizer)
    with pytest.raises(InputError, match=r"^text 20: .*character 'x'"):
        classifier.predict([*["ab"] * 19, "x"], batch_size=1)
    continuing = kerasllm.Predictor(kerasllm.RecurrentLM(shape, seed=0), tokenizer)
    for texts in (["ab", "a", "b", "x"], iter(["ab", "a", "b", "x"])):
        with pytest.raises(InputError, match=r"^prompt 4: .*character 'x'"):
            list(continuing.predict(texts, batch_size=2))
    with pytest.raises(InputError, match=r"^prompt 3 is empty"):
        continuing.generate(["ab", "a", ""], batch_size=2, max_new_tokens=1)


def test_vectors_are_of_the_tokens_that_the_encoder_is_made_for(tokenizer):
    predictor = kerasllm.Predictor(kerasllm.BertEncoder(shape(), sequence_length=6, seed=0), tokenizer)
    text = "a b c d e f g h"
    with pytest.warns(InputWarning, match="1 of 1 texts were cut to 6 tokens"):
        found = predictor.predict([text])
    (expected,) = SentenceEncoder(predictor.model, tokenizer).encode([text])
    assert found[0]["vector"] == pytest.approx(expected.tolist(), abs=1e-6)
    (whole,) = predictor.predict([text], sequence_length=16)
    assert whole["vector"] != pytest.approx(expected.tolist(), abs=1e-3)
    with pytest.raises(InputError, match="sequence_length 0 leaves no room"):
        predictor.predict([text], sequence_length=0)


def test_a_length_is_refused_where_it_would_have_no_effect():
    tokenizer = kerasllm.train_characters(["abcdefgh "])
    shape = kerasllm.RecurrentConfig(vocabulary_size=10, hidden_dim=4)
    with pytest.raises(InputError, match="sequence_length has no effect on causal lm: leave it out"):
        kerasllm.Predictor(kerasllm.RecurrentLM(shape, seed=0), tokenizer).predict("ab", sequence_length=4)
