"""Windows of contexts: the tokens of the `tokenizers` library's own windows, and answers found again in the text."""

import numpy as np
import pytest

from kerasllm.data.batches.questions import QuestionBatches
from kerasllm.data.examples.questions import encode_questions
from kerasllm.errors import InputError
from kerasllm.tokenizers.wordpiece import train_wordpiece

CONTEXTS = [
    "The unbelievable cat 😀 sat in São Paulo, near the river. " * 4,
    "Ann sang.",
    "東京 is a big city; the cat met Ann there, and both were happy in the garden of the old tower.",
]
QUESTIONS = ["Where sat the cat?", "Who sang?", "Which city is big?", "Where is the tower?"]
CONTEXT_OF = np.array([0, 1, 2, 2])


@pytest.fixture(scope="module")
def tokenizer():
    found = train_wordpiece([*CONTEXTS, *QUESTIONS] * 2, 90)
    found.enable_truncation(16)  # some files have both built in
    found.enable_padding(length=16)
    return found


@pytest.mark.parametrize(("length", "stride"), [(40, 8), (48, 0), (64, 20), (400, 128)])
def test_windows_are_those_of_the_library(tokenizer, length, stride):
    encoded = encode_questions(tokenizer, QUESTIONS, CONTEXTS, CONTEXT_OF, length, stride=stride)
    reference = type(tokenizer).from_str(tokenizer.to_str())
    reference.no_padding()
    reference.enable_truncation(length, stride=stride, strategy="only_second")
    window = 0
    for number, (question, context) in enumerate(zip(QUESTIONS, CONTEXT_OF, strict=True)):
        first = reference.encode(question, CONTEXTS[context])
        for expected in [first, *first.overflowing]:
            own = slice(*encoded.windows.offsets[window : window + 2])
            assert encoded.windows.token_ids[own].tolist() == expected.ids
            assert encoded.windows.segment_ids[own].tolist() == expected.type_ids
            places = [
                list(place) if sequence == 1 else [-1, -1]
                for place, sequence in zip(expected.offsets, expected.sequence_ids, strict=True)
            ]
            assert encoded.characters[own].tolist() == places
            assert encoded.question_of[window] == number
            window += 1
    assert window == len(encoded.windows) and encoded.num_cut == 0
    assert tokenizer.truncation and tokenizer.padding  # the given one is left alone


def spans_of(texts):
    """The place of each text in its context."""
    starts = [CONTEXTS[context].index(text) for text, context in zip(texts, CONTEXT_OF, strict=True)]
    return np.array([(start, start + len(text)) for start, text in zip(starts, texts, strict=True)])


def test_answers_are_found_again(tokenizer):
    """In each window that holds the whole answer; all others point at [CLS]."""
    texts = ["São Paulo", "Ann", "東京", "the garden of the old tower"]
    spans = spans_of(texts)
    encoded = encode_questions(tokenizer, QUESTIONS, CONTEXTS, CONTEXT_OF, 40, stride=12, spans=spans)
    found = [0] * 4
    for window, (first, last) in enumerate(encoded.spans):
        question = encoded.question_of[window]
        own = encoded.characters[slice(*encoded.windows.offsets[window : window + 2])]
        inside = own[own[:, 0] >= 0]
        start, end = spans[question]
        assert (first > 0) == (inside[0, 0] <= start and end <= inside[-1, 1])
        if first:
            assert CONTEXTS[CONTEXT_OF[question]][own[first, 0] : own[last, 1]] == texts[question]
            found[question] += 1
    assert min(found) >= 1 and len(encoded.spans) > 8


def test_an_answer_inside_of_a_token(tokenizer):
    """Every token that has a character of it belongs to it."""
    whole = spans_of(["unbelievable", "sang", "big", "tower"])
    inside = whole + [[1, -1]] * 4
    parts = [
        encode_questions(tokenizer, QUESTIONS, CONTEXTS, CONTEXT_OF, 400, spans=spans).spans
        for spans in (whole, inside)
    ]
    for (start, end), (first, last) in zip(*parts, strict=True):
        assert 0 < start <= first <= last <= end


def test_answers_without_a_place(tokenizer):
    """They are left out of training and kept for evaluation; a question without an answer points at [CLS]."""
    spans = np.array([[-2, -2], [-1, -1], [4, 6], [CONTEXTS[0].index("😀")] * 2])
    settings = {"stride": 8, "spans": spans}
    kept = encode_questions(tokenizer, QUESTIONS, CONTEXTS, CONTEXT_OF, 64, **settings)
    assert set(kept.question_of) == {0, 1, 2, 3} and kept.num_lost == 0
    assert not kept.spans[kept.question_of != 2].any()
    training = encode_questions(tokenizer, QUESTIONS, CONTEXTS, CONTEXT_OF, 64, skip_unknown=True, **settings)
    assert set(training.question_of) == {1, 2} and training.num_lost == 2
    with pytest.raises(InputError, match="no question has an answer with a known place"):
        encode_questions(
            tokenizer,
            QUESTIONS[:1],
            CONTEXTS,
            CONTEXT_OF[:1],
            64,
            stride=8,
            spans=spans[:1],
            skip_unknown=True,
        )


def test_long_questions_are_cut(tokenizer):
    """To half of the room; the windows still cover the whole context."""
    encoded = encode_questions(tokenizer, ["cat " * 99, "Who?"], CONTEXTS, np.array([0, 0]), 43, stride=38)
    assert encoded.num_cut == 1
    assert encoded.windows.lengths.max() == 43
    for question in (0, 1):
        own = np.repeat(encoded.question_of, encoded.windows.lengths) == question
        covered = {tuple(place) for place in encoded.characters[own].tolist()} - {(-1, -1)}
        assert len(covered) == len(set(map(tuple, encoded.characters.tolist()))) - 1


@pytest.mark.parametrize(
    ("length", "stride", "message"),
    [(4, 0, "sequence_length 4 leaves no room"), (32, 29, "document_stride is 29, it must lie in")],
)
def test_no_room(tokenizer, length, stride, message):
    with pytest.raises(InputError, match=message):
        encode_questions(tokenizer, QUESTIONS, CONTEXTS, CONTEXT_OF, length, stride=stride)


def test_batches_have_the_spans_of_their_rows(tokenizer):
    spans = spans_of(["São Paulo", "Ann", "東京", "tower"])
    encoded = encode_questions(tokenizer, QUESTIONS, CONTEXTS, CONTEXT_OF, 64, stride=16, spans=spans)
    batches = QuestionBatches(encoded, batch_size=3, seed=1, gradient_accumulation=2)
    rows = 0
    for index in range(len(batches)):
        inputs, labels, weights = batches[index]
        for row, (first, last), weight in zip(inputs["token_ids"], labels, weights, strict=True):
            if not weight.any():
                continue
            rows += 1
            (window,) = [
                number
                for number, (start, end) in enumerate(
                    zip(encoded.windows.offsets, encoded.windows.offsets[1:], strict=False)
                )
                if np.array_equal(encoded.windows.token_ids[start:end], row[: end - start])
                and not row[end - start :].any()
            ]
            assert encoded.spans[window].tolist() == [first, last]
    assert rows == len(encoded.windows)
    step = [batches[index][2].sum() for index in (0, 1)]
    assert sum(step) == pytest.approx(2)  # as one mean over the step
