"""Exact match, F1 and the threshold for "no answer" against the code of transformers, up to its version 4."""

import numpy as np
import pytest

from kerasllm.tasks.answer_figures import answer_figures, answer_scores, best_null_threshold

squad_metrics = pytest.importorskip(
    "transformers.data.metrics.squad_metrics", reason="transformers 5 has no figures for SQuAD any more"
)
from transformers.data.processors.squad import SquadExample  # noqa: E402

WORDS = ["the", "The", "a", "an", "cat", "Cat.", "(dog)", "1,000", "São", "Paulo", "in", "", "...", "'s"]


def test_figures_and_threshold():
    random = np.random.default_rng(0)

    def text(longest):
        return " ".join(random.choice(WORDS, random.integers(0, longest)))

    for _ in range(30):
        count = int(random.integers(2, 40))
        references = [
            [text(5) for _ in range(random.integers(1, 4))] if random.random() < 0.7 else []
            for _ in range(count)
        ]
        predicted = [
            str(random.choice(own)) if own and random.random() < 0.4 else text(6) or "cat"
            for own in references
        ]
        scores = np.array([answer_scores(*each) for each in zip(predicted, references, strict=True)])
        answerable, odds = np.array([bool(own) for own in references]), random.normal(size=count)
        examples = [
            SquadExample(str(number), "", "", None, None, "", [{"text": each} for each in own])
            for number, own in enumerate(references)
        ]
        by_id = {str(number): each for number, each in enumerate(predicted)}
        odds_by_id = {str(number): float(each) for number, each in enumerate(odds)}
        theirs = squad_metrics.squad_evaluate(examples, by_id, odds_by_id, np.inf)
        ours = answer_figures(scores, answerable)
        assert 100 * ours["exact_match"] == pytest.approx(theirs["exact"])
        assert 100 * ours["f1"] == pytest.approx(theirs["f1"])
        for name, prefix in (("has_answer", "HasAns"), ("no_answer", "NoAns")):
            if f"{prefix}_total" in theirs and name in ours:
                assert 100 * ours[name]["f1"] == pytest.approx(theirs[f"{prefix}_f1"])
                assert 100 * ours[name]["exact_match"] == pytest.approx(theirs[f"{prefix}_exact"])
        threshold = best_null_threshold(odds, scores[:, 1], answerable)
        nothing = odds > threshold
        assert 100 * np.where(nothing, ~answerable, scores[:, 1] * answerable).mean() == pytest.approx(
            theirs["best_f1"]
        )
