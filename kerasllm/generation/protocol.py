"""What a model offers so that texts can be generated with it."""

from __future__ import annotations

from typing import Any, Protocol


class GenerativeModel(Protocol):
    """A Keras model that scores the next token, from what it keeps of the tokens before.

    Generation compiles these methods, once for each shape of their arguments: they consist of tensor operations, their
    results have shapes that depend on shapes alone, and `step` returns caches of the shapes and types that it was
    given. Dropout is off. The weights are the values of `weights`, in the type that the model computes in.

    `caches` is whatever the model keeps, in lists, tuples and dicts of tensors, whose first axis belongs to the rows:
    keys and values of the tokens in a decoder, the state of a recurrent model, and in an encoder-decoder the keys and
    values of the source too. Generation hands them on and never looks into them.

    Prompts stand left-padded in columns 0 … width - 1, and every row writes its next token into the same column. A
    decoder continues its prompt. To an encoder-decoder the prompt is the source: `prefill` encodes it, and feeds the
    token that begins a target. A recurrent model lets its state pass over the padding unchanged.

    `config` has `vocabulary_size`; `max_sequence_length`, the most tokens of a prompt and its continuation together;
    `end_token_ids`, the tokens at which a text ends; and `end_token_id`, the first of them or None.
    """

    config: Any
    weights: list[Any]
    compute_dtype: str
    variable_dtype: str

    def prefill(self, token_ids: Any, starts: Any, capacity: int) -> tuple[Any, Any]:
        """Reads whole prompts.

        Args:
            token_ids: int (rows, width), left-padded.
            starts: int (rows,), the column of each prompt's first token.
            capacity: columns that the prompts and all new tokens take together.

        Returns:
            The logits of the next token, (rows, vocabulary_size), and the caches.
        """
        ...

    def step(self, token_ids: Any, column: Any, starts: Any, caches: Any) -> tuple[Any, Any]:
        """Reads one more token of each row.

        Args:
            token_ids: int (rows,).
            column: int scalar, the column of these tokens.
            starts: as in `prefill`. A row may run on beside others after it has used up its positions; what it makes
                then is not looked at, but must not fail.
            caches: of the columns before.

        Returns:
            The logits of the next token, (rows, vocabulary_size), and the caches with these tokens.
        """
        ...

    def reorder(self, caches: Any, rows: Any) -> Any:
        """Returns caches whose row i is row `rows[i]` of those given; for beam search.

        Args:
            caches: of any number of rows.
            rows: int (new rows,); a row may occur several times, or not at all.
        """
        ...
