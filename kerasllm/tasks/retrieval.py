"""Retrieval: indexes are built with an encoder and searched for queries, alone or several together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kerasllm.data.sources.documents import Cutting, Passage
from kerasllm.errors import InputError
from kerasllm.files.hashes import model_hash
from kerasllm.retrieval.index import Index, build_index, check_target
from kerasllm.retrieval.search import fuse
from kerasllm.tasks.reranking import Reranker
from kerasllm.tasks.sentence_encoder import SentenceEncoder

Results = dict[str, list[tuple[str, float]]]
"""For each query the ids of passages and their scores, best first."""


def build(
    directory: str,
    documents: str,
    model: str,
    *,
    cutting: Cutting | None = None,
    stemmer: str | None = "english",
    faiss: str | None = None,
    window_sentences: int | None = None,
    sequence_length: int | None = None,
    batch_size: int = 64,
) -> tuple[Index, int]:
    """Builds an index of documents.

    Args:
        directory: the directory of the index.
        documents: the file or directory of documents.
        model: "bm25", or an encoder: a run, a model directory or a hub id.
        cutting: how text files are cut into passages.
        stemmer: BM25's stemmer, or None.
        faiss: the description of faiss' index, or None for exact search.
        window_sentences: sentences of the windows by which an encoder finds a passage; None for the whole passage.
        sequence_length: tokens to which an encoder cuts longer passages; None means as many as it is made for.
        batch_size: number of passages that are encoded at a time.

    Returns:
        The index, and the number of passages of which the encoder has read only the beginning.

    Raises:
        InputError: the documents or the model cannot be read, or the directory cannot be written.
    """
    check_target(Path(directory))
    if model == "bm25":
        if window_sentences is not None:
            raise InputError("--window_sentences is for an encoder: BM25 counts the words of whole passages")
        return build_index(directory, documents, model=model, cutting=cutting, stemmer=stemmer), 0
    encoder = SentenceEncoder.open(model)
    index = build_index(
        directory,
        documents,
        model=os.path.abspath(encoder.place),
        encode=lambda texts: encoder.encode(
            texts, "document", sequence_length=sequence_length, batch_size=batch_size
        ),
        model_hash=model_hash(encoder.place),
        cutting=cutting,
        faiss=faiss,
        window_sentences=window_sentences,
    )
    return index, encoder.num_truncated


class Retriever:
    """One index, or several of the same documents, whose results are fused; and a reranker, if there is one.

    Args:
        directories: the directories of the indexes.
        rerank: a model that scores pairs, as `Reranker` takes it, or None.

    Raises:
        InputError: an index cannot be opened, its model has changed, or the indexes are of different passages.
    """

    def __init__(self, directories: Sequence[str], rerank: str | None = None) -> None:
        self.indexes = [Index.open(directory) for directory in directories]
        self.passages: dict[str, Passage] = {passage.id: passage for passage in self.indexes[0].passages}
        for index in self.indexes[1:]:
            if index.passages != self.indexes[0].passages:
                raise InputError(
                    f"{index.directory}: holds other passages than {self.indexes[0].directory}: build both from the "
                    "same documents, cut alike"
                )
        self._encoders = [None if index.is_bm25 else _encoder_of(index) for index in self.indexes]
        self._reranker = Reranker(rerank) if rerank else None

    def search(self, queries: Sequence[Passage], count: int, *, rerank_count: int = 100) -> Results:
        """Returns the best passages for each query.

        Args:
            queries: the queries.
            count: number of passages to find for each.
            rerank_count: number of passages that the reranker scores, which then come first.
        """
        texts = [query.text for query in queries]
        found: list[Results] = []
        for index, encoder in zip(self.indexes, self._encoders, strict=True):
            given = texts if encoder is None else encoder.encode(texts, "query")
            rows = index.search(given, count)
            found.append(
                {
                    query.id: [(index.passages[place].id, score) for place, score in row if place >= 0]
                    for query, row in zip(queries, rows, strict=True)
                }
            )
        results = found[0]
        if len(found) > 1:
            lists = [{query: [name for name, _ in own] for query, own in each.items()} for each in found]
            results = {query: own[:count] for query, own in fuse(lists).items()}
        return results if self._reranker is None else self._reranked(queries, results, rerank_count)

    def _reranked(self, queries: Sequence[Passage], results: Results, count: int) -> Results:
        assert self._reranker is not None
        pairs = [
            (query.text, self.passages[name].text)
            for query in queries
            for name, _ in results[query.id][:count]
        ]
        if not pairs:
            return results
        scores = iter(self._reranker.scores(pairs).tolist())
        reranked: Results = {}
        for query in queries:
            first, rest = results[query.id][:count], results[query.id][count:]
            scored = sorted(
                ((name, next(scores)) for name, _ in first), key=lambda pair: pair[1], reverse=True
            )
            least = scored[-1][1] if scored else 0.0
            below = [(name, least - rank) for rank, (name, _) in enumerate(rest, 1)]
            reranked[query.id] = scored + below
        return reranked


def _encoder_of(index: Index) -> SentenceEncoder:
    """Returns the encoder that an index was built with.

    Raises:
        InputError: it is missing or has changed.
    """
    directory = Path(index.built.model)
    if not directory.is_dir():
        raise InputError(f"{index.directory}: its encoder {directory} is missing; build the index anew")
    if model_hash(directory) != index.built.model_hash:
        raise InputError(f"{index.directory}: its encoder {directory} has changed; build the index anew")
    return SentenceEncoder.open(str(directory))
