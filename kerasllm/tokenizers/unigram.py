"""Unigram over GPT-2's letters for bytes, so that any text can be encoded.

Reference: Kudo 2018, "Subword Regularization", https://arxiv.org/abs/1804.10959, section 3.2.
"""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from kerasllm.errors import InputError
from kerasllm.tokenizers.cutting import cut_between_words, plain_text
from kerasllm.tokenizers.training_texts import training_texts

# The trainer gives letters that it did not score the lowest score plus 0, 0.0001, 0.0002, … in an order by chance.
_UNSCORED = 0.0001 * 256


def train_unigram(texts: Iterable[str], size: int) -> list[tuple[str, float]]:
    """Trains a Unigram model with GPT-2's splitting into words; deterministic.

    Args:
        texts: the training texts, which are read once; the trainer keeps their words and their frequencies.
        size: the largest number of pieces, at least 256.

    Returns:
        The pieces and their logarithmic probabilities, the likeliest first; every byte's letter is among them.

    Raises:
        InputError: the texts are empty.
    """
    untrained = Tokenizer(models.Unigram())
    untrained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.UnigramTrainer(
        vocab_size=size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    parts = (part for text in training_texts(texts) for part in cut_between_words([plain_text(text)]))
    untrained.train_from_iterator(parts, trainer)
    found = json.loads(untrained.to_str())["model"]["vocab"]
    if any(score is None for _, score in found):
        raise InputError("the tokenizer's training text holds no characters; give it a corpus with text")
    lowest = min(score for _, score in found)
    # The trainer adds up in an order by chance: the last of sixteen digits differ from one time to the next.
    scores = {
        piece: round(lowest if len(piece) == 1 and score < lowest + _UNSCORED else score, 6)
        for piece, score in found
    }
    likeliest = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    # The trainer forgets its limit where the letters alone reach it.
    longer = [piece for piece, _ in likeliest if len(piece) > 1][: size - 256]
    kept = {*longer, *(piece for piece, _ in likeliest if len(piece) == 1)}
    return [item for item in likeliest if item[0] in kept]
