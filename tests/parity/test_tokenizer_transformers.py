"""What save_tokenizer writes is what transformers loads: the same ids, segments and special tokens."""

import pytest

from kerasllm.data.tokenizers import save_tokenizer, train_wordpiece

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
