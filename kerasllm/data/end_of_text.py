"""The mark between documents, under the names that different families of models give it."""

from tokenizers import Tokenizer

from kerasllm.errors import InputError

END_OF_TEXT = "<|endoftext|>"

# A tokenizer's JSON does not say which of its tokens is the mark. End, beginning; the first one known counts.
_MARKS = (
    (END_OF_TEXT, END_OF_TEXT),
    ("<|end_of_text|>", "<|begin_of_text|>"),
    ("</s>", "<s>"),
    ("<eos>", "<bos>"),
)


def marks(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """The tokens at the end and at the beginning of a document, which may be the same; None without any."""
    for end, beginning in _MARKS:
        if tokenizer.token_to_id(end) is not None:
            return end, beginning if tokenizer.token_to_id(beginning) is not None else end
    return None


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """The id of the mark that follows a document.

    Raises:
        InputError: the vocabulary has none.
    """
    found = marks(tokenizer)
    if found is None:
        names = ", ".join(end for end, _ in _MARKS)
        raise InputError(
            f"the vocabulary has no mark for the end of a text ({names}); a GPT's tokenizer needs one"
        )
    number = tokenizer.token_to_id(found[0])
    assert number is not None
    return number
