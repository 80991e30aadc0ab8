"""What goes into `generate` and how it is numbered, and the texts that come out of it."""

import dataclasses

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from kerasllm import GPTCausalLM, GPTConfig
from kerasllm.errors import InputError
from kerasllm.generation.prompts import check_room
from kerasllm.generation.texts import cut_at, prompt_and_addition, settled
from kerasllm.tokenizers.added_tokens import added_ids, mark_processor
from kerasllm.tokenizers.encoding import encode_from_beginning

CONFIG = GPTConfig(
    vocabulary_size=12,
    num_layers=1,
    num_heads=2,
    hidden_dim=16,
    max_sequence_length=24,
    initializer_range=0.4,
)
WORDS = ["<unk>", "</s>", "▁the", "▁man", "▁he", "a", "b", "c", "▁", "▁sat", "d", "e"]


@pytest.fixture(scope="module")
def model():
    return GPTCausalLM(CONFIG, seed=1)


def llama_tokenizer():
    """Words with a mark for the space before them; the decoder takes the first space away."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def characters(unknown=None):
    vocabulary = {character: number for number, character in enumerate("abcdefghijkl")}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, **({"unk_token": unknown} if unknown else {})))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def test_a_text_begins_as_its_tokenizer_begins_one(model):
    """Once, also where the text says so itself; a token that would follow the text is left out, as it goes on."""
    tokenizer = characters()
    tokenizer.add_special_tokens(["a", "b"])
    tokenizer.post_processor = mark_processor(("a", 0), ("b", 1))
    seen = []
    settings = {"tokenizer": tokenizer, "max_new_tokens": 1, "stop_token_ids": []}
    for text, ids in (("cd", [0, 2, 3]), ("acd", [0, 2, 3]), ("", [0]), ("bc", [0, 1, 2])):
        expected = model.generate(ids, max_new_tokens=1, stop_token_ids=[])[-1]
        model.generate(text, on_tokens=lambda row, tokens: seen.append(tokens), **settings)
        assert seen.pop() == [expected]
    with pytest.raises(InputError, match="a prompt of 24 tokens"):
        check_room([("--prompt", "c" * 23)], tokenizer, None, 24)
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(), processors.RobertaProcessing(("b", 1), ("a", 0))]
    )
    assert added_ids(tokenizer) == ([0], [1])
    assert encode_from_beginning(tokenizer, "cd") == tokenizer.encode("cd").ids[:-1]


def test_the_space_between_prompt_and_continuation_stays():
    model = GPTCausalLM(CONFIG, seed=7)
    tokenizer = llama_tokenizer()
    assert prompt_and_addition(tokenizer, [2], [3, 9]) == ("the", " man sat")
    assert prompt_and_addition(tokenizer, [], [3, 9]) == ("", "man sat")
    ids = model.generate([2], max_new_tokens=8, stop_token_ids=[]).tolist()
    found = model.generate("the", tokenizer=tokenizer, max_new_tokens=8, stop_token_ids=[])
    assert found == tokenizer.decode(ids)
    added = found.removeprefix("the")
    space = added.index(" ")
    assert model.generate("the", tokenizer=tokenizer, max_new_tokens=8, stop=" ") == "the" + added[:space]


def test_what_may_be_the_beginning_of_a_stop_text_waits():
    assert settled("so <|e", ["<|end|>"]) == "so "
    assert settled("so <|ex", ["<|end|>"]) == "so <|ex"
    assert settled("ab\ufffd", []) == "ab" and settled("ab", ["b"]) == "ab"
    assert settled("aab", ["ba", "aabc"]) == ""
    assert cut_at("one two three", ["three", "two"]) == "one " and cut_at("one", ["two"]) is None


def test_prompts_in_several_calls_are_drawn_for_as_in_one(model):
    prompts = [[1, 2], [1, 2], [1, 2], [3]]
    settings = {"max_new_tokens": 8, "temperature": 2.0, "seed": 5}
    whole = model.generate(prompts, **settings)
    parts = [model.generate(prompts[n : n + 2], first_row=n, **settings) for n in (0, 2)]
    assert [list(row) for part in parts for row in part] == whole
    assert whole[0] != whole[2]
    with pytest.raises(InputError, match="first_row is -1"):
        model.generate(prompts, first_row=-1)


@pytest.mark.parametrize(("beams", "positions"), [(1, "learned"), (1, "rotary"), (2, "learned")])
def test_a_long_prompt_does_not_shorten_the_others(beams, positions):
    model = GPTCausalLM(dataclasses.replace(CONFIG, positions=positions), seed=1)
    prompts = [[1, 2], [3] * 22, [4] * 23]
    alone = [model.generate(prompt, num_beams=beams).tolist() for prompt in prompts]
    assert list(map(len, alone)) == [24, 24, 24]
    assert np.asarray(model.generate(prompts, num_beams=beams)).tolist() == alone
    with pytest.raises(InputError, match="a prompt of 24 tokens and max_new_tokens 1"):
        model.generate([[1] * 24, [2]])


@pytest.mark.parametrize("temperature", [1e-40, 1e-38, 1e-25])
def test_a_tiny_temperature_takes_the_likeliest(model, temperature):
    expected = model.generate([5, 6], max_new_tokens=6).tolist()
    assert model.generate([5, 6], max_new_tokens=6, temperature=temperature).tolist() == expected
    assert model.generate([5, 6], max_new_tokens=6, temperature=1e-12).tolist() == expected


@pytest.mark.parametrize(
    ("prompts", "settings", "fault"),
    [
        (["a", 3], {}, "prompt 2 is 3 among texts"),
        ("aé", {}, "prompt 1: the tokenizer does not know the character 'é' (U+00E9)"),
        (["a", "日本"], {}, "prompt 2: the tokenizer does not know the character '日'"),
        ("a\ud800", {}, "half of a surrogate pair (U+D800)"),
        ([["a"]], {}, "prompt 1 is ['a']: give a list of whole numbers"),
        ([[1, 2], [1.7, 2.2]], {}, "prompt 2 is [1.7, 2.2]"),
        ([[1], 2], {}, "prompt 2 is 2"),
        (None, {}, "give "),
        ([1], {"stop_token_ids": 5}, "stop_token_ids is 5, it must be a list"),
        ([1], {"stop_token_ids": ["a"]}, "stop_token_ids is ['a']"),
        ([1], {"stop": 5}, "stop is 5, it must be a text"),
        ([1], {"max_new_tokens": True}, "max_new_tokens is True"),
    ],
)
def test_what_is_no_prompt_is_named(model, prompts, settings, fault):
    with pytest.raises(InputError) as refused:
        model.generate(prompts, tokenizer=characters(), **settings)
    assert fault in str(refused.value) and "\n" not in str(refused.value)


def test_characters_that_a_tokenizer_would_leave_out(model):
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    assert tokenizer.encode("aéb").ids == [2]
    with pytest.raises(InputError, match="'é'"):
        model.generate("aéb", tokenizer=tokenizer)
    tokenizer.add_special_tokens(["<end>"])
    assert model.generate("<end>a", tokenizer=tokenizer, max_new_tokens=2).startswith("a")
    known = model.generate("aé", tokenizer=characters("b"), max_new_tokens=2)  # this one has a token for it
    assert known.startswith("ab")
    stops = np.array([3])
    assert model.generate([1], max_new_tokens=2, stop_token_ids=stops)[0] == 1
