"""The token store against the tokenizer itself, sentence by sentence; kills, damage, races, dead workers."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kerasllm.data
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.sources.sentences import split_paragraphs
from kerasllm.data.token_cache import build as token_builder
from kerasllm.data.token_cache import cache as token_cache
from kerasllm.data.token_cache import known_words
from kerasllm.data.token_cache import workers as worker_pool
from kerasllm.data.token_cache.cache import default_cache_directory, put_in_place
from kerasllm.data.token_cache.store import TokenStore, open_store, tokenize_corpus
from kerasllm.data.token_cache.stream import tokenize_stream
from kerasllm.data.token_cache.tokenization import SentenceTokenizer, plain_tokenizer
from kerasllm.errors import InputError
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.wordpiece import train_wordpiece

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "while",
    "Zoë's",
    "dog,",
    "unfazed",
    "(as",
    "ever),",
    "ate",
    "3.5",
    "fêtes",
    "of",
    "well-made",
    "漢字",
]
PACKAGE = str(Path(kerasllm.data.__file__).parents[1])


def make_text(documents: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    return "\n\n".join(
        "\n".join(
            " ".join(
                " ".join(draw.choices(WORDS, k=draw.randint(1, 12))).capitalize() + "." for _ in range(3)
            )
            for _ in range(draw.randint(1, 4))
        )
        for _ in range(documents)
    )


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece([make_text(50)], 150)


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(300), encoding="utf-8")
    return Corpus([tmp_path / "text.txt"])


def assert_equal_to_encoding(store: TokenStore, corpus: Corpus, tokenizer) -> None:
    expected = [
        [ids for sentence in document if (ids := tokenizer.encode(sentence, add_special_tokens=False).ids)]
        for document in corpus.documents()
    ]
    expected = [document for document in expected if document]
    found = [
        [
            store.sentence(index).tolist()
            for index in range(store.document_offsets[j], store.document_offsets[j + 1])
        ]
        for j in range(store.num_documents)
    ]
    assert found == expected
    assert store.num_tokens == sum(len(ids) for document in expected for ids in document)


def test_store_holds_each_sentence_as_the_tokenizer_encodes_it(corpus, tokenizer, tmp_path):
    store = tokenize_corpus(corpus, tokenizer, tmp_path / "cache")
    assert_equal_to_encoding(store, corpus, tokenizer)
    assert store.tokens.dtype == np.uint16 and isinstance(store.tokens, np.memmap)
    assert store.sentence_starts.dtype == store.document_offsets.dtype == np.int64
    assert store.vocabulary_size == tokenizer.get_vocab_size()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_workers_give_the_same_in_the_same_order(corpus, tokenizer, tmp_path, monkeypatch, processes):
    monkeypatch.setattr(token_builder, "_CHUNK_SIZE", 3000)
    monkeypatch.setattr(token_builder, "_SMALL_CORPUS", 2)
    assert_equal_to_encoding(
        tokenize_corpus(corpus, tokenizer, tmp_path, processes=processes), corpus, tokenizer
    )


def test_a_document_in_many_pieces_stays_one(tokenizer, tmp_path, monkeypatch):
    from kerasllm.data.sources import text as text_pieces

    (tmp_path / "a.txt").write_text(make_text(200).replace("\n\n", "\n"), encoding="utf-8")
    corpus = Corpus([tmp_path / "a.txt"])
    whole = list(corpus.documents())
    monkeypatch.setattr(text_pieces, "PIECE_SIZE", 500)
    monkeypatch.setattr("kerasllm.data.sources.corpus._BLOCK", 700)
    monkeypatch.setattr(token_builder, "_CHUNK_SIZE", 1000)
    assert list(corpus.documents()) == whole and len(whole) == 1
    store = tokenize_corpus(corpus, tokenizer, tmp_path / "cache", processes=2)
    assert store.num_documents == 1
    assert_equal_to_encoding(store, corpus, tokenizer)


ODD = st.text(
    st.sampled_from("ab .,'\"-!\u00e9\u0301\u6f22\u200b\x1c\x1f\x85\u2028\u3000\x00\t\u00df\u0130[MASK]#_~"),
    max_size=30,
)


@settings(deadline=None, max_examples=200)
@given(st.lists(ODD | st.text(max_size=20), min_size=1, max_size=4))
def test_words_looked_up_are_words_encoded(texts):
    tokenizer = train_wordpiece([make_text(5), "ab ba [mask] # _ ~ \u00df - ' \" !"], 120)
    for lowercase in (True, False):
        if not lowercase:
            tokenizer = train_wordpiece([make_text(5)], 120, lowercase=False)
        fast = SentenceTokenizer(tokenizer.to_str(), "uint16")
        assert fast._words.split is not None
        slow = plain_tokenizer(tokenizer.to_str())
        for _ in range(2):
            tokens, lengths, counts, paragraphs = fast.tokenize(texts)
            assert paragraphs.sum() == counts.sum() and (paragraphs > 0).all()
            expected = [
                [ids for s in split_paragraphs(text) if (ids := slow.encode(s, add_special_tokens=False).ids)]
                for text in texts
            ]
            assert counts.tolist() == list(map(len, expected))
            assert lengths.tolist() == [len(ids) for piece in expected for ids in piece]
            assert tokens.tolist() == [number for piece in expected for ids in piece for number in ids]


def test_the_table_of_words_is_bounded(tokenizer, monkeypatch):
    monkeypatch.setattr(known_words, "_CHARACTERS_KEPT", 50)
    fast = SentenceTokenizer(tokenizer.to_str(), "uint16")
    fresh = [
        SentenceTokenizer(tokenizer.to_str(), "uint16").tokenize([make_text(3, seed)]).tokens
        for seed in range(5)
    ]
    for seed in range(5):
        np.testing.assert_array_equal(fast.tokenize([make_text(3, seed)]).tokens, fresh[seed])
    assert fast._words._num_characters < 500


def test_special_tokens_in_the_text_are_text(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("The [MASK] sat on [SEP] the mat.")
    store = tokenize_corpus(Corpus([tmp_path / "a.txt"]), tokenizer, tmp_path / "cache")
    assert not set(store.tokens.tolist()) & {0, 2, 3, 4}


def test_second_call_opens_what_the_first_built(corpus, tokenizer, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = tokenize_corpus(corpus, tokenizer, cache)
    monkeypatch.setattr(token_cache, "build_store", None)  # would fail if it were called
    shorter = type(tokenizer).from_str(tokenizer.to_str())
    shorter.enable_truncation(4)
    shorter.enable_padding()
    np.testing.assert_array_equal(tokenize_corpus(corpus, shorter, cache).tokens, first.tokens)
    assert [path.name for path in cache.iterdir()] == [
        path.name for path in cache.iterdir() if path.name[0] != "."
    ]
    assert len(list(cache.iterdir())) == 1


def test_other_text_or_tokenizer_makes_another_store(corpus, tokenizer, tmp_path):
    cache = tmp_path / "cache"
    tokenize_corpus(corpus, tokenizer, cache)
    tokenize_corpus(corpus, train_wordpiece([make_text(50)], 80), cache)
    (tmp_path / "text.txt").write_text("Other text.")
    tokenize_corpus(Corpus([tmp_path / "text.txt"]), tokenizer, cache)
    assert len(list(cache.iterdir())) == 3


def test_a_raised_version_builds_anew(corpus, tokenizer, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = tokenize_corpus(corpus, tokenizer, cache)
    (old,) = cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(token_cache, "TOKENIZATION_VERSION", token_cache.TOKENIZATION_VERSION + 1)
        again = tokenize_corpus(corpus, tokenizer, cache)
        assert len(list(cache.iterdir())) == 2
        np.testing.assert_array_equal(again.tokens, first.tokens)
    monkeypatch.setattr(token_cache, "build_store", None)  # would fail if it were called
    assert Path(tokenize_corpus(corpus, tokenizer, cache).tokens.filename).parent == old


def test_the_two_readings_are_two_entries(tmp_path):
    (tmp_path / "a.txt").write_text("One sentence. Another one.\n")
    tokenizer = train_byte_level_bpe(["One sentence. Another one."], 300)
    tokenize_corpus(Corpus([tmp_path / "a.txt"]), tokenizer, tmp_path / "cache")
    tokenize_stream(Corpus([tmp_path / "a.txt"]), tokenizer, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncate", "remove", "meta", "version", "empty"])
def test_damaged_stores_are_built_again(corpus, tokenizer, tmp_path, damage):
    cache = tmp_path / "cache"
    before = np.array(tokenize_corpus(corpus, tokenizer, cache).tokens)
    (place,) = cache.iterdir()
    if damage == "truncate":
        os.truncate(place / "tokens.bin", 100)
    elif damage == "remove":
        (place / "sentence_offsets.int64").unlink()
    elif damage == "meta":
        (place / "meta.json").write_text("{")
    elif damage == "version":
        meta = json.loads((place / "meta.json").read_text())
        (place / "meta.json").write_text(json.dumps({**meta, "format_version": 0}))
    else:
        for file in place.iterdir():
            file.unlink()
    assert open_store(place) is None
    np.testing.assert_array_equal(tokenize_corpus(corpus, tokenizer, cache).tokens, before)
    assert len(list(cache.iterdir())) == 1


SCRIPT = textwrap.dedent("""
    import sys, types
    package = types.ModuleType("kerasllm"); package.__path__ = [sys.argv[1]]
    sys.modules["kerasllm"] = package
    from kerasllm.data.token_cache import build as token_builder
    from kerasllm.data.sources.corpus import Corpus
    from kerasllm.data.token_cache.store import tokenize_corpus
    from kerasllm.tokenizers.loading import load_tokenizer
    token_builder._CHUNK_SIZE, token_builder._SMALL_CORPUS = 3000, 2
    store = tokenize_corpus(Corpus([sys.argv[2]]), load_tokenizer(sys.argv[3]), sys.argv[4], processes=2)
    assert "keras" not in sys.modules
    print(store.num_tokens, int(store.tokens.astype("int64").sum()))
""")


def start(corpus_path, tokenizer_path, cache):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, PACKAGE, str(corpus_path), str(tokenizer_path), str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_build_leaves_nothing_that_counts(corpus, tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "tokenizer", max_length=64)
    (tmp_path / "large.txt").write_text(make_text(20_000), encoding="utf-8")
    cache = tmp_path / "cache"
    process = start(tmp_path / "large.txt", tmp_path / "tokenizer", cache)
    deadline = time.monotonic() + 60
    while not any(file.stat().st_size > 1000 for file in cache.glob(".*.building/tokens.bin")):
        assert process.poll() is None and time.monotonic() < deadline, (
            "the build was over before it could be killed"
        )
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(cache.glob(".*.building")), "the kill came after the build"
    assert not [path for path in cache.iterdir() if not path.name.startswith(".")]

    # The store of another corpus is built: what the dead process left goes, whatever it was for.
    tokenize_corpus(corpus, tokenizer, cache)
    assert [path for path in cache.iterdir() if path.name.startswith(".")] == []
    large = Corpus([tmp_path / "large.txt"])
    rebuilt = tokenize_corpus(large, tokenizer, cache)
    undisturbed = tokenize_corpus(large, tokenizer, tmp_path / "other")
    for name in ("tokens", "sentence_starts", "sentence_ends", "document_offsets"):
        np.testing.assert_array_equal(getattr(rebuilt, name), getattr(undisturbed, name))


def test_processes_at_once_make_one_store(corpus, tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "tokenizer", max_length=64)
    processes = [start(tmp_path / "text.txt", tmp_path / "tokenizer", tmp_path / "cache") for _ in range(3)]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({out.splitlines()[-1] for out, _ in outputs}) == 1  # the line before says who made it
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_without_locks_the_first_store_stays(corpus, tokenizer, tmp_path):
    cache = tmp_path / "cache"
    tokenize_corpus(corpus, tokenizer, cache)
    (place,) = cache.iterdir()
    shutil.copytree(place, tmp_path / "late")
    inode = (place / "tokens.bin").stat().st_ino
    put_in_place(tmp_path / "late", place, open_store)
    assert (place / "tokens.bin").stat().st_ino == inode
    os.truncate(place / "tokens.bin", 2)
    put_in_place(tmp_path / "late", place, open_store)
    assert open_store(place) is not None


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("import sys; sys.exit(3)", "exit code 3"),
    ],
)
def test_dead_workers_end_the_build_cleanly(corpus, tokenizer, tmp_path, monkeypatch, code, message):
    monkeypatch.setattr(token_builder, "_CHUNK_SIZE", 3000)
    monkeypatch.setattr(token_builder, "_SMALL_CORPUS", 2)
    monkeypatch.setattr(worker_pool, "_BOOTSTRAP", code)
    with pytest.raises(RuntimeError, match=message):
        tokenize_corpus(corpus, tokenizer, tmp_path / "cache", processes=2)
    assert list((tmp_path / "cache").iterdir()) == []


def test_failing_workers_end_the_build_cleanly(corpus, tokenizer, tmp_path, monkeypatch):
    module = "kerasllm.data.token_cache.tokenization"
    failing = f"import {module} as w\nw.sentences_by_paragraph = lambda text: 1 / 0\nmain()"
    monkeypatch.setattr(token_builder, "_CHUNK_SIZE", 3000)
    monkeypatch.setattr(token_builder, "_SMALL_CORPUS", 2)
    monkeypatch.setattr(worker_pool, "_BOOTSTRAP", worker_pool._BOOTSTRAP.replace("main()", failing))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        tokenize_corpus(corpus, tokenizer, tmp_path / "cache", processes=2)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_fault_in_the_corpus_leaves_nothing(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_builder, "_CHUNK_SIZE", 3000)
    monkeypatch.setattr("kerasllm.data.sources.corpus._BLOCK", 4000)
    (tmp_path / "a.txt").write_bytes(make_text(100).encode() + b"\n\xff\n")
    with pytest.raises(InputError, match="is not UTF-8"):
        tokenize_corpus(Corpus([tmp_path / "a.txt"]), tokenizer, tmp_path / "cache", processes=2)
    assert list((tmp_path / "cache").iterdir()) == []


def test_other_faults_are_named(corpus, tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="token cache cannot be written"):
        tokenize_corpus(corpus, tokenizer, tmp_path / "file")
    with pytest.raises(InputError, match="processes 0"):
        tokenize_corpus(corpus, tokenizer, tmp_path / "cache", processes=0)
    (tmp_path / "b.txt").write_text("\u200b")
    with pytest.raises(InputError, match="no token in the corpus"):
        tokenize_corpus(Corpus([tmp_path / "b.txt"]), tokenizer, tmp_path / "cache")


def test_default_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("KERASLLM_CACHE", str(tmp_path))
    assert default_cache_directory() == tmp_path
    monkeypatch.delenv("KERASLLM_CACHE")
    assert default_cache_directory() == Path.home() / ".cache" / "kerasllm"


def test_paragraphs_are_the_lines_of_the_text(corpus, tokenizer, tmp_path):
    store = tokenize_corpus(corpus, tokenizer, tmp_path / "cache", processes=2)
    lines = [line for line in make_text(300).split("\n") if line]
    assert store.paragraph_offsets[0] == 0 and store.paragraph_offsets[-1] == store.num_sentences
    assert np.diff(store.paragraph_offsets).tolist() == [len(split_paragraphs(line)) for line in lines]


def test_an_entry_of_an_earlier_version_is_built_again(corpus, tokenizer, tmp_path):
    tokenize_corpus(corpus, tokenizer, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*/paragraph_offsets.int64")
    file.unlink()
    assert_equal_to_encoding(tokenize_corpus(corpus, tokenizer, tmp_path / "cache"), corpus, tokenizer)
    assert file.exists()
