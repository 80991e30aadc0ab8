"""WordPiece: its vocabulary, its determinism, its files and every message."""

import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

import kerasllm.data
from kerasllm.errors import InputError, InputWarning
from kerasllm.tokenizers.loading import load_wordpiece
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.wordpiece import (
    SPECIAL_TOKENS,
    continuation_mask,
    special_token_ids,
    train_wordpiece,
)

TEXTS = [
    "The quick brown foxes jumped over the lazy dogs, again and again.",
    "Naïve résumés — of the walking, talking, jumping dogs!",
    "漢字 and kana: 12 quick talks, 3 quick walks.",
] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(TEXTS, 200)


def test_special_tokens_come_first(tokenizer):
    assert [tokenizer.id_to_token(number) for number in range(5)] == list(SPECIAL_TOKENS)
    special = special_token_ids(tokenizer)
    assert (special.pad, special.unknown, special.cls, special.sep, special.mask) == (0, 1, 2, 3, 4)


def test_pairs_have_segments_and_special_tokens(tokenizer):
    encoding = tokenizer.encode("the dogs", "the foxes")
    first, second = (
        tokenizer.encode(text, add_special_tokens=False).ids for text in ("the dogs", "the foxes")
    )
    assert encoding.ids == [2, *first, 3, *second, 3]
    assert encoding.type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_normalization_is_berts(tokenizer):
    tokens = tokenizer.encode("Résumés漢字!", add_special_tokens=False).tokens
    assert "".join(token.removeprefix("##") for token in tokens) == "resumes漢字!"
    assert tokens[-3:] == ["漢", "字", "!"]
    assert tokenizer.decode(tokenizer.encode("Walking dogs jumped").ids) == "walking dogs jumped"
    cased = train_wordpiece(TEXTS, 200, lowercase=False)
    assert cased.decode(cased.encode("The naïve dogs").ids) == "The naïve dogs"


@pytest.mark.parametrize(
    ("text", "script", "stripped"),
    [
        ("\u0905\u092a\u0928\u0947 \u092a\u094b\u0938\u094d\u091f", "Devanagari", "\u0905\u092a\u0928"),
        ("\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48", "Thai", "\u0e17\u0e19"),
        ("\u30ac\u30e9\u30b9", "Katakana", "\u30ab\u30e9\u30b9"),
        ("Tie\u0302\u0301ng Vie\u0302\u0323t", "Latin", "tieng viet"),
    ],
)
def test_accents_are_chosen_apart_from_case(text, script, stripped):
    """Which in some scripts are vowels, tones and voices."""
    with pytest.warns(
        InputWarning, match=rf"much of the text in {script} \(.* --strip_accents false"
    ) as told:
        uncased = train_wordpiece([text] * 9, 300)
    assert len(told) == 1 and told[0].filename == __file__
    assert uncased.normalizer.normalize_str(text).startswith(stripped)
    kept = train_wordpiece([text] * 9, 300, strip_accents=False)  # a warning would be an error
    assert kept.normalizer.normalize_str(text) == text.lower()
    assert kept.decode(kept.encode(text).ids) == text.lower()
    with pytest.warns(InputWarning, match=script):
        cased = train_wordpiece([text + "A"] * 9, 300, lowercase=False, strip_accents=True)
    assert (
        cased.normalizer.normalize_str(text + "A") == cased.normalizer.normalize_str(text) + "A" != text + "A"
    )


def test_few_accents_are_stripped_without_a_word():
    train_wordpiece(["Er m\u00f6chte gern etwas Brot, aber keine K\u00e4sebrote mehr."] * 9, 100)
    train_wordpiece(
        ["a" * 1000 + "\u0947 \u00e9"], 100
    )  # one mark in a thousand letters is no text in that script


def test_unknown_characters_are_unknown_words(tokenizer):
    assert tokenizer.encode("the ж dogs", add_special_tokens=False).ids.count(1) == 1


def test_vocabulary_is_never_larger_than_asked():
    letters = len(train_wordpiece(["ab ba"] * 3, 1000).get_vocab())
    for size in (letters, letters - 1, letters - 2):
        try:
            assert train_wordpiece(["ab ba"] * 3, size).get_vocab_size() <= size
        except InputError as error:
            assert size < 9  # five special tokens, a, b, ##a, ##b
            assert f"vocabulary_size {size} is too small" in str(error)
    assert train_wordpiece(["ab ba"] * 3, 9).get_vocab_size() == 9
    with pytest.raises(InputError, match="at least that many"):
        train_wordpiece(["ab ba"] * 3, 8)


def test_merges_are_the_frequent_pairs():
    vocabulary = train_wordpiece(["hug hug hug pug pug bun"], 5 + 12 + 1).get_vocab()
    assert vocabulary.keys() >= {*"hugpbn", *(f"##{letter}" for letter in "hugpbn")}
    # ##u ##g occurs five times, the most of all pairs.
    assert [piece for piece in vocabulary if len(piece.removeprefix("##")) > 1 and "[" not in piece] == [
        "##ug"
    ]


def test_texts_without_words_are_refused():
    with pytest.raises(InputError, match="no words"):
        train_wordpiece(["", " \n"], 100)


def test_a_generator_is_read_once_and_odd_text_does_no_harm(tokenizer):
    assert train_wordpiece((text for text in TEXTS), 200).to_str() == tokenizer.to_str()
    odd = train_wordpiece([*TEXTS, "\u2028one\x85two\x1cthree\ufffd\x00"], 300)
    assert odd.get_vocab_size() <= 300


def test_the_rarest_characters_go_beyond_the_limit():
    common = ["".join(map(chr, range(0x4E00, 0x4E00 + 1000)))] * 2
    vocabulary = train_wordpiece([*common, "\u6f22"], 1200).get_vocab()
    assert "\u6f22" not in vocabulary and len(vocabulary) == 1005


def test_training_is_the_same_in_every_process():
    package = Path(kerasllm.data.__file__).parents[1]
    code = textwrap.dedent("""
        import sys, types, hashlib, random
        package = types.ModuleType("kerasllm"); package.__path__ = [sys.argv[1]]
        sys.modules["kerasllm"] = package
        from kerasllm.tokenizers.wordpiece import train_wordpiece
        draw = random.Random(5)
        words = ["".join(draw.choices("abcdefghij", k=draw.randint(1, 8))) for _ in range(5000)]
        texts = [" ".join(words[start : start + 50]) for start in range(0, 5000, 50)]
        print(hashlib.sha256(train_wordpiece(texts, 900).to_str().encode()).hexdigest())
    """)
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, str(package)], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }
    assert len(digests) == 1


@settings(deadline=None, max_examples=50)
@given(st.text(st.sampled_from("theqickbrwnfoxjmps ,.!dgslay"), max_size=60))
def test_decoding_gives_the_letters_back(text):
    tokenizer = train_wordpiece(TEXTS, 200)
    decoded = tokenizer.decode(tokenizer.encode(text).ids)
    assert decoded.replace(" ", "") == text.replace(" ", "")


def test_continuation_mask(tokenizer):
    mask = continuation_mask(tokenizer)
    assert mask.dtype == bool and mask.shape == (tokenizer.get_vocab_size(),)
    for piece, number in tokenizer.get_vocab().items():
        assert mask[number] == piece.startswith("##")
    assert 0 < mask.sum() < len(mask)
    hashes = Tokenizer(models.WordPiece({"[UNK]": 0, "##": 1, "#": 2, "##a": 3}, unk_token="[UNK]"))
    np.testing.assert_array_equal(continuation_mask(hashes), [False, False, False, True])


def test_saved_and_loaded(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "model", max_length=64)
    for path in (tmp_path / "model", tmp_path / "model" / "tokenizer.json"):
        assert load_wordpiece(path).to_str() == tokenizer.to_str()
    settings_ = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert settings_["model_max_length"] == 64 and settings_["do_lower_case"] is True
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_vocab_txt_with_and_without_settings(tokenizer, tmp_path):
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    assert (
        load_wordpiece(tmp_path).encode("Walking Dogs", "Jumped").ids
        == tokenizer.encode("Walking Dogs", "Jumped").ids
    )
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_wordpiece(tmp_path / "vocab.txt").encode("Walking", add_special_tokens=False).tokens == [
        "[UNK]"
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{broken", "tokenizer.json: not a tokenizer"),
        ("tokenizer.json", "[]", "tokenizer.json: not a tokenizer"),
        ("vocab.txt", "[PAD]\n[UNK]\nthe\n", r"vocab.txt: the vocabulary lacks \[CLS\], \[SEP\], \[MASK\]"),
        ("vocab.txt", "[PAD]\n[UNK]\nthe\nthe\n", "vocab.txt:4: piece 'the' occurs twice"),
        ("vocab.txt", "[PAD]\n\n[UNK]\n", "vocab.txt:2: empty line"),
        ("vocab.txt", "\udcff", "vocab.txt: not UTF-8 at byte 0"),
        ("other.bin", "x", "holds neither tokenizer.json nor vocab.txt"),
    ],
)
def test_faults_of_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=message):
        load_wordpiece(tmp_path)


def test_other_faults_are_named(tmp_path, tokenizer):
    with pytest.raises(InputError, match="no such tokenizer"):
        load_wordpiece(tmp_path / "nothing.json")
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL_TOKENS))
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config.json: not JSON"):
        load_wordpiece(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InputError, match="holds list"):
        load_wordpiece(tmp_path)
    byte_level = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    with pytest.raises(InputError, match="lacks"):
        special_token_ids(byte_level)
    assert hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
