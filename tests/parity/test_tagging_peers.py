"""Figures of tags against seqeval, and entities in raw text against the pipeline of transformers."""

import numpy as np
import pytest

from kerasllm import BertConfig, BertTokenClassifier
from kerasllm.tasks import PredictionSettings, Tagging
from kerasllm.tasks.entity_figures import tagging_figures
from kerasllm.tasks.saved_model import open_model
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.wordpiece import train_wordpiece

seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed in this environment")
transformers = pytest.importorskip("transformers", reason="transformers is not installed in this environment")

TAGS = {
    "IOB2": ["O", "B-A", "I-A", "B-B-C", "I-B-C"],
    "BIOES": ["O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "E-B", "S-B"],
}


@pytest.mark.parametrize("scheme", TAGS)
def test_figures_are_those_of_seqeval(scheme):
    from seqeval import scheme as schemes

    strict = {"mode": "strict", "scheme": {"IOB2": schemes.IOB2, "BIOES": schemes.IOBES}[scheme]}
    random = np.random.default_rng(0)
    for _ in range(200):
        lengths = random.integers(1, 12, random.integers(1, 6))
        right = [["O", *random.choice(TAGS[scheme], length).tolist(), TAGS[scheme][1]] for length in lengths]
        found = [
            [tag if random.random() < 0.7 else str(random.choice(TAGS[scheme])) for tag in own]
            for own in right
        ]
        figures = tagging_figures(right, found, scheme)
        settings = {"zero_division": 0}
        assert figures["f1"] == pytest.approx(seqeval.f1_score(right, found, **settings))
        assert figures["precision"] == pytest.approx(seqeval.precision_score(right, found, **settings))
        assert figures["recall"] == pytest.approx(seqeval.recall_score(right, found, **settings))
        assert figures["f1_macro"] == pytest.approx(
            seqeval.f1_score(right, found, average="macro", **settings)
        )
        assert figures["f1_strict"] == pytest.approx(seqeval.f1_score(right, found, **settings, **strict))
        assert figures["accuracy"] == pytest.approx(seqeval.accuracy_score(right, found))


def test_entities_are_those_of_the_pipeline_of_transformers(tmp_path):
    texts = ["Ann O'Hara sings in São Paulo.", "😀 東京 is big, Ann said", "unbelievable"]
    tokenizer = train_wordpiece(texts * 3, 60)
    config = BertConfig(
        vocabulary_size=60,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        max_sequence_length=64,
        initializer_range=1.0,
    )
    model = BertTokenClassifier(config, label_names=TAGS["IOB2"], seed=1)
    model.save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path, max_length=64)
    pipeline = transformers.pipeline("ner", str(tmp_path), aggregation_strategy="first", device="cpu")
    saved = open_model(str(tmp_path), BertConfig)
    ours, _ = Tagging.predict(model, saved.tokenizer, [(text,) for text in texts], PredictionSettings(64))
    total = 0
    for row, theirs in zip(ours, pipeline(texts), strict=True):
        expected = [(each["entity_group"], each["start"], each["end"]) for each in theirs]
        assert [(each["label"], each["start"], each["end"]) for each in row["entities"]] == expected
        scores = [each["score"] for each in row["entities"]]
        np.testing.assert_allclose(scores, [each["score"] for each in theirs], atol=1e-3)
        total += len(expected)
    assert total > 3
