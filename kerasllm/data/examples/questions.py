"""Encoding of questions and contexts to token ids, with the place of each token of a context in its text.

A context that is longer than a row is cut into overlapping windows, each of which has the whole question:
`[CLS] question [SEP] part of the context [SEP]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from kerasllm.data.examples.labelled import EncodedTexts
from kerasllm.errors import InputError
from kerasllm.tokenizers.encoding import refusing
from kerasllm.tokenizers.wordpiece import SpecialTokens, special_token_ids

_CHUNK = 1024  # texts that the tokenizer gets at a time
_SPECIAL = 3  # [CLS], and [SEP] twice


@dataclass(frozen=True, eq=False)
class EncodedQuestions:
    """Questions with their contexts as windows of tokens.

    Args:
        windows: the windows, as texts; a question has one or more, one after the other.
        question_of: int64 (windows,), the index of each window's question.
        characters: int32 (tokens, 2), the start and end of each token of a context, in characters of the context;
            -1 for all other tokens.
        spans: int32 (windows, 2), the first and the last token of the answer, counted from the start of the window;
            0, the place of [CLS], in windows without the whole answer.
        num_cut: number of questions that were too long, and lost tokens at their end.
        num_lost: number of questions left out because the place of the answer is not known, or has no token.
    """

    windows: EncodedTexts
    question_of: np.ndarray
    characters: np.ndarray
    spans: np.ndarray
    num_cut: int
    num_lost: int


@dataclass(frozen=True)
class _Tokens:
    ids: np.ndarray  # int32 (tokens,)
    characters: np.ndarray  # int32 (tokens, 2)


def encode_questions(
    tokenizer: Tokenizer,
    questions: Sequence[str],
    contexts: Sequence[str],
    context_of: np.ndarray,
    sequence_length: int,
    *,
    stride: int = 128,
    spans: np.ndarray | None = None,
    skip_unknown: bool = False,
) -> EncodedQuestions:
    """Returns questions with their contexts as tokens.

    A question gets at most half of a window. Each context is tokenized once.

    Args:
        tokenizer: a WordPiece tokenizer, which is not changed, and whose own truncation and padding are not used.
        questions: the questions.
        contexts: the contexts.
        context_of: int (questions,), the index of each question's context.
        sequence_length: the most tokens of a window, with special tokens.
        stride: tokens of a context that neighboring windows share; half of the room for a context if a long question
            leaves no more than that.
        spans: int (questions, 2), the start and end of each answer in characters of its context; -1 for no answer,
            and -2 for an answer whose place is not known. None if there are no answers.
        skip_unknown: whether to leave out questions whose answer has no known place, or no token, as in training.

    Raises:
        InputError: `sequence_length` leaves no room, `stride` is out of range, or the tokenizer is damaged.
    """
    special = special_token_ids(tokenizer)
    room = sequence_length - _SPECIAL
    if room < 2:
        raise InputError(
            f"sequence_length {sequence_length} leaves no room for a question and a context between [CLS] and [SEP]"
        )
    if not 0 <= stride < room:
        raise InputError(
            f"document_stride is {stride}, it must lie in [0, {room - 1}], below sequence_length - 3"
        )
    asked = _encode(tokenizer, questions)
    read = _encode(tokenizer, contexts)
    if spans is None:
        spans = np.full((len(questions), 2), -1, np.int64)
    parts: list[tuple[np.ndarray, ...]] = []  # token ids, segments and characters of each window
    of_question: list[int] = []
    targets: list[tuple[int, int]] = []
    num_cut = num_lost = 0
    for index, (question, context, span) in enumerate(zip(asked, context_of, spans, strict=True)):
        ids = question.ids[: room // 2]
        num_cut += len(ids) < len(question.ids)
        tokens = read[context]
        answer = _answer_tokens(tokens.characters, span)
        cuts = _cuts(len(tokens.ids), room - len(ids), stride)
        if answer is None and skip_unknown:
            num_lost += 1
            continue
        before = len(ids) + 2
        for start, end in cuts:
            parts.append(_window(ids, tokens, start, end, special))
            of_question.append(index)
            if answer is not None and start <= answer[0] and answer[1] < end:
                targets.append((before + answer[0] - start, before + answer[1] - start))
            else:
                targets.append((0, 0))
    if not parts:
        raise InputError(
            "no question has an answer with a known place: are the answers those of the contexts?"
        )
    token_ids, segment_ids, characters = (np.concatenate(each) for each in zip(*parts, strict=True))
    lengths = [0, *(len(part[0]) for part in parts)]
    windows = EncodedTexts(
        token_ids=token_ids,
        segment_ids=segment_ids,
        offsets=np.cumsum(lengths, dtype=np.int64),
        sequence_length=sequence_length,
        pad_id=special.pad,
        num_truncated=0,
    )
    return EncodedQuestions(
        windows,
        np.array(of_question, np.int64),
        characters,
        np.array(targets, np.int32),
        num_cut,
        num_lost,
    )


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[_Tokens]:
    """Returns the tokens of each text, without special ones, by a copy that neither pads nor truncates."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_padding()
    own.no_truncation()
    found = []
    for start in range(0, len(texts), _CHUNK):
        with refusing("a question or a context cannot be tokenized"):
            encodings = own.encode_batch(list(texts[start : start + _CHUNK]), add_special_tokens=False)
        found += [
            _Tokens(np.array(encoding.ids, np.int32), np.array(encoding.offsets, np.int32).reshape(-1, 2))
            for encoding in encodings
        ]
    return found


def _answer_tokens(characters: np.ndarray, span: np.ndarray) -> tuple[int, int] | None:
    """Returns the first and the last token that have a character of the answer.

    For a question without an answer these are -1, which lie in no window; None if the place is unknown, or no token
    has any of the characters.
    """
    start, end = span
    if start == -1:
        return -1, -1
    inside = np.flatnonzero((characters[:, 0] < end) & (characters[:, 1] > start))
    return (int(inside[0]), int(inside[-1])) if start >= 0 and len(inside) else None


def _cuts(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Returns the first token and the end of each window of a context.

    Args:
        length: number of tokens of the context.
        room: the most tokens of a context in a window.
        stride: tokens that a window shares with the one before.
    """
    overlap = stride if stride < room else room // 2
    cuts = [(0, min(room, length))]
    while cuts[-1][1] < length:
        start = cuts[-1][0] + room - overlap
        cuts.append((start, min(start + room, length)))
    return cuts


def _window(
    question: np.ndarray, context: _Tokens, start: int, end: int, special: SpecialTokens
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the token ids, segment ids and characters of a window."""
    cls, sep = np.array([special.cls], np.int32), np.array([special.sep], np.int32)
    token_ids = np.concatenate([cls, question, sep, context.ids[start:end], sep])
    before = len(question) + 2
    segment_ids = np.zeros(len(token_ids), np.int8)
    segment_ids[before:] = 1
    characters = np.full((len(token_ids), 2), -1, np.int32)
    characters[before:-1] = context.characters[start:end]
    return token_ids, segment_ids, characters
