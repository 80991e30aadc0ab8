"""The token stream against plain encoding; splits against a brute force; the cache; every fault."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kerasllm.data
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache import build as token_builder
from kerasllm.data.token_cache import cache as token_cache
from kerasllm.data.token_cache.store import tokenize_corpus
from kerasllm.data.token_cache.stream import TokenStream, open_stream, tokenize_stream
from kerasllm.errors import InputError
from kerasllm.tokenizers import cutting
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.characters import train_characters
from kerasllm.tokenizers.encoding import encode
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.wordpiece import train_wordpiece

DOCUMENTS = [
    f"Document {number}:\n\n" + "  the cat sat, naïve as ever.\n" * (number % 7 + 1) for number in range(60)
]
PACKAGE = str(Path(kerasllm.data.__file__).parents[1])


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(DOCUMENTS, 300)


@pytest.fixture
def corpus(tmp_path):
    lines = [json.dumps({"text": document}) for document in DOCUMENTS]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    return Corpus([tmp_path / "a.jsonl"])


def plain(documents, tokenizer) -> list[list[int]]:
    return [[*encode(tokenizer, text), tokenizer.token_to_id("<|endoftext|>")] for text in documents]


def assert_holds(stream: TokenStream, documents: list[list[int]]) -> None:
    assert stream.tokens.tolist() == [number for document in documents for number in document]
    starts = np.cumsum([0, *map(len, documents)])[:-1]
    assert stream.document_starts.dtype == np.int64 and stream.document_starts.tolist() == starts.tolist()
    assert stream.num_documents == len(documents) and stream.num_tokens == len(stream.tokens)


def test_documents_follow_each_other_with_marks_between(corpus, tokenizer, tmp_path):
    stream = tokenize_stream(corpus, tokenizer, tmp_path / "cache")
    assert_holds(stream, plain(DOCUMENTS, tokenizer))
    assert stream.tokens.dtype == np.uint16 and isinstance(stream.tokens, np.memmap)
    assert stream.vocabulary_size == tokenizer.get_vocab_size() == stream.end_id + 1


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_workers_and_small_pieces_change_nothing(tokenizer, tmp_path, monkeypatch, processes, kind):
    monkeypatch.setattr(token_builder, "_CHUNK_SIZE", 300)
    monkeypatch.setattr(token_builder, "_SMALL_CORPUS", 2)
    monkeypatch.setattr(cutting, "PART_SIZE", 70)
    text = "\n".join(DOCUMENTS)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt").write_text(" b", encoding="utf-8")
    if kind == "characters":
        tokenizer = train_characters([text, " b"])
    stream = tokenize_stream(Corpus([tmp_path]), tokenizer, tmp_path / "cache", processes=processes)
    assert_holds(stream, plain([text, " b"], tokenizer))


def test_the_smallest_integers_that_hold_the_vocabulary(tmp_path):
    for size, dtype in ((255, np.uint8), (256, np.uint16), (65_535, np.uint16), (65_536, np.uint32)):
        letters = "".join(chr(0x10000 + number) for number in range(size))  # and the mark
        (tmp_path / "a.txt").write_text(letters, encoding="utf-8")
        stream = tokenize_stream(
            Corpus([tmp_path / "a.txt"]), train_characters([letters]), tmp_path / "cache"
        )
        assert stream.tokens.dtype == dtype
        assert stream.tokens.tolist() == list(range(size + 1))


def test_the_second_call_opens_what_the_first_built(corpus, tokenizer, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = tokenize_stream(corpus, tokenizer, cache)
    tokenize_stream(corpus, train_byte_level_bpe(DOCUMENTS, 270), cache)
    tokenize_corpus(corpus, tokenizer, cache)  # of the same corpus and tokenizer, in sentences
    assert len(list(cache.iterdir())) == 3
    monkeypatch.setattr(token_cache, "build_store", None)  # would fail if it were called
    np.testing.assert_array_equal(tokenize_stream(corpus, tokenizer, cache).tokens, first.tokens)


@pytest.mark.parametrize("damage", ["tokens.bin", "document_offsets.int64", "meta.json"])
def test_a_damaged_stream_is_built_again(corpus, tokenizer, tmp_path, damage):
    cache = tmp_path / "cache"
    before = tokenize_stream(corpus, tokenizer, cache).tokens.tolist()
    (place,) = cache.iterdir()
    os.truncate(place / damage, 8)
    assert open_stream(place) is None
    assert tokenize_stream(corpus, tokenizer, cache).tokens.tolist() == before


@pytest.mark.parametrize("processes", [1, 2])
def test_unknown_characters_are_named_by_file_and_line(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(token_builder, "_CHUNK_SIZE", 100)
    monkeypatch.setattr(token_builder, "_SMALL_CORPUS", 2)
    monkeypatch.setattr(cutting, "PART_SIZE", 20)
    tokenizer = train_characters(["abc \n"])
    (tmp_path / "a.txt").write_text("a b c\n" * 100 + "aéb\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "abc"}\n{"text": "abc\\n<"}\n' * 50)
    for name, message in (("a.txt", "a.txt:101: .* 'é'"), ("b.jsonl", "b.jsonl:2: .* '<'")):
        with pytest.raises(InputError, match=message):
            tokenize_stream(Corpus([tmp_path / name]), tokenizer, tmp_path / "cache", processes=processes)
    assert list((tmp_path / "cache").iterdir()) == []


def test_faults_leave_nothing(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"word\n" * 100 + b"\xff")
    with pytest.raises(InputError, match=r"a.txt:101: byte 500 of the file"):
        tokenize_stream(Corpus([tmp_path / "a.txt"]), tokenizer, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "a.txt").write_text("word")
    with pytest.raises(InputError, match="no mark for the end of a text"):
        tokenize_stream(Corpus([tmp_path / "a.txt"]), train_wordpiece(["ab ab"], 20), tmp_path / "cache")
    with pytest.raises(InputError, match="processes 0"):
        tokenize_stream(Corpus([tmp_path / "a.txt"]), tokenizer, tmp_path / "cache", processes=0)


def test_a_long_corpus_takes_little_memory(tokenizer, tmp_path):
    """32 MB, one document, in less than 60 MB beyond what the imports take."""
    with (tmp_path / "a.txt").open("wb") as file:
        for _ in range(32):
            file.write(b"the cat sat, as ever, on a mat of words.\n" * 25_600)
    save_tokenizer(
        train_characters(["the cat sat, as ever, on a mat of words.\n"]), tmp_path / "t", max_length=9
    )
    code = textwrap.dedent("""
        import sys, types
        package = types.ModuleType("kerasllm"); package.__path__ = [sys.argv[1]]
        sys.modules["kerasllm"] = package
        from kerasllm.data.sources.corpus import Corpus
        from kerasllm.data.token_cache.stream import tokenize_stream
        from kerasllm.tokenizers.loading import load_tokenizer
        def peak():  # not getrusage's, which a process inherits from the one that started it
            status = open("/proc/self/status").read()
            return int(status.split("VmHWM:")[1].split()[0])
        before = peak()
        corpus = Corpus([sys.argv[2] + "/a.txt"])
        tokenizer = load_tokenizer(sys.argv[2] + "/t")
        stream = tokenize_stream(corpus, tokenizer, sys.argv[2] + "/c", processes=1)
        assert "keras" not in sys.modules
        print(len(stream.tokens), peak() - before)
    """)
    command = [sys.executable, "-c", code, PACKAGE, str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    size, kilobytes = map(int, shown.splitlines()[-1].split())
    assert size == 32 * 25_600 * 41 + 1 and kilobytes < 60_000


def made(lengths: list[int]) -> TokenStream:
    """Documents of so many words, whose tokens count on from 1; the mark is 0."""
    tokens: list[int] = []
    starts = []
    for length in lengths:
        starts.append(len(tokens))
        tokens += [*range(len(tokens) + 1, len(tokens) + length + 1), 0]
    return TokenStream(np.array(tokens, np.uint16), np.array(starts, np.int64), 10_000, 0)


def documents_of(stream: TokenStream) -> list[list[int]]:
    parts = np.split(stream.tokens, stream.document_starts[1:])
    assert stream.document_starts[0] == 0
    return [part.tolist() for part in parts]


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=20)


@settings(deadline=None, max_examples=200)
@given(LENGTHS, st.floats(0.01, 0.99))
def test_split_by_fraction(lengths, fraction):
    stream = made(lengths)
    words = sum(lengths)
    kept = int(round((1 - fraction) * words, 6))
    if kept == 0 or kept >= words:
        with pytest.raises(InputError, match=f"the corpus of {words} tokens? is too short"):
            stream.split(fraction)
        return
    train, validation = stream.split(fraction)
    left: list[list[int]] = []  # word by word
    right: list[list[int]] = []
    seen = 0
    for document in documents_of(stream):
        for side in (left, right):
            side.append([])
        for token in document:
            seen += token != 0
            (left if seen <= kept else right)[-1].append(token)
    if len(lengths) == 1:
        right[-1].remove(0)
    assert documents_of(train) == [document for document in left if document]
    assert documents_of(validation) == [document for document in right if document]
    assert np.count_nonzero(train.tokens) == kept
    assert np.shares_memory(train.tokens, stream.tokens) and np.shares_memory(
        validation.tokens, stream.tokens
    )
    if len(train.tokens) > 4:  # a part can be split again
        again = train.split(0.5)
        assert (
            np.concatenate([part.tokens for part in again]).tolist()
            == train.tokens.tolist()[: sum(len(part.tokens) for part in again)]
        )


@settings(deadline=None, max_examples=150)
@given(LENGTHS.filter(lambda lengths: len(lengths) > 1), st.floats(0.01, 0.99), st.integers(0, 2**40))
def test_split_by_document(lengths, fraction, seed):
    stream = made(lengths)
    train, validation = stream.split(fraction, by="document", seed=seed)
    parts = [documents_of(train), documents_of(validation)]
    assert sorted(parts[0] + parts[1]) == sorted(documents_of(stream))
    assert all(part == sorted(part) and part for part in parts)
    again = stream.split(fraction, by="document", seed=seed)
    assert [documents_of(part) for part in again] == parts
    # No document more or less comes nearer: within half of the longest one, unless a part would be empty.
    target, size = fraction * len(stream.tokens), len(validation.tokens)
    longest = max(lengths) + 1
    assert abs(size - target) <= longest / 2 or (
        (len(parts[1]) == 1 and size > target) or (len(parts[0]) == 1 and size < target)
    )


def test_split_by_document_depends_on_the_seed_and_stays_on_the_disk(
    corpus, tokenizer, tmp_path, monkeypatch
):
    stream = tokenize_stream(corpus, tokenizer, tmp_path / "cache")
    expected = [part.tokens.tolist() for part in stream.split(0.3, by="document", seed=1)]
    monkeypatch.setattr(
        "kerasllm.data.token_cache.stream._COPIED_AT_A_TIME", 50
    )  # less than some documents have
    train, validation = stream.split(0.3, by="document", seed=1)
    assert [part.tokens.tolist() for part in (train, validation)] == expected
    assert isinstance(train.tokens, np.memmap) and train.tokens.dtype == stream.tokens.dtype
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the copies have no names
    assert len(validation.tokens) == pytest.approx(0.3 * len(stream.tokens), rel=0.1)
    assert stream.split(0.3, by="document", seed=2)[1].tokens.tolist() != expected[1]


def test_wrong_splits_are_named():
    for fraction in (0, 1, -0.1, 1.5):
        with pytest.raises(InputError, match="not between 0 and 1"):
            made([5, 5]).split(fraction)
    with pytest.raises(InputError, match="single document"):
        made([50]).split(0.1, by="document")
    with pytest.raises(InputError, match="by is 'line'"):
        made([5, 5]).split(0.1, by="line")


def test_shakespeare_is_split_as_nanogpt_does(shared_data, tmp_path):
    path = shared_data / "tinyshakespeare" / "input.txt"
    text = path.read_bytes().decode()
    corpus = Corpus([path])
    tokenizer = train_characters(piece.text for piece in corpus.raw_pieces())
    stream = tokenize_stream(corpus, tokenizer, tmp_path)
    assert (stream.vocabulary_size, stream.end_id, len(stream.tokens)) == (66, 65, 1_115_395)
    assert stream.tokens.dtype == np.uint8
    train, validation = stream.split(0.1)
    assert len(train.tokens) == int(0.9 * 1_115_394) == 1_003_854
    letters = np.array(sorted(set(text)))
    assert "".join(letters[train.tokens]) == text[:1_003_854]
    assert "".join(letters[validation.tokens]) == text[1_003_854:]
