"""The same vectors in sentence-transformers and here, its losses, and trec_eval's figures by ir-measures."""

import numpy as np
import pytest

from kerasllm import BertConfig, BertEncoder, CoSENTLoss, RankingLoss
from kerasllm.data.sources.judgements import run_lines
from kerasllm.retrieval.figures import retrieval_figures
from kerasllm.tasks.sentence_encoder import SentenceEncoder
from kerasllm.tokenizers.wordpiece import train_wordpiece

TEXTS = ["a small red house", "two dogs play in the snow near an old house", "snow " * 60, "dogs"]


def test_vectors_are_those_of_sentence_transformers(tmp_path):
    theirs = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed in this environment"
    )
    tokenizer = train_wordpiece([text for text in TEXTS for _ in range(3)], 80)
    config = BertConfig(
        vocabulary_size=tokenizer.get_vocab_size(),
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        max_sequence_length=40,
        initializer_range=0.3,
    )
    for number, settings in enumerate(
        [
            {"pooling": "mean", "sequence_length": 20},
            {"pooling": "cls", "normalize": False},
            {"pooling": "max", "projection_dim": 6, "projection_activation": "tanh"},
        ]
    ):
        ours = tmp_path / str(number)
        BertEncoder(config, seed=number, **settings).save_pretrained(ours, tokenizer=tokenizer)
        expected = SentenceEncoder.open(str(ours)).encode(TEXTS)
        model = theirs.SentenceTransformer(str(ours), device="cpu")
        np.testing.assert_allclose(model.encode(TEXTS), expected, rtol=0, atol=1e-5)
        model.save(str(tmp_path / "again"))
        np.testing.assert_allclose(
            SentenceEncoder.open(str(tmp_path / "again")).encode(TEXTS), expected, rtol=0, atol=1e-5
        )


def test_losses_are_those_of_sentence_transformers():
    pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed in this environment"
    )
    import torch
    from sentence_transformers import losses

    random = np.random.default_rng(0)
    columns = [random.standard_normal((6, 8)).astype(np.float32) for _ in range(3)]
    scores = random.random(6).astype(np.float32)

    def ours(loss, count):
        labels = np.zeros((6 * count, 4), np.float32)
        labels[:, 0], labels[:, 1] = np.tile(np.arange(6), count), np.repeat(np.arange(count), 6)
        labels[:, 2], labels[:, 3] = np.arange(6 * count), np.tile(scores, count)
        return float(loss(labels, np.concatenate(columns[:count])))

    tensors = [torch.tensor(column) for column in columns]
    ranking = losses.MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0)
    for count in (2, 3):
        theirs = float(ranking.compute_loss_from_embeddings(tensors[:count], None))
        assert ours(RankingLoss(), count) == pytest.approx(theirs, abs=1e-5)
    cosent = losses.CoSENTLoss(torch.nn.Identity())
    theirs = float(cosent.compute_loss_from_embeddings(tensors[:2], torch.tensor(scores)))
    assert ours(CoSENTLoss(), 2) == pytest.approx(theirs, abs=1e-5)


def test_figures_are_those_of_ir_measures():
    """Graded gains, documents without judgement, equal scores, and a query without results."""
    measures = pytest.importorskip("ir_measures", reason="ir-measures is not installed in this environment")
    pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed in this environment")
    random = np.random.default_rng(1)
    gains = {
        str(query): {f"d{d}": int(random.integers(0, 4)) for d in random.choice(200, 30, replace=False)}
        for query in range(12)
    }
    run = {
        str(query): {
            f"d{d}": round(float(random.random()), 2) for d in random.choice(200, 120, replace=False)
        }
        for query in range(11)
    }
    wanted = {
        "ndcg@10": measures.nDCG @ 10,
        "map": measures.AP,
        "mrr": measures.RR,
        "recall@1": measures.R @ 1,
        "recall@10": measures.R @ 10,
        "recall@100": measures.R @ 100,
    }
    theirs = measures.calc_aggregate(list(wanted.values()), gains, run)
    ours = retrieval_figures(gains, run)
    ours.pop("mrr@10")
    assert ours == {name: pytest.approx(theirs[measure], abs=1e-9) for name, measure in wanted.items()}
    different = {query: {name: rank / 7 for rank, name in enumerate(found)} for query, found in run.items()}
    theirs = measures.calc_aggregate([measures.RR @ 10], gains, different)  # orders equal scores otherwise
    assert retrieval_figures(gains, different)["mrr@10"] == pytest.approx(theirs[measures.RR @ 10], abs=1e-9)
    assert run_lines({"1": [("d1", 0.5)]}) == "1 Q0 d1 1 0.5 kerasllm\n"
