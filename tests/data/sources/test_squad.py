"""Questions in each form, answers at wrong places, and what is refused with its place."""

import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from kerasllm.data.sources.squad import Answer, read_questions
from kerasllm.errors import InputError

CONTEXT = "Zoë met Ann in São Paulo. Ann sang."


def question(name="a", text="Who sang?", answers=(("Ann", 26),), **more):
    found = [{"text": answer, "answer_start": start} for answer, start in answers]
    return {"id": name, "question": text, "answers": found, **more}


def squad(*questions, context=CONTEXT):
    return {
        "version": "1.1",
        "data": [{"title": "t", "paragraphs": [{"context": context, "qas": questions}]}],
    }


def write(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def test_forms_hold_the_same(tmp_path):
    """Nested, with a byte order mark, compressed, a list of articles, flat, a record a line, and Parquet."""
    rows = [question("a"), question("b", "Where?", [("São Paulo", 15), ("Paulo", 19)])]
    nested = squad(*rows)
    flat = [{**row, "context": CONTEXT} for row in rows]
    columns = [
        {**row, "answers": {key: [each[key] for each in row["answers"]] for key in ("text", "answer_start")}}
        for row in flat
    ]
    paths = [write(tmp_path / "nested.json", nested), write(tmp_path / "articles.json", nested["data"])]
    paths += [write(tmp_path / "flat.json", {"data": flat}), write(tmp_path / "list.json", flat)]
    for name, content in (("lines.jsonl", flat), ("lines.json", columns)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\r\n" for row in content))
        paths.append(tmp_path / name)
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + json.dumps(nested, indent=1).encode())
    (tmp_path / "small.json.gz").write_bytes(gzip.compress(paths[0].read_bytes()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(columns), tmp_path / "table.parquet")
    for path in [*paths, marked, tmp_path / "small.json.gz", tmp_path / "table.parquet"]:
        found = read_questions(str(path))
        assert found.ids == ("a", "b") and found.questions == ("Who sang?", "Where?"), path
        assert found.contexts == (CONTEXT,) and found.context_of.tolist() == [0, 0]
        assert found.answers == ((Answer("Ann", 26),), (Answer("São Paulo", 15), Answer("Paulo", 19)))
        assert found.spans.tolist() == [[26, 29], [15, 24]]
        assert not found.has_unanswerable and not found.notes


def test_questions_without_an_answer(tmp_path):
    """As SQuAD 2.0, its form on the hub, and other exports have them."""
    plausible = {"plausible_answers": [{"text": "Ann", "answer_start": 8}]}
    rows = [question("a"), question("b", answers=[], is_impossible=True, **plausible)]
    rows += [question("c", answers=[]), question("d", answers=[("", -1)])]
    found = read_questions(str(write(tmp_path / "v2.json", squad(*rows))))
    assert found.has_unanswerable and found.answers[1:] == ((), (), ())
    assert found.spans.tolist() == [[26, 29], [-1, -1], [-1, -1], [-1, -1]]


def test_wrong_places(tmp_path):
    """Places in bytes, the only place there is, and none that is certain."""
    rows = [
        question("bytes", answers=[("Ann", len(CONTEXT[:26].encode()))]),
        question("off", answers=[("sang", 3)]),
        question("unknown", answers=[("sang", None)]),
        question("twice", answers=[("Ann", 12)]),
        question("nowhere", answers=[("Bob", 0)]),
        question("second", answers=[("Bob", 0), ("sang", 30)]),
    ]
    path = write(tmp_path / "dirty.json", squad(*rows))
    found = read_questions(str(path))
    assert found.spans.tolist() == [[26, 29], [30, 34], [30, 34], [-2, -2], [-2, -2], [30, 34]]
    assert found.answers[4] == (Answer("Bob", -1),)  # predictions are still judged by it
    (note,) = found.notes
    assert note.startswith("6 of 7 answers do not stand where answer_start says: 1 had a place in bytes")
    assert "2 were moved" in note and "3 have no certain place" in note
    with pytest.raises(InputError) as caught:
        read_questions(str(write(path, squad(rows[1]))), strict=True)
    message = str(caught.value)
    assert message.startswith(f"{path}: data[0].paragraphs[0].qas[0] (id 'off'): the answer 'sang'")
    assert message.endswith("answer_start 3, where the context has ' met'; it stands at 30")


def test_ids(tmp_path):
    """Each is another in the end; numbers serve, and none are needed."""
    rows = [question("a"), question("a"), question(7), question(None), question("a")]
    path = write(tmp_path / "ids.json", squad(*rows))
    found = read_questions(str(path))
    assert found.ids == ("a", "a#2", "7", "4", "a#3") and "2 questions have the id" in found.notes[0]
    with pytest.raises(InputError, match=r"qas\[1\]: the id 'a' is that of .*qas\[0\], too"):
        read_questions(str(path), strict=True)


def test_halves_of_characters_keep_places(tmp_path):
    path = tmp_path / "halves.json"
    path.write_text(json.dumps(squad(question(answers=[("Ann", 2)]), context="\ud800 Ann")))
    found = read_questions(str(path))
    assert found.contexts == ("? Ann",) and found.spans.tolist() == [[2, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": [', "bad.json:1: not JSON"),
        ("", "the file is empty"),
        ('{"a": 1}', "is not of SQuAD's form"),
        ("3", "is not of SQuAD's form"),
        ('{"data": {"a": 1}}', "data is {'a': 1}, it must be a list"),
        ('{"data": []}', "holds no questions"),
        ('{"data": [3]}', "data[0] is 3"),
        ('{"data": [{"paragraphs": 3}]}', "data[0]: paragraphs are 3"),
        ('{"data": [{"paragraphs": [3]}]}', "data[0].paragraphs[0] is 3"),
        ('{"data": [{"paragraphs": [{"qas": null}]}]}', "paragraphs[0]: qas are None"),
        (squad(3), "qas[0] is 3"),
        (squad(question(["a"])), "qas[0]: the id is ['a']"),
        (squad(question(text=" ")), "(id 'a'): the question is ' '"),
        (squad(question(), context=None), "(id 'a'): the context is None"),
        (squad(question(answers=[(3, 0)])), "the text of an answer is 3"),
        (squad(question(answers=[("Ann", "8")])), "answer_start of 'Ann' is '8'"),
        (squad(question(is_impossible="no")), "is_impossible is 'no'"),
        (squad({"id": "a", "question": "Who?"}), "answers are None, they must be a list; an empty one"),
        (squad(question() | {"answers": {"text": ["a"], "answer_start": []}}), "lists of one length"),
        (squad(question() | {"answers": ["Ann"]}), "an answer is 'Ann'"),
        ('{"question": "a?", "context": "b"}\n', "no column 'answers'"),
    ],
)
def test_what_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError) as caught:
        read_questions(str(path))
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_real_file(shared_data):
    found = read_questions(str(shared_data / "xquad" / "train.json"))
    assert len(found) == 925 and len(found.contexts) == 180 and not found.notes
    spans = found.spans
    texts = [
        found.contexts[context][start:end]
        for context, (start, end) in zip(found.context_of, spans, strict=True)
    ]
    assert texts == [answers[0].text for answers in found.answers]
    assert np.all(spans[:, 0] < spans[:, 1])
