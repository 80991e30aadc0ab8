"""Questions made from plain text: where their answers stand, what they ask with, and what is refused."""

import gzip
import json
import re
import shutil
import unicodedata
from collections import Counter

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from kerasllm.data.sources.cloze import PASSAGE_WORDS, cloze_questions, read_cloze_questions
from kerasllm.errors import InputError
from kerasllm.training.options import QuestionOptions

PLACES = ("harbor", "lighthouse", "market", "chapel", "bridge", "mill")


@pytest.fixture(scope="module")
def text():
    """Three documents of many sentences that differ, each with a name, a number and common words."""
    random = np.random.default_rng(0)
    sentences = []
    for number in range(90):
        first, second = random.choice(PLACES, 2, replace=False)
        sentences.append(
            f"In {1700 + number} the old {first} of Saint-Malo was moved to the {second} by Ann Crow."
        )
        if number % 30 == 29:
            sentences.append("\n\n")
    return " ".join(sentences)


@pytest.fixture(scope="module")
def questions(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("cloze") / "text.txt"
    path.write_text(text, encoding="utf-8")
    return read_cloze_questions(str(path), 3)


def words(text):
    return re.findall(r"[\w-]+", text)


def test_an_answer_stands_in_its_context(questions, text):
    """The question has words of the same sentence around the blank, none of them oftener than the sentence."""
    assert 180 < len(questions) <= 270 and len(set(questions.ids)) == len(questions)
    assert not questions.has_unanswerable and len(questions.notes) == 1
    for question, place, (answer,), (start, end) in zip(
        questions.questions, questions.context_of, questions.answers, questions.spans, strict=True
    ):
        context = questions.contexts[place]
        assert context[start:end] == answer.text and context in re.sub(r"\s+", " ", text)
        before = context.rfind(". ", 0, start) + 2 if ". " in context[:start] else 0
        sentence = context[before : context.index(".", end)]
        left = Counter(words(sentence)) - Counter(words(answer.text))
        asked = Counter(words(question.replace("[MASK]", "")))
        assert question.count("[MASK]") == 1 and asked.total() >= 3 and asked <= left
        assert answer.text not in ("the", "of", "In", "was")


def test_passages_are_whole_sentences_of_one_document(questions, text):
    documents = [re.sub(r"\s+", " ", part).strip() for part in text.split("\n\n") if part.strip()]
    assert sorted(questions.contexts) == sorted(set(questions.contexts)) and len(questions.contexts) >= 6
    for context in questions.contexts:
        assert any(context in document for document in documents)
        assert context.startswith("In ") and context.endswith("Crow.")
        assert len(context.split()) < PASSAGE_WORDS + 20


def test_the_seed_alone_decides(questions, text, tmp_path):
    """Of a file, a compressed one, a directory, and the contexts of questions, whose own questions have no part."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "text.md").write_text(text)
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(text.encode()))
    for source in (tmp_path / "docs", tmp_path / "text.txt.gz"):
        again = read_cloze_questions(str(source), 3)
        assert (again.questions, again.contexts) == (questions.questions, questions.contexts)
        assert again.answers == questions.answers
    assert read_cloze_questions(str(tmp_path / "docs"), 4).questions != questions.questions
    asked = {
        "question": "Who?",
        "context": questions.contexts[0],
        "answers": [{"text": "Ann", "answer_start": 0}],
    }
    (tmp_path / "asked.json").write_text(json.dumps([asked, asked]))
    made = read_cloze_questions(str(tmp_path / "asked.json"), 3)
    assert made.contexts == questions.contexts[:1] and "Who?" not in made.questions


def test_tables_of_texts_and_a_data_set(questions, tmp_path):
    """A column of contexts that occur again, or of texts, in JSON Lines, Parquet or on the hub."""
    rows = [{"context": context, "question": "Who?"} for context in questions.contexts for _ in range(2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.table({"text": list(questions.contexts)}), tmp_path / "texts.parquet")
    (tmp_path / "hub").mkdir()
    shutil.copy(tmp_path / "rows.jsonl", tmp_path / "hub" / "train.jsonl")
    for source in (tmp_path / "rows.jsonl", tmp_path / "texts.parquet", f"hub:{tmp_path / 'hub'}"):
        assert read_cloze_questions(str(source), 3).contexts == questions.contexts
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl:2: the text is 3"):
        read_cloze_questions(str(tmp_path / "bad.jsonl"), 3)


def test_words_keep_their_marks():
    """Python's pattern of a letter leaves out the marks that follow one in Hindi, or in text of decomposed letters."""
    for sentence in (
        "भारत की राजधानी नई दिल्ली है और यह बहुत बड़ा शहर है।",
        unicodedata.normalize("NFD", "À midi précis, Zoé a quitté l'hôtel près du théâtre."),
    ):
        questions = cloze_questions([[sentence]], "made", 0)
        known = set(sentence.replace(",", "").replace("।", "").replace(".", "").split())
        assert len(questions) == 3
        for question, (answer,) in zip(questions.questions, questions.answers, strict=True):
            assert {*question.split(), *answer.text.split()} <= known | {"[MASK]"}


def test_a_reader_learns_them_and_is_judged_by_the_questions_of_people(questions, tmp_path):
    asked = {
        "id": "a",
        "question": "Who?",
        "context": "Ann sang.",
        "answers": [{"text": "Ann", "answer_start": 0}],
    }
    (tmp_path / "asked.json").write_text(json.dumps([asked]))
    (tmp_path / "text.txt").write_text("\n\n".join(questions.contexts))
    given = {"train": str(tmp_path / "text.txt"), "validation": str(tmp_path / "asked.json")}
    parts = QuestionOptions(**given, cloze=True).read(0)
    assert len(parts["train"]) > 150 and all("[MASK]" in question for question in parts["train"].questions)
    assert parts["validation"].questions == ("Who?",)
    parts = QuestionOptions(train=given["train"], validation_fraction=0.2, cloze=True).read(0)
    kept = {name: {part.contexts[index] for index in part.context_of} for name, part in parts.items()}
    assert kept["validation"] and not kept["validation"] & kept["train"]
    with pytest.raises(InputError, match="--cloze true makes some"):
        QuestionOptions(**given).read(0)


def test_names_and_numbers_are_asked_for_most():
    """Three of nine spans are the answers: a name is one of them twice as often as a share of a third."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghij"))
    sentences = []
    for _ in range(300):
        spans = ["".join(random.choice(letters, 5)) for _ in range(8)]
        spans.insert(random.integers(1, 9), "Crow")
        sentences.append(" the ".join(spans))
    questions = cloze_questions([sentences], "made", 0)
    names = sum(answer.text == "Crow" for (answer,) in questions.answers)
    assert len(questions) > 850 and 0.55 < names / len(sentences) < 0.75


@pytest.mark.parametrize("text", ["Too short.", "猫は庭で静かに眠っていました。\n犬は塔の近くを走りました。"])
def test_text_without_long_sentences_is_refused(text, tmp_path):
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="no question can be made from it"):
        read_cloze_questions(str(tmp_path / "text.txt"), 0)
