"""Finds passages for queries: builds an index of documents, and searches one or several.

KERAS_BACKEND=jax python recipes/retrieve.py build --model runs/encoder --documents docs/ --output indexes/docs
KERAS_BACKEND=jax python recipes/retrieve.py search --index indexes/docs --query "how do I resume a run?"
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from kerasllm import cli
from kerasllm.cli.ranges import at_least
from kerasllm.data.sources.documents import Cutting, Passage, read_queries
from kerasllm.data.sources.judgements import read_judgements, run_lines
from kerasllm.errors import InputError
from kerasllm.files.atomic import check_writable, write_output
from kerasllm.retrieval.figures import retrieval_figures
from kerasllm.tasks.retrieval import Retriever
from kerasllm.tasks.retrieval import build as build_index


@dataclass
class BuildConfig:
    """Builds an index of documents."""

    model: str
    """bm25, or an encoder: a run, a model directory (also of sentence-transformers) or a hub id."""

    documents: str
    """A directory of text files, or a file: .jsonl or .tsv (id, text, title), or in SMART's or TREC's form."""

    output: str
    """Directory of the index; an index that is there is replaced."""

    passage_words: int = field(default=150, metadata=at_least(1))
    """Words of the passages that the files of a directory are cut into."""

    passage_overlap: int = field(default=30, metadata=at_least(0))
    """Words that neighboring passages share."""

    stemmer: str = "english"
    """Language of BM25's stemmer, or none."""

    faiss: str | None = None
    """Search with faiss: a description of its index, such as HNSW32 or IVF100,Flat; exact search if null."""

    window_sentences: int | None = field(default=None, metadata=at_least(1))
    """Sentences of the windows that an encoder reads, by the best of which a passage is found; whole if null."""

    sequence_length: int | None = field(default=None, metadata=at_least(3))
    """Tokens to which an encoder cuts longer passages; what it is made for if null."""

    batch_size: int = field(default=64, metadata=at_least(1))
    """Passages that are encoded at a time."""


@dataclass
class SearchConfig:
    """Searches indexes for queries."""

    index: list[str]
    """Directories of indexes; the results of several, such as vectors and BM25, are fused by reciprocal ranks."""

    query: str | None = None
    """A query, whose results are shown."""

    queries: str | None = None
    """File of queries, in one of the forms of documents."""

    qrels: str | None = None
    """File of judgements, for figures."""

    output: str | None = None
    """File for the results of --queries, in TREC's form."""

    figures: str | None = None
    """JSON file for the figures."""

    rerank: str | None = None
    """A BertRegressor or BertClassifier, trained on pairs of query and passage, that orders the best results anew."""

    rerank_count: int = field(default=100, metadata=at_least(1))
    """Number of results that --rerank orders anew."""

    count: int = field(default=1000, metadata=at_least(1))
    """Results for each query of --queries."""

    top_k: int = field(default=5, metadata=at_least(1))
    """Results that are shown for --query."""


def build(config: BuildConfig) -> int:
    """Builds an index of documents."""
    index, num_truncated = build_index(
        config.output,
        config.documents,
        config.model,
        cutting=Cutting(config.passage_words, config.passage_overlap),
        stemmer=None if config.stemmer == "none" else config.stemmer,
        faiss=config.faiss,
        window_sentences=config.window_sentences,
        sequence_length=config.sequence_length,
        batch_size=config.batch_size,
    )
    cut = f" (of {num_truncated:,} texts only the beginning)" if num_truncated else ""
    print(f"{len(index.passages):,} passages{cut}; written to {config.output}")
    return 0


def search(config: SearchConfig) -> int:
    """Searches indexes for queries."""
    if bool(config.query) == bool(config.queries):
        raise InputError("give either --query or --queries")
    if (not config.queries and (config.output or config.qrels)) or (config.figures and not config.qrels):
        raise InputError("--output and --qrels are for --queries, and --figures is for --qrels")
    for path in filter(None, (config.output, config.figures)):
        check_writable(Path(path))
    queries = read_queries(config.queries) if config.queries else [Passage("1", config.query or "")]
    judged = read_judgements(config.qrels) if config.qrels else None
    if judged and not {query.id for query in queries} & judged.gains.keys():
        raise InputError(f"--qrels {config.qrels}: judges none of the queries of {config.queries}")
    retriever = Retriever(config.index, config.rerank)
    count = config.count if config.queries else max(config.top_k, config.rerank_count if config.rerank else 0)
    results = retriever.search(queries, count, rerank_count=config.rerank_count)
    if config.query:
        show(retriever, results["1"][: config.top_k])
    if config.output:
        write_output(Path(config.output), run_lines(results))
    if judged:
        figures = retrieval_figures(judged.gains, {name: dict(found) for name, found in results.items()})
        print(*judged.notes, *(f"{name}: {value:.4f}" for name, value in figures.items()), sep="\n")
        if config.figures:
            write_output(Path(config.figures), json.dumps(figures, indent=2) + "\n")
    return 0


def show(retriever: Retriever, found: list[tuple[str, float]]) -> None:
    """Prints the best passages, each with its score, its id, its place and its beginning."""
    for name, score in found:
        found_in, text = retriever.passages[name], " ".join(retriever.passages[name].text.split())
        place = f" (characters {found_in.start}-{found_in.end})" if found_in.file else ""
        print(f"{score:.4f}\t{name}{place}\t{text[:300]}{' …' if len(text) > 300 else ''}")


COMMANDS = {"build": (build, BuildConfig), "search": (search, SearchConfig)}

if __name__ == "__main__":
    cli.run_command(COMMANDS)
