"""Search, fusion, figures and indexes, against full sorting and figures computed by hand."""

import json
import math

import numpy as np
import pytest

from kerasllm.errors import InputError
from kerasllm.retrieval import search
from kerasllm.retrieval.figures import ranked, retrieval_figures
from kerasllm.retrieval.index import Index, build_index
from kerasllm.retrieval.search import fuse, nearest
from kerasllm.retrieval.windows import by_best_window, sentence_windows

DOCUMENTS = {"a": "the wings of birds", "b": "heat of a plate", "c": "wings, wings and feathers", "d": ""}


def test_blocks_find_what_sorting_finds(monkeypatch):
    random = np.random.default_rng(0)
    vectors = random.standard_normal((200, 6)).astype(np.float32)
    vectors[3] *= 9
    vectors[150] = vectors[3]
    queries = np.concatenate([random.standard_normal((5, 6)), vectors[3:4]]).astype(np.float32)
    products = queries @ vectors.T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :7]
    for size in (1 << 27, 6 * 4 * 9):
        monkeypatch.setattr(search, "_BYTES", size)
        places, scores = nearest(queries, vectors, 7)
        np.testing.assert_array_equal(places[:5], expected[:5])
        np.testing.assert_allclose(scores, np.take_along_axis(products, expected, axis=1), rtol=1e-4)
    assert set(places[5, :2]) == {3, 150}
    assert nearest(queries, vectors[:2], 7)[0].shape == (6, 2)


def test_fusion_sums_reciprocal_ranks():
    lists = [{"q": ["a", "b", "c"]}, {"q": ["c", "a"]}]
    fused = fuse(lists)["q"]
    assert [name for name, _ in fused] == ["a", "c", "b"]
    assert fused[0][1] == pytest.approx(1 / 61 + 1 / 62) and fused[2][1] == pytest.approx(1 / 62)


def test_figures_by_hand():
    """The first query finds gains 0, 2, 1 of 2, 1 and 3; the second is not answered; the third has nothing relevant."""
    gains = {"1": {"x": 2, "y": 1, "z": 3, "n": 0}, "2": {"x": 1}, "3": {"x": 0}}
    run = {"1": {"n": 3.0, "x": 2.0, "y": 1.0}, "3": {"x": 1.0}, "9": {"x": 1.0}}
    gained = 2 / math.log2(3) + 1 / math.log2(4)
    ideal = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    found = retrieval_figures(gains, run)
    assert found == {
        "ndcg@10": pytest.approx(gained / ideal / 3),
        "map": pytest.approx((1 / 2 + 2 / 3) / 3 / 3),
        "mrr": pytest.approx(1 / 2 / 3),
        "mrr@10": pytest.approx(1 / 2 / 3),
        "recall@1": 0,
        "recall@10": pytest.approx(2 / 3 / 3),
        "recall@100": pytest.approx(2 / 3 / 3),
    }
    assert ranked({"a": 1.0, "c": 1.0, "b": 2.0}) == ["b", "c", "a"]


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text(
        "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in DOCUMENTS.items()),
        encoding="utf-8",
    )
    return path


def letters(texts):
    """Vectors that count letters."""
    vectors = np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts], np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def test_an_index_of_words(documents, tmp_path):
    pytest.importorskip("bm25s", reason="bm25s is not installed in this environment")
    index = build_index(tmp_path / "index", documents, model="bm25")
    assert index.is_bm25 and [passage.id for passage in index.passages] == list(DOCUMENTS)
    (found, nothing) = Index.open(tmp_path / "index").search(["wing", "zebra"], 3)
    assert [index.passages[place].id for place, score in found if score > 0] == ["c", "a"]
    assert all(place == -1 and score == 0 for place, score in [*found[2:], *nothing])  # no word in common


def test_an_index_of_vectors_is_whole_or_not_there(documents, tmp_path):
    target = tmp_path / "index"
    with pytest.raises(ZeroDivisionError):
        build_index(target, documents, model="m", encode=lambda texts: np.zeros(1 // 0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents.jsonl"]
    for _ in range(2):  # the second replaces the first
        index = build_index(target, documents, model="m", encode=letters)
    assert index.passages[index.search(letters(["plate heat"]), 1)[0][0][0]].id == "b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents.jsonl", "index"]


def test_an_index_is_refused_when_its_documents_have_changed(documents, tmp_path):
    build_index(tmp_path / "index", documents, model="m", encode=letters)
    documents.write_text(documents.read_text() + '{"id": "e", "text": "new"}\n')
    with pytest.raises(InputError, match=r"'documents\.jsonl' of .* has changed since the index was built"):
        Index.open(tmp_path / "index")
    documents.unlink()
    with pytest.raises(InputError, match="is missing since the index was built"):
        Index.open(tmp_path / "index")
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("some words")
    build_index(tmp_path / "index", folder, model="m", encode=letters)
    (folder / "b.txt").write_text("more words")
    with pytest.raises(InputError, match=r"'b\.txt' of .* is new since"):
        Index.open(tmp_path / "index")


def test_other_directories_are_left_alone(documents, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="is there already, and is no index"):
        build_index(tmp_path / "mine", documents, model="m", encode=letters)
    with pytest.raises(InputError, match="there is no directory"):
        build_index(tmp_path / "no" / "index", documents, model="m", encode=letters)
    with pytest.raises(InputError, match="it is no index; build one first"):
        Index.open(tmp_path / "mine")


@pytest.mark.parametrize("file", ["index.json", "passages.jsonl", "vectors.npy"])
def test_a_damaged_index_is_refused(file, documents, tmp_path):
    build_index(tmp_path / "index", documents, model="m", encode=letters)
    (tmp_path / "index" / file).write_bytes(b"[1]\n")
    with pytest.raises(InputError, match=r"damaged|no JSON object|build the index anew"):
        Index.open(tmp_path / "index")


def test_the_best_window_finds_a_passage():
    """Against all windows scored, and the best of each text taken."""
    texts = ["One here. Two here. Three here.", "", "Four here.", "Five here. Six here."]
    windows, owners = sentence_windows(texts, 2)
    assert windows == [
        "One here. Two here.",
        "Two here. Three here.",
        "",
        "Four here.",
        "Five here. Six here.",
    ]
    assert owners.tolist() == [0, 0, 1, 2, 3]
    random = np.random.default_rng(0)
    owners = np.sort(np.concatenate([np.arange(30), random.integers(0, 30, 90)]))
    vectors, queries = (random.standard_normal((n, 6)).astype(np.float32) for n in (120, 5))
    products = queries @ vectors.T
    best = np.stack([products[:, owners == text].max(axis=1) for text in range(30)], axis=1)
    places, scores = by_best_window(lambda given, count: nearest(given, vectors, count), owners)(queries, 7)
    np.testing.assert_array_equal(places, np.argsort(-best, axis=1)[:, :7])
    np.testing.assert_allclose(scores, -np.sort(-best, axis=1)[:, :7], rtol=1e-5)


def test_an_index_of_windows(documents, tmp_path):
    words = ["wings", "heat", "birds", "plate"]

    def encode(texts):
        return np.array([[text.count(word) for word in words] for text in texts], np.float32)

    documents.write_text(
        '{"id": "a", "text": "Of wings. Of birds."}\n{"id": "b", "text": "Heat. Heat. Wings."}\n'
    )
    index = build_index(tmp_path / "i", documents, model="m", encode=encode, window_sentences=1)
    found = index.search(np.array([[1, 0, 1, 0], [0, 0, 0, 1]], np.float32), 5)
    assert [[place for place, _ in row] for row in found] == [[0, 1], [0, 1]]
    assert [score for _, score in found[0]] == [1, 0]  # one window holds wings, another birds
    np.save(tmp_path / "i" / "windows.npy", np.zeros(5, np.int64))
    with pytest.raises(InputError, match="build the index anew"):
        Index.open(tmp_path / "i")


def test_faiss_finds_what_exact_search_finds(documents, tmp_path):
    pytest.importorskip("faiss", reason="faiss is not installed in this environment")
    exact = build_index(tmp_path / "exact", documents, model="m", encode=letters)
    flat = build_index(tmp_path / "flat", documents, model="m", encode=letters, faiss="Flat")
    queries = letters(["plate heat", "wings"])
    for wanted, found in zip(exact.search(queries, 2), flat.search(queries, 2), strict=True):
        assert [place for place, _ in found] == [place for place, _ in wanted]
        np.testing.assert_allclose([score for _, score in found], [score for _, score in wanted], rtol=1e-5)
    assert len(flat.search(queries, 99)[0]) == len(DOCUMENTS)
    with pytest.raises(InputError, match="--faiss Fast: faiss cannot make such an index"):
        build_index(tmp_path / "other", documents, model="m", encode=letters, faiss="Fast")
    (tmp_path / "flat" / "vectors.faiss").write_bytes(b"spoilt")
    with pytest.raises(InputError, match=r"vectors\.faiss: cannot be read; build the index anew"):
        Index.open(tmp_path / "flat")
