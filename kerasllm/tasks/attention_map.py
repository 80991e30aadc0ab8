"""What an encoder-decoder attends to in a source text while it writes the target."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kerasllm.data.examples.parallel import encode_side
from kerasllm.tokenizers.parallel import target_tokenizer


def attention_map(
    model: Any, tokenizer: Any, source: str, target: str
) -> tuple[np.ndarray, list[str], list[str]]:
    """Returns the cross-attention of a pair of texts, and the tokens of both as text.

    What is longer than the model's positions is left out.

    Args:
        model: a `Seq2SeqLM`.
        tokenizer: its tokenizer.
        source: the source text.
        target: the target text, such as the model's own translation.

    Returns:
        float32 (target tokens, source tokens), the mean over the heads of the last layer, whose rows have sums of 1;
        the target's tokens; the source's tokens. Row i is what the model attends to when it writes target token i.
    """
    config, own = model.config, target_tokenizer(tokenizer)
    sides = ((source, tokenizer), (target, own))
    most = config.max_sequence_length
    encoded = [encode_side([text], some, config.end_token_id)[0][:most] for text, some in sides]
    shifted = np.append(np.int32(config.pad_token_id), encoded[1][:-1])
    inputs = {"encoder_token_ids": encoded[0][None], "decoder_token_ids": shifted[None].astype("int32")}
    weights = keras.ops.convert_to_numpy(model.backbone.cross_attention(inputs))[-1, 0].mean(axis=0)
    names = [_pieces(some, ids) for (_, some), ids in zip(sides, encoded, strict=True)]
    return weights, names[1], names[0]


def _pieces(tokenizer: Any, ids: np.ndarray) -> list[str]:
    """Returns tokens as text, with a mark where a character is divided."""
    names = [tokenizer.decode([int(token)], skip_special_tokens=False).strip() for token in ids]
    return [name.replace("\ufffd", "\u2022") or "\u2423" for name in names]
