"""The log probabilities of tokens, as OpenAI's API gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kerasllm.serving.engine import Token

_LOWEST = -9999.0  # OpenAI's number for a token without probability, as JSON has no infinity


def log_probabilities(tokenizer: Any, tokens: Sequence[Token], offset: int) -> dict[str, Any]:
    """Returns the `logprobs` of a completion.

    Args:
        tokenizer: the model's tokenizer.
        tokens: the tokens.
        offset: the place of the first of them in the text.
    """
    texts = [_shown(tokenizer, token.id) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [max(token.log_probability, _LOWEST) for token in tokens],
        "top_logprobs": [
            {_shown(tokenizer, other): max(value, _LOWEST) for other, value in token.alternatives}
            for token in tokens
        ],
        "text_offset": offsets,
    }


def chat_log_probabilities(tokenizer: Any, tokens: Sequence[Token]) -> dict[str, Any]:
    """Returns the `logprobs` of an answer in a chat.

    Args:
        tokenizer: the model's tokenizer.
        tokens: the tokens.
    """

    def entry(token: int, value: float) -> dict[str, Any]:
        text = _shown(tokenizer, token)
        return {"token": text, "logprob": max(value, _LOWEST), "bytes": list(text.encode("utf-8"))}

    content = [
        {
            **entry(token.id, token.log_probability),
            "top_logprobs": [entry(other, value) for other, value in token.alternatives],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _shown(tokenizer: Any, token: int) -> str:
    """Returns the text of a token; that of a part of a character, or of a special token, is its own name."""
    text = tokenizer.decode([token])
    return (tokenizer.id_to_token(token) or "") if not text or "\ufffd" in text else text
