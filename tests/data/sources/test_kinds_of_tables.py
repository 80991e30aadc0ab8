"""Tables as other tools leave them: put one behind the other, with labels made fractions, in every Arrow form."""

import json
import warnings

import pyarrow
import pyarrow.parquet
import pytest

from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.sources.labelled import read_labelled, read_texts
from kerasllm.errors import InputError, InputWarning

ROWS = [("good film", "pos"), ("bad film", "neg"), ("a \x0bfilm\u2028 ", "pos")]


def documents(corpus: Corpus) -> list[str]:
    """Returns the documents of a corpus, which are short: each is one piece."""
    return [piece.text for piece in corpus.raw_pieces()]


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode())
        return str(path)

    return write


def _part(sign, header="text{}label\n"):
    return header.format(sign) + "".join(f"{text}{sign}{label}\n" for text, label in ROWS)


@pytest.mark.parametrize(("name", "sign"), [("a.tsv", "\t"), ("a.csv", ",")])
@pytest.mark.parametrize(
    "second",
    ["text{}label\n", "\ufefftext{}label\n", "label{}text\n", '\ufeff"text"{}"label"\r\n', "Text{}LABEL\n"],
)
def test_a_repeated_header_is_refused_by_its_line(write, name, sign, second):
    path = write(name, _part(sign) + _part(sign, second))
    with pytest.raises(InputError, match=rf"{name}:5: repeats the header of line 1"):
        read_labelled(path)
    with pytest.raises(InputError, match=rf"{name}:5: repeats the header of line 1"):
        read_texts(path, "text")


def test_a_header_is_no_example_where_columns_have_numbers(write):
    path = write("a.tsv", "".join(f"{t}\t{x}\n" for t, x in ROWS) * 2 + _part("\t"))
    with pytest.raises(InputError, match=r"a.tsv:7: .*look like a header"):
        read_labelled(path, "0", "1")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "mixed"])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.txt"])
def test_lines_end_in_any_way(write, name, end):
    texts = [f"film {i}" for i in range(8)]
    if name == "a.jsonl":
        lines = [json.dumps({"text": text, "label": "ab"[i % 2]}) for i, text in enumerate(texts)]
    elif name == "a.txt":
        lines = list(texts)
    else:
        sign = "\t" if name == "a.tsv" else ","
        lines = [f"text{sign}label"] + [f"{text}{sign}{'ab'[i % 2]}" for i, text in enumerate(texts)]
    if end == "mixed" and name == "a.txt":
        end = "\r\n"
    ends = ["\n", "\r", "\r\n"] * len(lines) if end == "mixed" else [end] * len(lines)
    path = write(name, "".join(line + ending for line, ending in zip(lines, ends, strict=False)))
    if name != "a.txt":
        found = read_labelled(path)
        assert found.labels.tolist() == [0, 1] * 4
        assert found.texts == [(text,) for text in texts]
    assert read_texts(path).texts == [(text,) for text in texts]
    if name == "a.jsonl":
        assert documents(Corpus([path])) == texts


def test_a_cell_comes_as_it_stands(write):
    texts = [" two  spaces ", "a\rb", "c\x85d\x1ce", "f\u00a0g\u2028h", "\ttab"]
    quoted = "".join(f'"{text}",{label}\n' for text, label in zip(texts, "ababa", strict=True))
    assert [text for (text,) in read_labelled(write("a.csv", "text,label\n" + quoted)).texts] == texts
    lines = "".join(f"{text}\t{label}\n" for text, label in zip(texts[:4], "abab", strict=True))
    assert [text for (text,) in read_labelled(write("a.tsv", "text\tlabel\n" + lines)).texts] == texts[:4]


FORMS = {
    "string": pyarrow.string(),
    "large_string": pyarrow.large_string(),
    "string_view": pyarrow.string_view(),
    "dictionary": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    "binary": pyarrow.binary(),  # as Impala and older versions of Spark write texts
    "large_binary": pyarrow.large_binary(),
}


@pytest.mark.parametrize("form", FORMS)
def test_text_is_text_in_every_arrow_form(tmp_path, form):
    path = str(tmp_path / "a.parquet")
    columns = {"text": ["good", "bad", "good"], "label": ["a", "b", "a"]}
    table = {name: pyarrow.array(values).cast(FORMS[form]) for name, values in columns.items()}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    assert documents(Corpus([path])) == columns["text"]
    found = read_labelled(path)
    assert found.texts == [("good",), ("bad",), ("good",)]
    assert found.label_names == ("a", "b")


def test_bytes_that_are_no_text_are_refused_by_their_row(tmp_path):
    path = str(tmp_path / "a.parquet")
    table = pyarrow.table({"text": [b"good", b"caf\xe9"], "label": ["a", "b"]})
    pyarrow.parquet.write_table(table, path)
    for read in (lambda: documents(Corpus([path])), lambda: read_labelled(path)):
        with pytest.raises(InputError, match=r"a\.parquet row 2: holds bytes that are no text in UTF-8"):
            read()


def test_a_parquet_column_that_is_there_twice_is_refused_by_name(tmp_path):
    path = str(tmp_path / "a.parquet")
    arrays = [pyarrow.array([value]) for value in ("first", "second", "x")]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, names=["text", "text", "label"]), path)
    for read in (lambda: documents(Corpus([path])), lambda: read_labelled(path)):
        with pytest.raises(InputError, match=r"a\.parquet: the column 'text' is there twice"):
            read()


def test_dots_in_names_of_parquet_columns(tmp_path):
    path = str(tmp_path / "a.parquet")
    columns = {
        "text.lang": ["en", "de"],
        "text": ["one", "zwei"],
        "label.by": ["x", "y"],
        "label": ["a", "b"],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert documents(Corpus([path])) == ["one", "zwei"]
    assert documents(Corpus([path], "text.lang")) == ["en", "de"]
    assert read_labelled(path, "text.lang", "label.by").label_names == ("x", "y")
    assert read_labelled(path).texts == [("one",), ("zwei",)]


def _labels(write, name, labels, **settings):
    content = "text,label\n" + "".join(f'"film {i}","{label}"\n' for i, label in enumerate(labels))
    return read_labelled(write(name, content), **settings)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["0", "1", "1.0", "0.0"], ("0", "1")),
        ([f"{i}.0" for i in range(1, 11)] * 2, tuple(map(str, range(1, 11)))),
        (["-1.0", "2.", "-1", "10.00"], ("-1", "2", "10")),
        (["True", "False", "true"], ("false", "true")),
        (["True", "False", "True"], ("False", "True")),
        (["9007199254740993.0", "9007199254740992"] * 2, ("9007199254740992", "9007199254740993")),
        (["1.000e+00", "0e0", "+1", "0"], ("0", "1")),
        (["0x", "1e0", "1", "0x"], ("0x", "1")),
        (["007", "8", "007", "8"], ("007", "8")),  # a code
        (["good", " good ", "bad", "\ufeffbad"], ("bad", "good")),
    ],
)
def test_one_class_however_it_is_written(write, labels, names):
    found = _labels(write, "a.csv", labels)
    assert (found.task, found.label_names) == ("classification", names)
    assert len(set(found.labels.tolist())) == len(names)


def test_names_of_fractions_stay_as_they_stand_and_are_sorted_by_value(write):
    found = _labels(write, "a.csv", ["10.0", "2.0", "1.5", "2.0"], task="classification")
    assert found.label_names == ("1.5", "2.0", "10.0")


@pytest.mark.parametrize(
    ("known", "labels"),
    [(("0", "1"), ["0.0", "1.0"]), (("-1", "1"), ["-1e0", "+1"]), (("False", "True"), ["false", "TRUE"])],
)
def test_validation_data_spelled_otherwise_has_the_classes_of_training(write, known, labels):
    found = _labels(write, "a.csv", labels * 2, label_names=known)
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert found.label_names == known


@pytest.mark.parametrize(
    "labels",
    [
        ["Spam", "spam", "ham"] * 4,
        ["0", "1", "true", "false"] * 4,
        ["01", "1", "2"] * 4,
        ["spam", "spam\u200b", "ham"] * 4,  # with a space of no width
    ],
)
def test_classes_that_seem_to_be_one_are_told(write, labels):
    with pytest.warns(InputWarning, match="are classes of their own"):
        _labels(write, "a.csv", labels)


def test_labels_of_rows_with_several_are_one_class_however_they_are_written(write):
    content = "text,label\n" + "".join(
        f'film {i},"{label}"\n' for i, label in enumerate(["1.0,2", "1", "2.0", ""])
    )
    found = read_labelled(write("a.csv", content), separator=",")
    assert found.label_names == ("1", "2")
    assert found.labels.tolist() == [[1, 1], [1, 0], [0, 1], [0, 0]]
    again = read_labelled(write("b.csv", content), separator=",", label_names=("1", "2"))
    assert again.labels.tolist() == found.labels.tolist()
    with pytest.warns(InputWarning, match="'Sea' and 'sea' are classes of their own"):
        read_labelled(write("c.csv", 'text,label\na,"Sea,storm"\nb,sea\n'), separator=",")


def test_words_of_their_own_are_not_told(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _labels(write, "a.csv", ["nan", "no", "yes"] * 4)


def test_missing_numbers_and_decimal_commas_are_no_classes(write):
    with pytest.raises(InputError, match=r"a.csv:3: label '3,5' has a decimal comma; write 3.5"):
        _labels(write, "a.csv", ["1", "3,5", "2.5"])
    with pytest.raises(InputError, match=r"a.jsonl:2: .*NaN"):
        read_labelled(write("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": NaN}\n'))
