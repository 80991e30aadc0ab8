"""Figures for answers from documents: how much of the reader's quality is left when passages must be found first."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasllm.data.sources.squad import Questions
from kerasllm.tasks.answer_figures import answer_figures, answer_scores, normalize_answer
from kerasllm.tasks.document_answers import read_passages, retrieved_passages
from kerasllm.tasks.reading import ReadingSettings, answers
from kerasllm.tasks.retrieval import Retriever


def document_answer_figures(
    retriever: Retriever,
    model: Any,
    tokenizer: Any,
    data: Questions,
    *,
    num_passages: int = 10,
    settings: ReadingSettings | None = None,
) -> dict[str, Any]:
    """Returns how well questions are answered from documents, as shares in [0, 1].

    Args:
        retriever: the retriever of the documents.
        model: a `BertQuestionAnswering`.
        tokenizer: its tokenizer.
        data: the questions, with the contexts that hold their answers, and the reference answers.
        num_passages: number of passages that are read for a question.
        settings: the settings of the reader; None for the defaults.

    Returns:
        `examples`; `exact_match` and `f1` of the best answers from the documents; `given`, the same figures where the
        question's own context is read; `f1_share`, the F1 from the documents over that; and `passages_with_answer`,
        the share of the answerable questions of which a retrieved passage holds a reference answer.
    """
    references = [[answer.text for answer in own] for own in data.answers]
    answerable = np.array([bool(own) for own in references])
    passages = retrieved_passages(retriever, data.questions, num_passages)
    found = read_passages(model, tokenizer, data.questions, passages, settings)
    contexts = [[data.contexts[index]] for index in data.context_of]
    alone = answers(model, tokenizer, data.questions, contexts, settings)
    from_documents = _figures([own[0].found.text if own else "" for own in found], references, answerable)
    given = _figures([own[0].text if own else "" for own in alone], references, answerable)
    holds = [
        any(normalize_answer(text) in normalize_answer(passage.text) for passage in own for text in wanted)
        for own, wanted in zip(passages, references, strict=True)
    ]
    return {
        "examples": len(data),
        **from_documents,
        "given": given,
        "f1_share": from_documents["f1"] / given["f1"] if given["f1"] else 0.0,
        "passages_with_answer": float(np.mean(np.array(holds)[answerable])) if answerable.any() else 0.0,
    }


def _figures(predicted: list[str], references: list[list[str]], answerable: np.ndarray) -> dict[str, Any]:
    pairs = zip(predicted, references, strict=True)
    return answer_figures(np.array([answer_scores(text, wanted) for text, wanted in pairs]), answerable)
