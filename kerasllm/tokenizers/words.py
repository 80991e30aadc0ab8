"""Tokenizers whose tokens are the most frequent words and punctuation marks of a text, as in Penn Treebank's models."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers

from kerasllm.errors import InputError
from kerasllm.tokenizers.special_tokens import END_OF_TEXT
from kerasllm.tokenizers.training_texts import training_texts

UNKNOWN = "<unk>"


def train_words(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Returns a tokenizer whose tokens are the most frequent words of some texts; any other word is `<unk>`.

    A word is a run of letters, digits and underscores, or of other characters between spaces. `<unk>` has the id 0, the
    words follow by frequency, and `<|endoftext|>` comes last. Decoding puts a space between any two tokens.

    Args:
        texts: the training texts, which are read once; only the counts of their words are kept.
        vocabulary_size: the most tokens, with these two.

    Raises:
        InputError: there are no words, or no room for one.
    """
    if vocabulary_size < 3:
        raise InputError(f"vocabulary_size is {vocabulary_size}, a vocabulary of words needs at least 3")
    splitter = pre_tokenizers.Whitespace()
    counts: Counter[str] = Counter()
    for text in training_texts(texts):
        counts.update(word for word, _ in splitter.pre_tokenize_str(text))
    for special in (UNKNOWN, END_OF_TEXT):
        counts.pop(special, None)
    if not counts:
        raise InputError("the tokenizer's training text holds no words; give it a corpus with text")
    # Words of one frequency are in alphabetical order, so that the order of the texts does not matter.
    ordered = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary_size - 2]
    vocabulary = {word: number for number, word in enumerate([UNKNOWN, *ordered, END_OF_TEXT])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens([UNKNOWN, END_OF_TEXT])
    return tokenizer
