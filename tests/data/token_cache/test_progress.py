"""What is told about a corpus: its files, its size, and where its tokens are kept."""

import re

import pytest

from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache import progress
from kerasllm.data.token_cache.progress import ByteProgress, describe
from kerasllm.data.token_cache.store import tokenize_corpus
from kerasllm.tokenizers.wordpiece import train_wordpiece


@pytest.mark.parametrize(
    "sizes, shown",
    [
        ([999], "a.txt (999 bytes)"),
        ([1000], "a.txt (1.0 kB)"),
        ([600_000, 634_567], "a.txt, b.txt (1.2 MB)"),
        ([1, 1, 1, 1, 1], "a.txt, b.txt, c.txt and 2 more (5 bytes)"),
    ],
)
def test_a_corpus_in_words(tmp_path, sizes, shown):
    paths = [tmp_path / f"{name}.txt" for name in "abcde"[: len(sizes)]]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(b"x" * size)
    assert describe(Corpus(paths)) == shown


def test_names_of_what_is_no_file():
    assert describe(Corpus(["python-docs"])) == "python-docs"


def test_the_first_and_the_second_time(tmp_path, capsys):
    text = tmp_path / "novel.txt"
    text.write_text("the cat sat on the mat\n\nthe dog\n")
    tokenizer = train_wordpiece(["the cat sat on the mat, the dog"], 60)
    stores = [tokenize_corpus(Corpus([text]), tokenizer, tmp_path / "cache") for _ in range(2)]
    (place,) = (path for path in (tmp_path / "cache").iterdir() if not path.name.startswith("."))
    name, tokens = "corpus novel.txt (32 bytes)", stores[0].num_tokens
    first, made, cached = capsys.readouterr().out.splitlines()
    assert first == f"{name}: tokenizing …"
    assert re.fullmatch(rf"{re.escape(name)}: {tokens} tokens, made in \d+\.\d s and kept in {place}", made)
    assert cached == f"{name}: {tokens} tokens, from the cache {place}"
    tokenize_corpus(Corpus([text]), tokenizer, tmp_path / "cache", progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_log_file_gets_a_line_every_ten_seconds(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with ByteProgress(2_000_000, True) as bar:
        for _ in range(9):
            clock[0] += 4.0
            bar.advance(100_000)
    assert capsys.readouterr().err.splitlines() == [
        "tokenizing: 300.0 kB of 2.0 MB",
        "tokenizing: 600.0 kB of 2.0 MB",
        "tokenizing: 900.0 kB of 2.0 MB",
    ]
