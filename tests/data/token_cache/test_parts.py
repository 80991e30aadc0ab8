"""Parts that are tokenized apart and joined: the same bytes as tokenized together, and what is refused."""

import json

import numpy as np
import pytest

from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache.parts import merge_parts, write_part
from kerasllm.data.token_cache.store import tokenize_corpus
from kerasllm.data.token_cache.stream import tokenize_stream
from kerasllm.errors import InputError
from kerasllm.files.locks import FileLock
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.wordpiece import train_wordpiece

OPEN = {"verbatim": tokenize_stream, "sentences": tokenize_corpus}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for number in range(5):
        lines = [f"Text {number} has line {line}. And one more sentence!" for line in range(number + 1)]
        (folder / f"{number}.txt").write_text("\n".join(lines) + "\n\n" + "A second document here.\n")
    return folder


@pytest.fixture(scope="module")
def tokenizers(texts):
    sources = [path.read_text() for path in sorted(texts.iterdir())]
    return {"verbatim": train_byte_level_bpe(sources, 300), "sentences": train_wordpiece(sources, 80)}


@pytest.fixture
def parts(texts, tokenizers, tmp_path):
    """From a reading to the directories of three parts."""

    def make(reading):
        for number in range(3):
            corpus = Corpus([texts], shard=(number, 3))
            write_part(corpus, tokenizers[reading], tmp_path / str(number), reading=reading, progress=False)
        return [tmp_path / str(number) for number in range(3)]

    return make


@pytest.mark.parametrize("reading", ["verbatim", "sentences"])
def test_joined_parts_are_what_is_tokenized_together(reading, parts, texts, tokenizers, tmp_path):
    """Files 0, 3, 1, 4, 2 in this order; each array is equal, and each file to the last byte."""
    tokenizer = tokenizers[reading]
    order = [texts / f"{number}.txt" for number in (0, 3, 1, 4, 2)]
    count = merge_parts(parts(reading), tmp_path / "joined", progress=False)
    together = OPEN[reading](Corpus(order), tokenizer, tmp_path / "cache", progress=False)
    joined = OPEN[reading](Corpus([tmp_path / "joined"]), tokenizer)
    assert count == len(joined.tokens) == len(together.tokens)
    for name, expected in vars(together).items():
        np.testing.assert_array_equal(getattr(joined, name), expected, err_msg=name)
    (entry,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    for file in entry.iterdir():
        if file.name != "meta.json":
            assert (tmp_path / "joined" / file.name).read_bytes() == file.read_bytes(), file.name
    assert not list(tmp_path.glob(".*")), "something is left behind"
    again = tmp_path / "again"  # parts of parts: the same once more
    merge_parts(parts_of_two(tmp_path, reading), again, progress=False)
    assert (again / "tokens.bin").read_bytes() == (tmp_path / "joined" / "tokens.bin").read_bytes()


def parts_of_two(folder, reading):
    merge_parts([folder / "0", folder / "1"], folder / "two", progress=False)
    return [folder / "two", folder / "2"]


def test_what_does_not_fit_is_refused(parts, texts, tokenizers, tmp_path):
    """Each in one line that names the part; nothing is left behind."""
    first, second, third = parts("verbatim")
    corpus = Corpus([texts / "0.txt"])
    write_part(corpus, tokenizers["sentences"], tmp_path / "s", reading="sentences", progress=False)
    other = train_byte_level_bpe(["other words entirely, so that other pieces are found"], 290)
    write_part(Corpus([texts / "4.txt"]), other, tmp_path / "o", progress=False)
    spoilt = bytearray((second / "tokens.bin").read_bytes())
    spoilt[5] ^= 1
    (second / "tokens.bin").write_bytes(spoilt)
    with (third / "document_offsets.int64").open("ab") as file:
        file.write(b"\0" * 8)
    for wrong, words in (
        ([first, second], "tokens.bin: its content has changed"),
        ([first, third], r"document_offsets.int64: has \d+ bytes in place of"),
        ([first, first], "holds the same text as"),
        ([first, tmp_path / "o"], "another tokenizer"),
        ([first, tmp_path / "s"], "another tokenizer|reading"),
        ([first, texts], "holds no tokens"),
        ([first, tmp_path / "nowhere"], "holds no tokens"),
    ):
        with pytest.raises(InputError, match=words):
            merge_parts(wrong, tmp_path / "joined", progress=False)
        assert not (tmp_path / "joined").exists() and not list(tmp_path.glob(".*"))
    with pytest.raises(InputError, match="is there already"):
        merge_parts([first], third, progress=False)


def test_what_a_killed_process_leaves_goes_and_a_living_one_is_not_disturbed(parts, tmp_path):
    """Its hidden directory is removed by the next one for the same place; another place's stays."""
    made = parts("verbatim")
    left, other = (tmp_path / f".{name}.123-ab.building" for name in ("joined", "another"))
    for directory in (left, other):
        directory.mkdir()
        (directory / "tokens.bin").write_bytes(b"half")
    with FileLock(tmp_path / ".joined.lock"), pytest.raises(InputError, match="another process is writing"):
        merge_parts(made, tmp_path / "joined", progress=False)
    assert left.exists()
    merge_parts(made, tmp_path / "joined", progress=False)
    assert list(tmp_path.glob(".*")) == [other]


def test_tokens_as_a_corpus(parts, texts, tokenizers, tmp_path):
    """They need their tokenizer and their kind of model, and stand alone."""
    first, second, _ = parts("verbatim")
    corpus = Corpus([first])
    assert corpus.tokens == first
    with pytest.raises(InputError, match=r"holds tokens and no text.*--tokenizer"):
        next(corpus.raw_pieces())
    with pytest.raises(InputError, match="not read together with others"):
        Corpus([first, texts / "1.txt"])
    with pytest.raises(InputError, match="not read together with others"):
        Corpus([first, second])
    with pytest.raises(InputError, match="tokens are those of another tokenizer"):
        tokenize_stream(corpus, train_byte_level_bpe(["something else"], 280))
    with pytest.raises(InputError, match="--reading sentences"):
        tokenize_corpus(corpus, tokenizers["sentences"])
    with pytest.raises(InputError, match="holds tokens already"):
        write_part(corpus, tokenizers["verbatim"], tmp_path / "again", progress=False)
    meta = json.loads((first / "meta.json").read_text())
    (first / "meta.json").write_text(json.dumps({"format_version": meta["format_version"]}))
    with pytest.raises(InputError, match="not written by"):
        Corpus([first])


def test_shards_of_files_and_of_a_dataset(texts, tmp_path):
    """Every text is in one share; too few files are refused."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(7)))
    rows = [
        [piece.text for piece in Corpus([f"hub:{tmp_path}"], shard=(number, 3)).raw_pieces()]
        for number in range(3)
    ]
    assert sorted(row for own in rows for row in own) == [f"row {i}" for i in range(7)] and all(rows)
    fingerprints = {Corpus([f"hub:{tmp_path}"], shard=(number, 3)).fingerprint() for number in range(3)}
    assert len(fingerprints) == 3
    assert [Corpus([texts], shard=(number, 4)).names for number in range(4)] == [
        ["0.txt", "4.txt"],
        ["1.txt"],
        ["2.txt"],
        ["3.txt"],
    ]
    with pytest.raises(InputError, match="--shard 0/9: the corpus has 5 files"):
        Corpus([texts], shard=(0, 9))
