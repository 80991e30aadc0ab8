"""What tokenizer_config.json says against tokenizer.json; tests/parity compares with transformers."""

import json

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from kerasllm.errors import InputError, InputWarning
from kerasllm.tokenizers.added_tokens import added_ids, mark_processor
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.encoding import encode
from kerasllm.tokenizers.loading import load_tokenizer
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.wordpiece import train_wordpiece

TEXTS = ["Paris paris caf\u00e9 Caf\u00e9 cafe the The ship Ship which sailed away at dawn"] * 9


def with_settings(directory, tokenizer, **settings):
    save_tokenizer(tokenizer, directory, max_length=16)
    path = directory / "tokenizer_config.json"
    found = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not ...}))
    return directory


@pytest.mark.parametrize(
    ("lowercase", "settings", "tokens"),
    [
        (True, {"do_lower_case": False}, "Caf\u00e9"),
        (False, {"do_lower_case": True}, "cafe"),
        (False, {"do_lower_case": ...}, "cafe"),
        (False, {"do_lower_case": True, "strip_accents": False}, "caf\u00e9"),
        (False, {"tokenizer_class": "BertTokenizerFast", "strip_accents": True}, "Cafe"),
    ],
)
def test_case_and_accents_are_those_of_the_settings(lowercase, settings, tokens, tmp_path):
    with_settings(
        tmp_path, train_wordpiece(TEXTS, 120, lowercase=lowercase, strip_accents=False), strip_accents=None
    )
    with_settings(tmp_path, train_wordpiece(TEXTS, 120, lowercase=lowercase), **settings)
    with pytest.warns(
        InputWarning, match=r"tokenizer.json: tokenizer_config.json beside it says otherwise"
    ) as told:
        tokenizer = load_tokenizer(tmp_path)
    assert len(told) == 1 and "do_lower_case" in str(told[0].message) and "\n" not in str(told[0].message)
    assert tokenizer.normalizer.normalize_str("Caf\u00e9") == tokens
    save_tokenizer(tokenizer, tmp_path / "again", max_length=16)
    assert load_tokenizer(tmp_path / "again").to_str() == tokenizer.to_str()


def test_settings_that_agree_or_do_not_concern_the_class_are_silent(tmp_path):
    tokenizer = train_wordpiece(TEXTS, 120)
    for settings in (
        {"strip_accents": True},
        {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False},
    ):
        found = load_tokenizer(with_settings(tmp_path, tokenizer, **settings))
        assert found.to_str() == tokenizer.to_str()
    with pytest.raises(InputError, match="do_lower_case is 'no', it must be true or false"):
        load_tokenizer(with_settings(tmp_path, tokenizer, do_lower_case="no"))


def test_a_model_names_the_class_where_the_settings_do_not(tmp_path):
    train_wordpiece(TEXTS, 120, lowercase=False).save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).normalizer.normalize_str("The") == "The"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.warns(InputWarning, match="do_lower_case true, as it is not given"):
        assert load_tokenizer(tmp_path).normalizer.normalize_str("The") == "the"


def test_a_normalization_that_berts_class_has_not_is_saved_as_it_is(tmp_path):
    tokenizer = train_wordpiece(TEXTS, 120)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    save_tokenizer(tokenizer, tmp_path, max_length=16)
    assert (
        json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"]
        == "PreTrainedTokenizerFast"
    )
    assert load_tokenizer(tmp_path).to_str() == tokenizer.to_str()


def test_marks_that_are_added(tmp_path):
    tokenizer = train_byte_level_bpe(TEXTS, 300)
    end = tokenizer.token_to_id("<|endoftext|>")
    found = load_tokenizer(with_settings(tmp_path, tokenizer, add_bos_token=True))
    assert added_ids(found) == ([], [])  # as tokenizer.json says
    tokenizer.post_processor = mark_processor(("<|endoftext|>", end), ("<|endoftext|>", end))
    found = load_tokenizer(with_settings(tmp_path, tokenizer, add_bos_token=False))
    assert added_ids(found) == ([end], [end])
    model = json.loads(tokenizer.to_str())["model"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "vocab.json").write_text(json.dumps(model["vocab"] | {"<|endoftext|>": end}))
    (tmp_path / "old" / "merges.txt").write_text("\n".join(map(" ".join, model["merges"])))
    settings = {"add_bos_token": True, "bos_token": "<|endoftext|>"}
    (tmp_path / "old" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(tmp_path / "old").encode("the ship").ids == [end, *encode(tokenizer, "the ship")]


@pytest.mark.parametrize(
    ("name", "settings", "begins"),
    [
        ("GPT2Tokenizer", {"add_prefix_space": True}, "\u0120"),
        ("LlamaTokenizer", {"legacy": True}, "\u2581"),
        ("LlamaTokenizer", {"add_prefix_space": False}, "t"),
    ],
)
def test_a_space_before_a_text(name, settings, begins, tmp_path):
    if name == "GPT2Tokenizer":
        tokenizer = train_byte_level_bpe(TEXTS, 300)
    else:
        tokenizer = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "\u2581": 2, "t": 3, "h": 4, "e": 5}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    with_settings(tmp_path, tokenizer, tokenizer_class=name, **settings)
    with pytest.warns(InputWarning, match=name):
        found = load_tokenizer(tmp_path)
    assert found.encode("the").tokens[0].startswith(begins)
    if settings.get("legacy"):
        assert found.encode("the</s>the").tokens.count("\u2581") == 2


def test_tokens_that_the_settings_name_are_special(tmp_path):
    """Also those of special_tokens_map.json; and a text is encoded whole."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<end>": 1, "<x>": 2, "?": 3}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert encode(load_tokenizer(tmp_path), "a<end>a", special_tokens=True) == [0, 3, 3, 3, 0][:1] + encode(
        load_tokenizer(tmp_path), "<end>a"
    )
    settings = {"eos_token": "not there", "extra_special_tokens": ["<x>", {"content": "not there"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<end>"}}))
    found = load_tokenizer(tmp_path)
    assert encode(found, "a<end>a<x>a a", special_tokens=True) == [0, 1, 0, 2, 0, 0]
    assert found.get_vocab_size() == 4


def test_tokens_that_the_settings_list_are_added(tmp_path):
    """With the ids that are listed, if they are the next ones, and with their traits."""
    (tmp_path / "vocab.json").write_text(
        json.dumps({letter: number for number, letter in enumerate("abc\u0120")})
    )
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    listed = {
        "5": {"content": "<call>", "special": False},
        "4": {"content": "<end>", "special": True, "rstrip": True},
        "9": {"content": "<far>", "special": True},
        "1": {"content": "b", "special": False},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    found = load_tokenizer(tmp_path)
    assert found.get_vocab_size() == 6
    assert encode(found, "a<end> b<call>c", special_tokens=True) == [0, 4, 1, 5, 2]
    assert found.decode([0, 4, 1, 5]) == "ab<call>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"x": 5}}))
    assert load_tokenizer(tmp_path).get_vocab_size() == 4
