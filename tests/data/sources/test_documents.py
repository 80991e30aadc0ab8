"""Documents, queries and judgements in the forms in which they come."""

import json

import pytest

from kerasllm.data.sources.documents import Cutting, cut_passages, fingerprint, read_documents, read_queries
from kerasllm.data.sources.judgements import read_judgements, read_run, run_lines
from kerasllm.errors import InputError

SMART = ".I 1\n.T\na wing\n.A\nsmith\n.W\na wing\nflies .\n.I 7\n.T\nheat\n.W\n\n.I 9\n.W\nof\nplates\n"
TREC = """<DOC>
<DOCNO> A-1 </DOCNO>
<TITLE>Wings</TITLE>
<TEXT>
They <b>fly</b>.
</TEXT>
</DOC>
<DOC><DOCNO>A-2</DOCNO><TEXT>heat</TEXT></DOC>
"""
TOPICS = "<top>\n<num> Number: 301\n<title> wing flutter\n<desc> more\n</top>\n"


def write(folder, name, content):
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return str(path)


def pairs(passages):
    return [(passage.id, passage.text) for passage in passages]


def test_smart_documents_and_queries(tmp_path):
    """A title that begins the text is not doubled; queries are numbered by position."""
    path = write(tmp_path, "cran.all", SMART)
    assert pairs(read_documents(path)) == [("1", "a wing flies ."), ("7", "heat"), ("9", "of plates")]
    path = write(tmp_path, "cran.qry", ".I 001\n.W\nfirst\n.I 004\n.W\nsecond ?\n")
    assert pairs(read_queries(path)) == [("1", "first"), ("2", "second ?")]


def test_other_forms(tmp_path):
    assert pairs(read_documents(write(tmp_path, "a.trec", TREC))) == [
        ("A-1", "Wings\nThey fly ."),
        ("A-2", "heat"),
    ]
    assert pairs(read_queries(write(tmp_path, "topics", TOPICS))) == [("301", "wing flutter")]
    lines = [{"_id": 3, "title": "Wings", "text": "They fly."}, {"_id": "b", "text": "heat"}]
    path = write(tmp_path, "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert pairs(read_documents(path)) == [("3", "Wings\nThey fly."), ("b", "heat")]
    path = write(tmp_path, "a.tsv", "id\ttext\nq1\tone\r\nq2\ttwo\tTitle\n")
    assert pairs(read_queries(path)) == [("q1", "one"), ("q2", "Title\ntwo")]


def test_passages_cover_a_text_and_know_their_place():
    text = " ".join(f"word{number}" for number in range(25)) + "\n"
    found = list(cut_passages(text, "a.txt", Cutting(words=10, overlap=3)))
    assert [passage.id for passage in found] == ["a.txt#1", "a.txt#2", "a.txt#3", "a.txt#4"]
    assert all(text[p.start : p.end] == p.text and len(p.text.split()) == 10 for p in found)
    assert [p.text.split()[0] for p in found] == ["word0", "word7", "word14", "word15"]
    (whole,) = cut_passages("just one\n", "b", Cutting())
    assert (whole.text, whole.start, whole.end) == ("just one", 0, 8)
    assert not list(cut_passages(" \n", "b", Cutting()))
    with pytest.raises(InputError, match="the overlap of passages is 10 words, it must be below the 10"):
        list(cut_passages(text, "a", Cutting(10, 10)))


def test_a_directory_of_text_files(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, "b.md", "Second file.")
    write(tmp_path / "sub", "a.txt", "First file.")
    write(tmp_path, ".hidden.txt", "no")
    write(tmp_path, "c.bin", "no")
    assert pairs(read_documents(tmp_path)) == [("b.md#1", "Second file."), ("sub/a.txt#1", "First file.")]
    assert set(fingerprint(tmp_path)) == {"b.md", "sub/a.txt"}


def test_names_of_files_with_spaces_make_ids_that_a_run_can_hold(tmp_path):
    write(tmp_path, "my file.txt", "Text.")
    (passage,) = read_documents(tmp_path)
    assert (passage.id, passage.file) == ("my%20file.txt#1", "my file.txt")
    path = tmp_path / "run"
    path.write_text(run_lines({"q": [(passage.id, 1.0)]}))
    assert read_run(str(path)) == {"q": {passage.id: 1.0}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"id": "1"}\n', r"a\.jsonl:1: no text .* only 'id'"),
        ("a.jsonl", '{"id": "1", "text": 3}\n', r"a\.jsonl:1: id and text are '1' and 3"),
        ("a.jsonl", "{}\n", r"a\.jsonl:1: no id"),
        ("a.tsv", "1\tone\n1\ttwo\n", r"a\.tsv:2: the id '1' is that of line 1, too"),
        ("a.tsv", "1 2\tone\n", r"a\.tsv:1: the id '1 2' is empty or has a space"),
        ("a.tsv", "1\tone\n2\n", r"a\.tsv:2: has 1 fields"),
        ("a", "plain text\n", r"a:1: begins with 'plain text'; documents and queries are JSON Lines"),
        ("a", ".I 1\ntext\n", r"a:2: text before a field"),
        ("a", "<DOC><TEXT>x</TEXT></DOC>", r"a:1: a record without <DOCNO>"),
        ("a", "<DOC><DOCNO> </DOCNO><TEXT>x</TEXT></DOC>", r"a:1: the id .. is empty"),
        ("a", "<DOC><DOCNO>1</DOCNO><TEXT>x</TEXT></DOC>\n<DOC>", "does not end"),
        ("a", "", "holds no documents"),
    ],
)
def test_damaged_documents_are_refused(name, content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_documents(write(tmp_path, name, content))


def test_judgements_of_each_form(tmp_path):
    """SMART's codes all mean relevant, also -1; a TREC grade below 1 does not."""
    smart = read_judgements(write(tmp_path, "cranqrel", "1 184 2 \r\n1 29 -1\r\n2 12 4\r\n"))
    assert smart.gains == {"1": {"184": 1, "29": 1}, "2": {"12": 1}}
    assert "also the 1 with -1" in smart.notes[0]
    trec = read_judgements(write(tmp_path, "qrels", "1 0 a 2\n1 0 b 0\n1 0 c -1\n"))
    assert trec.gains == {"1": {"a": 2, "b": 0, "c": 0}} and "irrelevant" in trec.notes[0]
    beir = read_judgements(write(tmp_path, "test.tsv", "query-id\tcorpus-id\tscore\nq\td\t2\n"))
    assert beir.gains == {"q": {"d": 2}} and not beir.notes
    bare = read_judgements(write(tmp_path, "grades", "q\td1\t1\nq\td2\t0\n"))
    assert bare.gains == {"q": {"d1": 1, "d2": 0}} and "read as grades" in bare.notes[0]


def test_runs_go_out_and_in(tmp_path):
    results = {"1": [("b", 2.5), ("a", 0.1 + 0.2)], "2": []}
    path = write(tmp_path, "run", run_lines(results))
    assert read_run(path) == {"1": {"b": 2.5, "a": pytest.approx(0.3)}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 0 a 1\n1 0 a\n", r"q:2: '1 0 a' is no judgement"),
        ("1 0 a x\n", r"q:1: '1 0 a x' is no judgement"),
        ("1 0 a 1\n1 0 a 2\n", r"q:2: document 'a' of query '1' has the grade 2, and 1 before"),
        ("\n", "holds no judgements"),
    ],
)
def test_damaged_judgements_are_refused(content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_judgements(write(tmp_path, "q", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 Q0 a 1 nan x\n", "r:1: .* is no result"),
        ("1 Q0 a 1 2.0 x\n1 Q0 a 2 1.0 x\n", "r:2: document 'a' occurs twice"),
    ],
)
def test_damaged_runs_are_refused(content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_run(write(tmp_path, "r", content))
