"""The methods that a model needs for text generation."""

from __future__ import annotations

from typing import Any, Protocol


class GenerativeModel(Protocol):
    """A Keras model that predicts the next token from caches of the tokens before it.

    Generation compiles these methods once per shape of their arguments. They must consist of tensor operations, the
    shapes of their results must depend on the shapes of their arguments alone, and `step` must return caches with the
    shapes and dtypes of those it was given. Dropout is off. The weights have the model's compute dtype.

    `caches` are nested lists, tuples and dicts of tensors, whose first axis belongs to the rows: the keys and values of
    a decoder, the state of a recurrent model, or the keys and values of both source and target in an encoder-decoder.
    Generation passes them on and never reads them.

    Prompts are left-padded in columns 0 … width - 1, and every row writes its next token into the same column. A
    decoder continues its prompt. For an encoder-decoder the prompt is the source: `prefill` encodes it, and feeds the
    token that begins a target. A recurrent model must keep its state unchanged over the padding.

    `config` has `vocabulary_size`; `max_sequence_length`, the most tokens of a prompt and its continuation together;
    `end_token_ids`, the tokens at which a text ends; and `end_token_id`, the first of them or None.
    """

    config: Any
    weights: list[Any]
    compute_dtype: str
    variable_dtype: str

    def prefill(self, token_ids: Any, starts: Any, capacity: int) -> tuple[Any, Any]:
        """Runs whole prompts.

        Args:
            token_ids: int (rows, width), left-padded.
            starts: int (rows,), the column of each prompt's first token.
            capacity: number of columns for the prompts and all new tokens together.

        Returns:
            The logits of the next token, (rows, vocabulary_size), and the caches.
        """
        ...

    def step(self, token_ids: Any, column: Any, starts: Any, caches: Any) -> tuple[Any, Any]:
        """Runs one more token of each row.

        Args:
            token_ids: int (rows,).
            column: int scalar, the column of these tokens; or int (rows,), if each row has a column of its own, as in
                `kerasllm.generation.slots`. An encoder-decoder need not take the latter.
            starts: as in `prefill`. A row may run on beside others after it has used up its positions; its results are
                then ignored, but it must not fail.
            caches: the caches of the columns before.

        Returns:
            The logits of the next token, (rows, vocabulary_size), and the caches with these tokens.
        """
        ...

    def reorder(self, caches: Any, rows: Any) -> Any:
        """Returns caches whose row i is row `rows[i]` of the given ones; beam search needs this.

        Args:
            caches: caches with any number of rows.
            rows: int (new rows,); a row may occur several times, or not at all.
        """
        ...
