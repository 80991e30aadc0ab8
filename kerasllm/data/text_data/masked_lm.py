"""Data sets for pretraining a BERT on texts in memory: masked tokens, alone or with sentence pairs."""

from __future__ import annotations

from typing import Any, Literal

from kerasllm.data.batches.masked_lm import BertPretrainingBatches, Objective
from kerasllm.data.batches.masking import MaskingMode
from kerasllm.data.sources.sentences import split_paragraphs
from kerasllm.data.text_data.base import TextData
from kerasllm.data.text_data.texts import check_tokenizer, read_single_texts
from kerasllm.data.token_cache.store import store_of_sentences
from kerasllm.tokenizers.special_tokens import default_length
from kerasllm.tokenizers.wordpiece import continuation_mask, special_token_ids


class MaskedLanguageModelData(TextData):
    """Texts with masked tokens to predict: a data set for pretraining a BERT with `fit`.

    A text is a document, and is split into sentences. A row holds as many whole sentences of one document as fit, or,
    with `packing`, of several documents that do not see one another. Each epoch has every sentence once, in a new order
    and with new masks, which depend on the seed and the epoch alone. The last batch is filled up with rows of weight 0.

    Args:
        texts: a list of texts, each a document; its paragraphs are separated by line breaks.
        tokenizer: a tokenizer with BERT's special tokens (`kerasllm.train_wordpiece`).
        batch_size: number of rows in a batch.
        sequence_length: number of tokens in a row, with special tokens; by default 128, or fewer if the tokenizer was
            saved with a model of fewer positions.
        masking: "token", "whole_word" or "span".
        masking_probability: share of the tokens that are predicted.
        packing: whether several documents share a row.
        shuffle: whether each epoch has a new order and new masks.
        seed: seed of all random numbers.

    An item is (inputs, labels, weights) for `BertMaskedLM`, or for `BertPretraining` with
    `objectives=("masked_lm",)`; see `kerasllm.data.batches.masked_lm`. Metrics belong into `weighted_metrics`.

    Raises:
        InputError: a text is none, the texts hold no tokens, or a setting is out of range.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1.
    """

    wants = "a model with a masked-LM head, such as BertMaskedLM"
    objectives: tuple[Objective, ...] = ("masked_lm",)

    def __init__(
        self,
        texts: Any,
        *,
        tokenizer: Any,
        batch_size: int = 32,
        sequence_length: int | None = None,
        masking: MaskingMode = "token",
        masking_probability: float = 0.15,
        packing: bool = False,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        documents = [split_paragraphs(text) for text in read_single_texts(texts)]
        check_tokenizer(tokenizer)
        special = special_token_ids(tokenizer)
        batches = BertPretrainingBatches(
            store_of_sentences(documents, tokenizer),
            special=special,
            sequence_length=default_length(tokenizer, 128) if sequence_length is None else sequence_length,
            batch_size=batch_size,
            steps=None,
            seed=seed,
            objectives=self.objectives,
            masking=masking,
            masking_probability=masking_probability,
            continuation=continuation_mask(tokenizer),
            packing=packing,
            pad_last=True,
        )
        super().__init__(batches, shuffle=shuffle)

    @property
    def longest(self) -> int:
        """The length of a row."""
        return self.batches.sequence_length

    @property
    def greatest_token(self) -> int:
        """The greatest token id that a row may hold: masked tokens may become any token."""
        return self.batches.store.vocabulary_size - 1

    def suits(self, model: Any) -> bool:
        """Returns whether a model of kerasllm has a masked-LM head, and no other objective."""
        heads = getattr(model, "masked_lm_head", None), getattr(model, "next_sentence_head", None)
        return heads[0] is not None and (heads[1] is None or len(self.objectives) == 2)


class SentencePairPretrainingData(MaskedLanguageModelData):
    """Texts as sentence pairs with masked tokens: a data set for pretraining a `BertPretraining` with `fit`.

    The model predicts the masked tokens, and whether the second segment of a row follows the first one in its document
    or comes from another ("next_sentence"), or whether the two are in their order ("sentence_order", ALBERT's).

    Args:
        texts: a list of at least two texts, each a document of several sentences.
        objective: "next_sentence" or "sentence_order".
        settings: the arguments of `MaskedLanguageModelData`.

    An item is (inputs, labels, weights) with labels and weights `masked_lm` and `next_sentence`.

    Raises:
        InputError: as for `MaskedLanguageModelData`, or there are no two documents, or none has two sentences.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, appendix A.2; Lan et al. 2020,
    https://arxiv.org/abs/1909.11942, section 3.1.
    """

    wants = "a model that predicts masked tokens and sentence pairs: BertPretraining"

    def __init__(
        self,
        texts: Any,
        *,
        objective: Literal["next_sentence", "sentence_order"] = "next_sentence",
        **settings: Any,
    ) -> None:
        self.objectives = ("masked_lm", objective)
        super().__init__(texts, **settings)

    def suits(self, model: Any) -> bool:
        """Returns whether a model of kerasllm has both heads."""
        return super().suits(model) and getattr(model, "next_sentence_head", None) is not None
