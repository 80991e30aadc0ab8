"""What save_tokenizer writes is what transformers loads: the same ids, segments and special tokens."""

import json

import pytest

from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.characters import train_characters
from kerasllm.tokenizers.encoding import encode
from kerasllm.tokenizers.loading import load_tokenizer, read_chat_template
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.wordpiece import train_wordpiece

transformers = pytest.importorskip("transformers", reason="transformers is not installed in this environment")

TEXTS = ["The quick brown fox jumped over the lazy dogs.", "Naïve résumés, 漢字 and such: don't!"] * 5
PAIRS = [
    ("The naïve dogs!", "Quick, 漢字?"),
    ("don't", "RÉSUMÉS  and\tsuch."),
    ("zzz ж", "[MASK] fox [SEP]"),
    ("", "a"),
]


@pytest.mark.parametrize("lowercase", [True, False])
def test_auto_tokenizer_gives_equal_ids(tmp_path, lowercase):
    tokenizer = train_wordpiece(TEXTS, 150, lowercase=lowercase)
    save_tokenizer(tokenizer, tmp_path, max_length=77)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.model_max_length == 77
    assert (theirs.pad_token_id, theirs.unk_token_id, theirs.cls_token_id) == (0, 1, 2)
    assert (theirs.sep_token_id, theirs.mask_token_id, len(theirs)) == (3, 4, tokenizer.get_vocab_size())
    for first, second in PAIRS:
        ours = tokenizer.encode(first, second)
        encoded = theirs(first, second)
        assert encoded["input_ids"] == ours.ids
        assert encoded["token_type_ids"] == ours.type_ids
        assert theirs.decode(ours.ids, skip_special_tokens=True) == tokenizer.decode(ours.ids)


MARK = "<|endoftext|>"
ODD = [
    "Hello  world,\n\n this isn't\tGPT-2. ",
    "caf\u00e9 \u6f22\u5b57 \U0001f600\n",
    " ",
    "",
    f"a{MARK}b {MARK}",
]
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>\n{{ message['content'] | trim }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
MESSAGES = [{"role": "user", "content": " Why? "}, {"role": "assistant", "content": "Because."}]


@pytest.mark.parametrize("model_type", [None, "gpt2", "llama"])
@pytest.mark.parametrize("kind", ["bpe", "characters", "gpt2"])
def test_tokenizers_of_gpt(tmp_path, kind, model_type, shared_data):
    """Beside a model of any family: `transformers` must not take that family's own tokenizer instead."""
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    if kind == "bpe":
        tokenizer = train_byte_level_bpe(TEXTS, 300)
    elif kind == "characters":
        tokenizer = train_characters([*ODD, TEMPLATE])
    else:
        tokenizer = load_tokenizer(shared_data / "gpt2_vocab")
    save_tokenizer(tokenizer, tmp_path, max_length=77, chat_template=TEMPLATE)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    last = tokenizer.get_vocab_size() - 1
    assert (theirs.model_max_length, len(theirs)) == (77, last + 1)
    assert (theirs.eos_token, theirs.bos_token, theirs.pad_token) == (MARK, MARK, MARK)
    assert (theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id) == (last, last, last)
    assert theirs.unk_token is None
    for text in ODD:
        ours = encode(tokenizer, text, special_tokens=True)
        assert theirs(text)["input_ids"] == ours == tokenizer.encode(text).ids
        assert theirs.decode(ours) == tokenizer.decode(ours, skip_special_tokens=False) == text
    assert theirs.chat_template == read_chat_template(tmp_path) == TEMPLATE
    chat = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert chat == f"<user>\nWhy?{MARK}\n<assistant>\nBecause.{MARK}\n<assistant>\n"


def test_gpt2s_own_files_give_their_ids(shared_data):
    files = [shared_data / "gpt2_vocab" / f"gpt2_{name}" for name in ("vocab.json", "merges.txt")]
    theirs = transformers.GPT2Tokenizer(*map(str, files))
    ours = load_tokenizer(shared_data / "gpt2_vocab")
    for text in ODD[:-1]:
        assert encode(ours, text) == theirs(text)["input_ids"]


def test_what_transformers_saves_is_read(tmp_path):
    save_tokenizer(train_byte_level_bpe(TEXTS, 300), tmp_path / "ours", max_length=77, chat_template=TEMPLATE)
    transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    one, other = (load_tokenizer(tmp_path / name) for name in ("ours", "theirs"))
    assert [encode(one, text) for text in ODD] == [encode(other, text) for text in ODD]
    assert read_chat_template(tmp_path / "theirs") == TEMPLATE
