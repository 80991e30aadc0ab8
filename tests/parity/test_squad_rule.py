"""Exact match and F1 against torchmetrics' SQuAD; the threshold for "no answer" against trying each."""

import numpy as np
import pytest

from kerasllm.tasks.answer_figures import answer_figures, answer_scores, best_null_threshold

squad = pytest.importorskip(
    "torchmetrics.functional.text", reason="torchmetrics is not installed in this environment"
).squad

WORDS = ["the", "The", "a", "an", "cat", "Cat.", "(dog)", "1,000", "São", "Paulo", "in", "...", "'s", "-"]


def drawn(random, longest):
    return " ".join(random.choice(WORDS, random.integers(0, longest)))


def test_figures():
    random = np.random.default_rng(0)
    for _ in range(30):
        # A reference of articles and punctuation alone counts as none by the rule of version 2.0, not of 1.1.
        references = [
            [
                f"{drawn(random, 4)} {random.choice(['cat', 'dog', 'São'])}"
                for _ in range(random.integers(1, 4))
            ]
            for _ in range(random.integers(2, 40))
        ]
        predicted = [
            str(random.choice(own)) if random.random() < 0.4 else drawn(random, 6) for own in references
        ]
        theirs = squad(
            [{"prediction_text": text, "id": str(number)} for number, text in enumerate(predicted)],
            [
                {"answers": {"answer_start": [0] * len(own), "text": own}, "id": str(number)}
                for number, own in enumerate(references)
            ],
        )
        scores = np.array([answer_scores(*each) for each in zip(predicted, references, strict=True)])
        ours = answer_figures(scores, np.ones(len(references), bool))
        assert 100 * ours["exact_match"] == pytest.approx(float(theirs["exact_match"]), rel=1e-5)
        assert 100 * ours["f1"] == pytest.approx(float(theirs["f1"]), rel=1e-5)


def test_no_answer():
    """By hand, from the rule of version 2.0: right only where nothing is predicted."""
    assert answer_scores("", []) == answer_scores("", ["the"]) == (1.0, 1.0)
    assert answer_scores("cat", []) == answer_scores("", ["cat"]) == (0.0, 0.0)


def test_the_threshold_is_the_best_of_all():
    random = np.random.default_rng(1)
    for _ in range(50):
        count = int(random.integers(1, 30))
        odds = random.integers(0, 12, count) / 4  # some are equal
        f1, answerable = random.integers(0, 5, count) / 4, random.random(count) < 0.6

        def reached(threshold, odds=odds, f1=f1, answerable=answerable):
            return np.where(odds > threshold, ~answerable, f1 * answerable).mean()

        best = max(reached(threshold) for threshold in [-1.0, *odds])
        assert reached(best_null_threshold(odds, f1, answerable)) == pytest.approx(best)
