"""Whether two vocabularies are one."""

import pytest

from kerasllm.errors import InputError
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.encoding import differing_token
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.training.options import GPTStartOptions


def test_a_token_of_another_place_is_found():
    own = {f"t{number}": number for number in range(100)}
    assert differing_token(own, own) is None
    assert differing_token({token: number for token, number in own.items() if number < 80}, own) is None
    assert differing_token(own, {token: number for token, number in own.items() if number % 2}) is None
    renamed = {f"new{number}" if number < 1 else token: number for token, number in own.items()}
    assert differing_token(renamed, own) is None  # as unused tokens may be
    assert differing_token(own | {"t7": 100, "x": 7}, own) == "t7"
    assert differing_token({f"s{number}": number for number in range(100)}, own) == "s0"


def test_a_checkpoint_takes_its_own_tokens_alone(tmp_path):
    texts = {"own": ["the cat sees the dog and the bird"] * 9, "other": ["jeder hund bellt laut im hof"] * 9}
    for name, text in texts.items():
        save_tokenizer(train_byte_level_bpe(text, 270), tmp_path / name)
    (tmp_path / "own" / "config.json").write_text("{}")
    options = GPTStartOptions(init=str(tmp_path / "own"))
    tokenizer = options.find_tokenizer([])
    options.tokenizer = str(tmp_path / "own")
    assert options.find_tokenizer([]).get_vocab() == tokenizer.get_vocab()
    options.tokenizer = str(tmp_path / "other")
    with pytest.raises(
        InputError, match=r"does not belong to the model of .*own, whose tokenizer has other ids"
    ):
        options.find_tokenizer([])
