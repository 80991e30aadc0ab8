"""Measures the way from a text file to the last batch of an epoch, with the tokenizer trained before."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clocks import Stages
from input_by_datasets import MASKED, SHORT, by_datasets
from works import Case

VOCABULARY = {"pairs": 8192, "windows": 16384}


def measure(case: Case, steps: int) -> dict[str, Any]:
    """Returns the figures of one epoch over a text: the seconds of each stage, and bytes per second.

    Args:
        case: a case of the peer `kerasllm` or `datasets`; in its shape, `directory` is one that `prepare` has filled,
            and `processes` the number of worker processes.
        steps: not used, since a whole epoch is measured.
    """
    shape, directory = case.shape, Path(case.shape["directory"])
    text = Path(shape["text"] or directory / "text.txt")
    make = by_kerasllm if case.peer == "kerasllm" else by_datasets
    with TemporaryDirectory(dir=directory) as cache:
        stages, versions = make(shape, text, directory / shape["kind"] / "tokenizer.json", cache)
    size, seconds = text.stat().st_size, sum(stages.seconds.values())
    return {
        "first_seconds": stages.first,
        "step_seconds": seconds,
        "tokens": float(stages.tokens),
        "bytes_per_second": size / seconds,
        "tokenizing_bytes_per_second": size / (stages.seconds.get("load", 0.0) + stages.seconds["tokenize"]),
        "text_bytes": size,
        "stages": stages.seconds,
        "versions": versions,
    }


def prepare(directory: Path, text: str, megabytes: float) -> None:
    """Writes the tokenizers for `measure`, and a text unless one is given.

    The text repeats the documentation of this Python installation, with its documents in another order each time.

    Args:
        directory: the directory to write to.
        text: the text file, or "" to make one.
        megabytes: size of the text that is made.
    """
    from kerasllm.data.sources.corpus import Corpus
    from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
    from kerasllm.tokenizers.saving import save_tokenizer
    from kerasllm.tokenizers.wordpiece import train_wordpiece

    directory.mkdir(parents=True, exist_ok=True)
    documents = list(Corpus([text or "python-docs"]).documents())
    for kind, train in (("pairs", train_wordpiece), ("windows", train_byte_level_bpe)):
        texts = (" ".join(sentences) for sentences in documents)
        save_tokenizer(train(texts, VOCABULARY[kind]), directory / kind, max_length=512)
    if text:
        return
    draw, written = random.Random(0), 0
    with (directory / "text.txt").open("w", encoding="utf-8", newline="\n") as file:
        while written < 1e6 * megabytes:
            draw.shuffle(documents)
            for sentences in documents:
                first = draw.randrange(len(sentences))
                written += file.write("\n".join(sentences[first:] + sentences[:first]) + "\n\n")


def by_kerasllm(
    shape: dict[str, Any], text: Path, tokenizer_file: Path, cache: str
) -> tuple[Stages, dict[str, str]]:
    """Tokenizes a text and makes all batches of an epoch, as the recipes do.

    Returns:
        The clock of the stages, and the version of kerasllm.
    """
    from kerasllm import __version__
    from kerasllm.data.batches.causal_lm import CausalBatches
    from kerasllm.data.batches.masked_lm import BertPretrainingBatches
    from kerasllm.data.sources.corpus import Corpus
    from kerasllm.data.token_cache.store import tokenize_corpus
    from kerasllm.data.token_cache.stream import tokenize_stream
    from kerasllm.tokenizers.loading import load_tokenizer
    from kerasllm.tokenizers.wordpiece import special_token_ids

    tokenizer = load_tokenizer(tokenizer_file)
    length, size = shape["length"], shape["batch_size"]
    settings = {"processes": shape["processes"], "progress": False}
    stages = Stages()
    corpus = Corpus([text])
    if shape["kind"] == "pairs":
        store = tokenize_corpus(corpus, tokenizer, cache, **settings)
        stages.end("tokenize")
        pairs = BertPretrainingBatches(
            store,
            special=special_token_ids(tokenizer),
            sequence_length=length,
            batch_size=size,
            steps=None,
            seed=0,
            short_sequence_probability=SHORT,
            masking_probability=MASKED,
        )
        stages.count(pairs[number][0]["padding_mask"] for number in range(len(pairs)))
    else:
        stream = tokenize_stream(corpus, tokenizer, cache, **settings)
        stages.end("tokenize")
        steps = (stream.num_tokens - 1) // length // size
        windows = CausalBatches(stream, context_length=length, batch_size=size, steps=steps, seed=0)
        stages.count(windows[number][2] for number in range(steps))
    return stages, {"kerasllm": __version__}
