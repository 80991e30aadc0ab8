"""Judges result lists of any search engine, in TREC's form, and fuses several.

python recipes/evaluate_retrieval.py --run bm25.trec vectors.trec --qrels qrels.txt --output fused.trec
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from kerasllm import cli
from kerasllm.data.sources.judgements import read_judgements, read_run, run_lines
from kerasllm.errors import InputError
from kerasllm.files.atomic import check_outputs, write_output
from kerasllm.retrieval.figures import ranked, retrieval_figures
from kerasllm.retrieval.search import fuse


@dataclass
class Config:
    """Judges result lists, each by itself and, of several, their fusion by reciprocal ranks."""

    run: list[str] = field(default_factory=list)
    """Result lists: lines of query, Q0, document, rank, score and name, as retrieve.py writes them."""

    qrels: str | None = None
    """File of judgements."""

    output: str | None = None
    """File for the fusion of several --run, in TREC's form."""

    figures: str | None = None
    """JSON file for the figures."""


def main(config: Config) -> int:
    """Reads the lists and the judgements, and prints the figures."""
    if not config.run or not config.qrels:
        raise InputError("give --run, a result list or several, and --qrels, their judgements")
    if config.output and len(config.run) < 2:
        raise InputError("--output is for the fusion of several --run")
    check_outputs({"--output": config.output, "--figures": config.figures}, [*config.run, config.qrels])
    twice = [name for name in config.run if config.run.count(name) > 1]
    if twice:
        raise InputError(f"--run {twice[0]} is given twice")
    if len(config.run) > 1 and "fused" in config.run:
        raise InputError("--run fused: that is the name of the fusion; rename the file")
    judged = read_judgements(config.qrels)
    runs = {name: read_run(name) for name in config.run}
    for name, found in runs.items():
        if not found.keys() & judged.gains.keys():
            raise InputError(f"--qrels {config.qrels}: judges none of the queries of {name}")
    if len(runs) > 1:
        lists = [{query: ranked(scores) for query, scores in run.items()} for run in runs.values()]
        fused = fuse(lists)
        runs["fused"] = {query: dict(found) for query, found in fused.items()}
        if config.output:
            write_output(Path(config.output), run_lines(fused))
    figures = {name: retrieval_figures(judged.gains, run) for name, run in runs.items()}
    print(*judged.notes, sep="\n", end="\n" if judged.notes else "")
    for name, own in figures.items():
        print(name, *(f"{figure} {value:.4f}" for figure, value in own.items()), sep="\t")
    if config.figures:
        write_output(Path(config.figures), json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    cli.run(main, Config)
