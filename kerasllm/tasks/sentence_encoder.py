"""An encoder and its tokenizer, which turn texts into vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.errors import InputError
from kerasllm.models import BertConfig, BertEncoder
from kerasllm.tasks.base import few_shapes
from kerasllm.tasks.ordered_outputs import predict_in_order
from kerasllm.tasks.saved_model import open_model
from kerasllm.tokenizers.loading import load_wordpiece

_PURPOSES = {"query": ("query",), "document": ("document", "passage", "corpus")}


class SentenceEncoder:
    """A `BertEncoder` with its tokenizer.

    Args:
        model: the encoder.
        tokenizer: its tokenizer.
        place: where they come from, for messages.

    Attributes:
        num_truncated: number of texts that the last call of `encode` has truncated.
    """

    def __init__(self, model: BertEncoder, tokenizer: Any, place: Any = "the model") -> None:
        self.model, self.tokenizer, self.place = model, tokenizer, place
        self.num_truncated = 0

    @classmethod
    def open(cls, source: str) -> SentenceEncoder:
        """Returns the encoder of a run, a model directory or a hub id; a plain BERT gives means of its tokens.

        Raises:
            InputError: there is no such model, or it is no BERT.
        """
        saved = open_model(source, BertConfig, load_wordpiece)
        return cls(BertEncoder.from_pretrained(saved.directory), saved.tokenizer, saved.directory)

    @property
    def sequence_length(self) -> int:
        """The most tokens of a text, with special tokens."""
        return self.model.sequence_length or self.model.config.max_sequence_length

    def prompt(self, purpose: str | None) -> str:
        """Returns the text that is put before texts.

        Args:
            purpose: "query", "document" or the name of a prompt; None for the model's default. A model without a
                prompt for queries or documents has its default for them.

        Raises:
            InputError: the model has no such prompt.
        """
        prompts = self.model.prompts
        for name in _PURPOSES.get(purpose or "", (purpose,)):
            if name in prompts:
                return prompts[name]
        if purpose is not None and purpose not in _PURPOSES:
            known = ", ".join(map(repr, prompts)) or "none"
            raise InputError(f"{self.place}: has no prompt {purpose!r}; its prompts: {known}")
        return prompts[self.model.default_prompt] if self.model.default_prompt else ""

    def encode(
        self,
        texts: Sequence[str],
        purpose: str | None = None,
        *,
        sequence_length: int | None = None,
        batch_size: int = 64,
    ) -> np.ndarray:
        """Returns the vectors of texts, float32 (texts, dim), in their order.

        Args:
            texts: the texts.
            purpose: as for `prompt`.
            sequence_length: tokens to which longer texts are cut; None means as many as the model is made for.
            batch_size: number of texts in a batch.

        Raises:
            InputError: `sequence_length` is above the model's positions, or there is no such prompt.
        """
        positions = self.model.config.max_sequence_length
        length = self.sequence_length if sequence_length is None else sequence_length
        if length > positions:
            raise InputError(f"sequence_length {length} is above the {positions} positions of {self.place}")
        prompt = self.prompt(purpose)
        encoded = encode_texts(self.tokenizer, [(prompt + text,) for text in texts], length)
        self.num_truncated = encoded.num_truncated
        if not len(encoded):
            return np.zeros((0, self.model.dim), np.float32)
        shapes = few_shapes(len(texts), batch_size, length)
        batches = ClassificationBatches(encoded, None, shuffle=False, **shapes)
        return predict_in_order(self.model, batches)
