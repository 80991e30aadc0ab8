"""Text as it is: nothing lost, pieces that tokenize like the whole, faults by line and byte."""

import gzip
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import kerasllm.data
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.sources.python_docs import python_docs
from kerasllm.data.sources.verbatim import cut_verbatim, read_verbatim
from kerasllm.errors import InputError
from kerasllm.tokenizers import cutting
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.encoding import encode
from kerasllm.tokenizers.loading import load_tokenizer

TEXT = "\n\n  First line. \n\n\n\tSecond;\u00a0\u2028 third\u0085\x1c \r fourth\u3000x\n"


def documents(*sources, **options) -> list[str]:
    """Returns the documents of a corpus, put together from their pieces."""
    found = [""]
    for piece in Corpus([str(source) for source in sources], **options).raw_pieces():
        found[-1] += piece.text
        if piece.ends_document:
            found.append("")
    assert not found[-1]
    return found[:-1]


def in_blocks(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def test_a_text_file_is_one_document_kept_exactly(tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()))
    (tmp_path / "c.txt").write_text(" \n")
    assert documents(tmp_path) == [TEXT, TEXT]


def test_lines_and_rows_are_documents(tmp_path):
    import pyarrow
    import pyarrow.parquet

    texts = [" One.\n\n two", "", None, "  \n", "Vier \u00fc.\r\n"]
    expected = [" One.\n\n two", "Vier \u00fc.\n"]
    rows = "".join(json.dumps({"body": text}) + "\n" for text in texts)
    (tmp_path / "a.jsonl").write_text(rows)
    pyarrow.parquet.write_table(pyarrow.table({"body": texts}), str(tmp_path / "a.parquet"))
    assert documents(tmp_path / "a.jsonl", text_column="body") == expected
    assert documents(tmp_path / "a.parquet", text_column="body") == expected
    (tmp_path / "surrogate.jsonl").write_text('{"body": "a \\ud800 b"}')
    assert documents(tmp_path / "surrogate.jsonl", text_column="body") == ["a ? b"]


def test_python_docs_are_documents():
    own = ["\n".join(document.sentences) for document in python_docs()]
    assert documents("python-docs") == own


PARTS = st.lists(
    st.sampled_from([*" \n\t\r.,'é漢\u00a0\u2028\x1c3x", "ab", " word", "don't", "\r\n", "\n\n ", "  "])
    | st.text(st.characters(exclude_characters="\0"), max_size=3),
    max_size=60,
).map(lambda parts: "".join(parts).encode("utf-8", "replace").decode())


@cache
def tokenizer():
    return train_byte_level_bpe(["ab word don't ab word\n\n  don't  ab\n\n. ,. ,\t\n é漢 é漢"] * 3, 320)


@settings(deadline=None, max_examples=150)
@given(PARTS, st.integers(1, 30), st.integers(1, 9))
@example("a\r\n", 1, 2)
@example("\r\n\r\r\n", 1, 1)
def test_pieces_make_the_text_and_its_tokens(text, size, block):
    expected = text.removeprefix("\ufeff").replace("\r\n", "\n")
    with patch.object(cutting, "PART_SIZE", size):
        pieces = list(read_verbatim(in_blocks(text.encode(), block), "a.txt"))
        if expected == text:
            assert list(cut_verbatim(text, "a.txt")) == [piece._replace(line=0) for piece in pieces]
    assert "".join(piece.text for piece in pieces) == expected
    assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True] * bool(pieces)
    whole = encode(tokenizer(), expected)
    assert [number for piece in pieces for number in encode(tokenizer(), piece.text)] == whole
    place = 0
    for piece in pieces:
        for position in range(len(piece.text)):
            assert piece.place(position) == f"a.txt:{1 + expected.count(chr(10), 0, place + position)}"
        place += len(piece.text)


def test_long_texts_are_cut(monkeypatch):
    monkeypatch.setattr(cutting, "PART_SIZE", 1000)
    lines = "word, and other words; don't\n\n  stop.\n" * 400
    for text in (lines, lines.replace(" ", "-"), "漢字。\n" * 3000):
        pieces = list(cut_verbatim(text))
        assert len(pieces) > 10 and all(len(piece.text) <= 1000 for piece in pieces)
        whole = encode(tokenizer(), text)
        assert [number for piece in pieces for number in encode(tokenizer(), piece.text)] == whole
    monkeypatch.setattr(cutting, "_LONGEST", 5000)  # where there is no white space at all
    assert [len(piece.text) for piece in cut_verbatim("x" * 12_000)] == [5000, 5000, 2000]


def test_gpt2s_tokens_of_shakespeare(shared_data):
    path = shared_data / "tinyshakespeare" / "input.txt"
    text = path.read_bytes().decode()
    gpt2 = load_tokenizer(shared_data / "gpt2_vocab")
    assert documents(path) == [text]
    pieces = list(Corpus([path]).raw_pieces())
    assert len(pieces) > 10
    tokens = [number for piece in pieces for number in encode(gpt2, piece.text)]
    assert len(tokens) == 338_025 and tokens == encode(gpt2, text)  # as nanoGPT counts them: 301,966 + 36,059


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo\n caf\xe9 \n", r"a.txt:3: byte 12 of the file \(0xe9\) is not UTF-8"),
        (b"one\ntwo \xe6\xbc", r"a.txt:2: byte 8 of the file \(0xe6\) is not UTF-8"),
        (b"o\0ne", r"a.txt: byte 1 is NUL: a binary file, or UTF-16"),
        (b" \n\n\t", "a.txt: nothing but blank lines; a corpus needs text"),
        (b"\xef\xbb\xbf", "a.txt: nothing but blank lines; a corpus needs text"),
    ],
)
@pytest.mark.parametrize("block", [1, 2, 1 << 20])
def test_faults_are_named_by_line_and_byte(tmp_path, monkeypatch, content, message, block):
    monkeypatch.setattr("kerasllm.data.sources.corpus._BLOCK", block)
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        documents(tmp_path / "a.txt")


def test_a_long_corpus_takes_little_memory(tmp_path):
    """64 MB, one document, in less than 40 MB beyond what the imports take."""
    with (tmp_path / "a.txt").open("wb") as file:
        for _ in range(64):
            file.write(b"All of these words are in one document.\n" * 26_215)
    code = (
        "import sys, types\n"
        "package = types.ModuleType('kerasllm'); package.__path__ = [sys.argv[1]]\n"
        "sys.modules['kerasllm'] = package\n"
        "from kerasllm.data.sources.corpus import Corpus\n"
        # Not getrusage's peak, which a process inherits from the one that started it.
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "size = sum(len(piece.text) for piece in Corpus([sys.argv[2]]).raw_pieces())\n"
        "print(size, peak() - before)\n"
    )
    package = str(Path(kerasllm.data.__file__).parents[1])
    command = [sys.executable, "-c", code, package, str(tmp_path / "a.txt")]
    size, grown = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert size == 64 * 26_215 * 40 and grown < 40_000
