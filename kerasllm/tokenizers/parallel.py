"""The tokenizer of an encoder-decoder: byte-level BPE of both sides, with tokens for end and padding."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from kerasllm.errors import InputError
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.special_tokens import END_OF_TEXT, remember_roles

END, PADDING = "</s>", "<pad>"


def train_parallel_bpe(texts: Iterable[str], vocabulary_size: int, *, tags: Sequence[str] = ()) -> Tokenizer:
    """Trains a byte-level BPE for source and target; deterministic.

    A text is encoded as if a space stood before it, so that its first word has the tokens that it has elsewhere. Id 0
    is `</s>`, which ends each text; then come the bytes, the merges in order of frequency, the tags, and `<pad>` as the
    last id, as CTranslate2 expects it.

    Args:
        texts: the texts of both sides, which are read once.
        vocabulary_size: the largest size of the vocabulary.
        tags: further tokens that are never divided, such as `>>de<<` for the language of a target.

    Raises:
        InputError: the vocabulary cannot hold the bytes, or the texts are empty.
    """
    extra = 1 + len(tags)  # besides the end mark, for which the trainer leaves room
    if vocabulary_size - extra <= 256:
        raise InputError(
            f"vocabulary_size {vocabulary_size} is too small: 256 bytes, {END}, {PADDING} and {len(tags)} tags make "
            f"{257 + extra} tokens; choose at least that many"
        )
    trained = train_byte_level_bpe((f" {text}" for text in texts), vocabulary_size - extra)
    model = json.loads(trained.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    pieces.remove(END_OF_TEXT)
    names = [END, *pieces, *tags, PADDING]
    vocabulary = {name: number for number, name in enumerate(names)}
    if len(vocabulary) != len(names):
        raise InputError(f"tags {' '.join(tags)}: each must be there once, and be no piece of the vocabulary")
    merges = [(left, right) for left, right in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    tokenizer.decoder = trained.decoder
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, vocabulary[END])]
            ),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (END, *tags, PADDING)])
    remember_roles(tokenizer, {"eos_token": END, "pad_token": PADDING})
    return tokenizer


def decode_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Returns the text of token ids, without special tokens and the space before the first word."""
    return tokenizer.decode([int(token) for token in ids], skip_special_tokens=True).strip()
