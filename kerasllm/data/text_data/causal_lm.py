"""Data sets for causal language modeling on texts in memory."""

from __future__ import annotations

from typing import Any

from kerasllm.data.batches.causal_lm import CausalEvaluationBatches
from kerasllm.data.text_data.base import TextData
from kerasllm.data.text_data.texts import check_tokenizer, read_single_texts
from kerasllm.data.token_cache.stream import stream_of_texts
from kerasllm.tokenizers.special_tokens import default_length


class CausalLanguageModelData(TextData):
    """Texts whose next tokens are predicted: a data set for training a GPT with `fit`.

    The texts are one stream of tokens, in which the end mark follows each text, and a row is a window of it. Each epoch
    has every token once. It cuts the stream in other places than the epoch before, and has the windows in a new order,
    both by the seed and the epoch alone.

    Args:
        texts: a list of texts, each a document, which are tokenized verbatim.
        tokenizer: a tokenizer with an end mark (`kerasllm.train_byte_level_bpe`, `train_characters`).
        context_length: number of tokens in a row; by default 256, or fewer if the tokenizer was saved with a model of
            fewer positions.
        batch_size: number of rows in a batch.
        within_documents: whether attention stays within a text.
        shuffle: whether each epoch has a new order.
        seed: seed of all random numbers.

    An item is (inputs, labels, weights) for `GPTCausalLM`: `token_ids` int32 (batch, length), the tokens that follow,
    and 1 where there is one, float32 (batch, length). Metrics belong into `weighted_metrics`.

    Raises:
        InputError: a text is none, holds an unknown character, or a setting is out of range.
    """

    wants = "a causal language model, such as GPTCausalLM"
    length_name = "context_length"

    def __init__(
        self,
        texts: Any,
        *,
        tokenizer: Any,
        context_length: int | None = None,
        batch_size: int = 8,
        within_documents: bool = False,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        check_tokenizer(tokenizer)
        stream = stream_of_texts(read_single_texts(texts), tokenizer)
        batches = CausalEvaluationBatches(
            stream,
            context_length=default_length(tokenizer, 256) if context_length is None else context_length,
            batch_size=batch_size,
            within_documents=within_documents,
            keep_partial=True,
            shuffle=shuffle,
            seed=seed,
        )
        super().__init__(batches, shuffle=shuffle)

    @property
    def longest(self) -> int:
        """The length of a row."""
        return self.batches.context_length

    @property
    def greatest_token(self) -> int:
        """The greatest token id of the texts."""
        return int(self.batches.stream.tokens.max())

    def suits(self, model: Any) -> bool:
        """Returns whether a model of kerasllm predicts next tokens."""
        return hasattr(model, "output_table")
