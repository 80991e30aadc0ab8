"""Best spans against brute force, figures by hand, thresholds, and answers from several texts."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

from kerasllm import BertConfig, BertQuestionAnswering
from kerasllm.data.batches.questions import JudgedBatches
from kerasllm.data.examples.questions import encode_questions
from kerasllm.data.sources.squad import Answer, Questions
from kerasllm.tasks import QuestionAnswering, question_answering
from kerasllm.tasks.answer_figures import (
    answer_figures,
    answer_scores,
    best_null_threshold,
    normalize_answer,
)
from kerasllm.tasks.answer_spans import find_answers
from kerasllm.tasks.reading import ReadingSettings, answers
from kerasllm.tokenizers.wordpiece import train_wordpiece

CONTEXTS = ("The old cat sat in São Paulo, near the river. " * 3, "Ann sang. Bob slept.", "😀 東京 is big")
QUESTIONS = ("Where sat the cat?", "Who sang?", "Which city is big?", "Who slept?", "Who ran?")
CONTEXT_OF = np.array([0, 1, 2, 1, 1])


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece([*CONTEXTS, *QUESTIONS] * 2, 80)


@pytest.fixture(scope="module")
def encoded(tokenizer):
    return encode_questions(tokenizer, QUESTIONS, CONTEXTS, CONTEXT_OF, 32, stride=8)


def test_best_spans_are_those_of_brute_force(encoded):
    random = np.random.default_rng(0)
    contexts = [CONTEXTS[index] for index in CONTEXT_OF]
    for longest, n_best in ((1, 3), (4, 5), (30, 20)):
        logits = random.normal(size=(len(encoded.windows.token_ids), 2)).astype(np.float32)
        found = find_answers(encoded, logits, contexts, max_answer_length=longest, n_best=n_best)
        for question, context in enumerate(contexts):
            best: dict[str, float] = {}
            nothing = []
            for window in np.flatnonzero(encoded.question_of == question):
                begin, close = encoded.windows.offsets[window : window + 2]
                nothing.append(float(logits[begin].sum()))
                for first in range(begin, close):
                    for last in range(first, min(first + longest, close)):
                        start, end = encoded.characters[first, 0], encoded.characters[last, 1]
                        if start >= 0 and end >= 0:
                            text = context[start:end]
                            score = float(logits[first, 0]) + float(logits[last, 1])
                            best[text] = max(best.get(text, -np.inf), score)
            expected = sorted(best.items(), key=lambda each: -each[1])[:n_best]
            spans = found[question].spans
            np.testing.assert_allclose([span.score for span in spans], [score for _, score in expected])
            assert [span.text for span in spans] == [text for text, _ in expected]
            assert all(context[span.start : span.end] == span.text for span in spans)
            assert found[question].nothing.score == pytest.approx(min(nothing))
            assert found[question].null_odds == pytest.approx(min(nothing) - expected[0][1])


def test_logits_that_are_no_numbers_give_no_span(encoded):
    logits = np.full((len(encoded.windows.token_ids), 2), np.nan, np.float32)
    found = find_answers(encoded, logits, [CONTEXTS[index] for index in CONTEXT_OF])
    assert all(not each.spans and each.null_odds == np.inf for each in found)


@pytest.mark.parametrize(
    ("predicted", "references", "exact", "f1"),
    [
        ("The  Cat!", ["cat"], 1, 1),
        ("cats", ["cat"], 0, 0),
        ("in the old house", ["an old house", "house"], 0, 4 / 5),  # in old house, old house
        ("a b b", ["b c"], 0, 2 * 1 / 4),
        ("", [], 1, 1),
        ("cat", [], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", ["!"], 1, 1),  # nothing is left of either
        ("1,000", ["1000"], 1, 1),
        ("São Paulo", ["Sao Paulo", "são paulo."], 1, 1),
    ],
)
def test_scores_by_hand(predicted, references, exact, f1):
    assert answer_scores(predicted, references) == pytest.approx((exact, f1))


def test_normal_form():
    assert normalize_answer(" An  apple, a day; THE doctor's\tanthem ") == "apple day doctors anthem"


def test_figures_by_kind_of_question():
    scores = np.array([[1, 1], [0, 0.5], [1, 1], [0, 0.0]])
    figures = answer_figures(scores, np.array([True, True, False, False]))
    assert (figures["exact_match"], figures["f1"]) == (0.5, 0.625)
    assert figures["has_answer"] == {"exact_match": 0.5, "f1": 0.75, "examples": 2}
    assert figures["no_answer"] == {"exact_match": 0.5, "f1": 0.5, "examples": 2}
    assert set(answer_figures(scores, np.ones(4, bool))) == {"exact_match", "f1"}


def test_the_best_threshold_is_that_of_brute_force():
    """Also with equal odds, which no threshold parts."""
    random = np.random.default_rng(0)
    for _ in range(200):
        count = random.integers(1, 9)
        odds = random.integers(-3, 4, count) / (1 if random.random() < 0.5 else 7)
        f1, answerable = random.random(count), random.random(count) < 0.6

        def figure(threshold, odds=odds, f1=f1, answerable=answerable):
            return np.where(odds > threshold, ~answerable, answerable * f1).mean()

        found = best_null_threshold(odds, f1, answerable)
        assert figure(found) == pytest.approx(max(map(figure, [*odds, odds.min() - 1])))
    assert np.isfinite(best_null_threshold(np.array([np.inf, 0.0]), np.ones(2), np.array([False, True])))


TEXTS = ("São Paulo", "Ann", "東京", "Bob", None)


@pytest.fixture
def judged(tokenizer):
    """Batches of questions, the last of which has no answer, and the logits of one that knows them all."""
    found = []
    for context, text in zip(CONTEXT_OF, TEXTS, strict=True):
        reference = Answer("wrong", -1), Answer(text or "", CONTEXTS[context].find(text or ""))
        found.append(reference if text else ())
    data = Questions(tuple("abcde"), QUESTIONS, CONTEXTS, CONTEXT_OF, tuple(found), "made up")
    encoded = encode_questions(tokenizer, QUESTIONS, CONTEXTS, CONTEXT_OF, 32, stride=8, spans=data.spans)
    batches = JudgedBatches(encoded, data, batch_size=4)
    logits = np.zeros((len(encoded.windows.token_ids), 2), np.float32)
    for start, span in zip(encoded.windows.offsets, encoded.spans, strict=False):
        logits[start + span, [0, 1]] = 20
    return batches, logits


def evaluate(monkeypatch, task, judged):
    batches, logits = judged
    monkeypatch.setattr(question_answering, "predict_tokens", lambda model, given: logits)
    return task.evaluate(None, batches)


def test_one_that_knows_all_is_right(judged, monkeypatch):
    task = QuestionAnswering(may_lack_answer=True, n_best=3)
    figures = evaluate(monkeypatch, task, judged)
    assert figures["exact_match"] == figures["f1"] == figures["f1_at_zero"] == 1
    assert figures["loss"] == pytest.approx(0, abs=1e-6) and figures["examples"] == 5
    assert figures["no_answer"] == {"exact_match": 1, "f1": 1, "examples": 1}
    files = task.kept_predictions()
    assert files["predictions"] == dict(zip("abcde", [text or "" for text in TEXTS], strict=True))
    assert files["null_odds"]["a"] == 0 - 40 and files["null_odds"]["e"] == 40 - 0
    assert files["nbest_predictions"]["b"][0]["text"] == "Ann"
    for entries in files["nbest_predictions"].values():
        assert 3 <= len(entries) <= 4
        assert sum(entry["probability"] for entry in entries) == pytest.approx(1)
    json.dumps([figures, files], allow_nan=False)


def test_the_threshold_of_validation_is_used_for_test(judged, monkeypatch):
    """One that says "no answer" for all is mended by a threshold, which other data do not choose."""
    batches, logits = judged
    logits[batches.questions.windows.offsets[:-1]] += 30
    task = QuestionAnswering(may_lack_answer=True)
    batches.chooses_threshold = False
    assert evaluate(monkeypatch, task, judged)["has_answer"]["f1"] == 0
    batches.chooses_threshold = True
    chosen = evaluate(monkeypatch, task, judged)
    assert chosen["f1"] == 1 and chosen["f1_at_zero"] == 0.2 and 20 < chosen["null_threshold"] < 100
    batches.chooses_threshold = False
    assert evaluate(monkeypatch, task, judged) == chosen


def test_without_a_threshold_every_question_has_an_answer(judged, monkeypatch):
    batches, logits = judged
    begin = batches.questions.windows.offsets[-2]
    inside = begin + np.flatnonzero(batches.questions.characters[begin:, 0] >= 0)
    logits[inside[[0, 5]], [0, 1]] = 1  # otherwise all spans are alike, and a full stop is no answer, too
    task = QuestionAnswering()
    figures = evaluate(monkeypatch, task, judged)
    assert figures["f1"] == 0.8 and "null_threshold" not in figures
    assert set(task.kept_predictions()) == {"predictions", "nbest_predictions"}
    assert task.kept_predictions()["predictions"]["e"]


def test_loss_of_a_uniform_guess(judged, monkeypatch):
    batches, logits = judged
    logits[:] = 1
    figures = evaluate(monkeypatch, QuestionAnswering(), judged)
    assert figures["loss"] == pytest.approx(np.log(batches.questions.windows.lengths).mean())


@pytest.fixture(scope="module")
def model(tokenizer):
    config = BertConfig(
        vocabulary_size=tokenizer.get_vocab_size(),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        max_sequence_length=32,
        initializer_range=1.0,
    )
    return BertQuestionAnswering(config, seed=0)


@pytest.mark.usefixtures("uncompiled")
def test_answers_from_several_texts(model, tokenizer):
    """All texts of a question compete by their scores; alone or together, each span has the same score."""
    settings = ReadingSettings(sequence_length=32, document_stride=8, n_best=4)
    together = answers(model, tokenizer, QUESTIONS[:2], [CONTEXTS, CONTEXTS[1:2]], settings)
    alone = [answers(model, tokenizer, QUESTIONS[:1], [[text]], settings)[0] for text in CONTEXTS]
    expected = sorted(
        ((each.score, each.text, number) for number, own in enumerate(alone) for each in own), reverse=True
    )[:4]
    for found, (score, text, number) in zip(together[0], expected, strict=True):
        assert found.score == pytest.approx(score, abs=1e-4)
        assert (found.text, found.context) == (text, number)
        assert CONTEXTS[number][found.start : found.end] == text
    assert len(together[1]) == 4 and {each.context for each in together[1]} == {0}
    shares = [each.probability for each in together[0]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
    for threshold, first in ((1e3, False), (-1e3, True)):
        settings = ReadingSettings(sequence_length=32, document_stride=8, null_threshold=threshold)
        (best,) = answers(model, tokenizer, QUESTIONS[:1], [CONTEXTS], settings)[0]
        assert (best.text == "") == (best.context == -1) == first
    for threshold in (-8.0, -1.0, 0.0, 1.0, 8.0):
        settings = ReadingSettings(sequence_length=32, document_stride=8, null_threshold=threshold, n_best=20)
        (ranked,) = answers(model, tokenizer, QUESTIONS[:1], [CONTEXTS], settings)
        moved = np.array([each.score - threshold * (each.context == -1) for each in ranked])
        shares = np.array([each.probability for each in ranked])
        assert (np.diff(moved) <= 0).all() and (np.diff(shares) <= 0).all()
        np.testing.assert_allclose(shares / shares[0], np.exp(moved - moved[0]), rtol=1e-6)


def test_thousands_of_windows_take_seconds():
    """A fifth of a second for a thousand; SQuAD's validation has 11,000."""
    lengths = np.full(2_000, 180)
    characters = np.full((lengths.sum(), 2), -1, np.int32)
    places = np.arange(len(characters)) % 180
    inside = (places >= 12) & (places < 179)
    characters[inside] = np.stack([places, places + 1], axis=1)[inside]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    encoded = SimpleNamespace(
        windows=SimpleNamespace(offsets=offsets), question_of=np.arange(2_000), characters=characters
    )
    logits = np.random.default_rng(0).normal(size=(len(characters), 2)).astype(np.float32)
    context = "".join(map(chr, range(300, 480)))
    began = time.process_time()
    found = find_answers(encoded, logits, [context] * 2_000)
    assert len(found) == 2_000 and time.process_time() - began < 5
