"""Columns, label names and tasks; and mistakes in them, each named by its line."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from kerasllm.data.sources.labelled import read_labelled, read_texts
from kerasllm.errors import InputError, InputWarning


@pytest.fixture
def write(tmp_path):
    def write(content, name="t.tsv"):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return write


def complaint(function, path, *arguments, **settings):
    with pytest.raises(InputError) as raised:
        function(path, *arguments, **settings)
    return str(raised.value).replace(str(path), path.name)


def test_names_are_sorted_by_value_where_all_are_whole_numbers(write):
    found = read_labelled(write("a\t10\nb\t9\nc\t-1\nd\t9\n"), "0", "1")
    assert found.label_names == ("-1", "9", "10")
    assert found.labels.tolist() == [2, 1, 0, 1]
    assert found.labels.dtype == np.int32
    assert found.texts == [("a",), ("b",), ("c",), ("d",)]
    assert found.lines.tolist() == [1, 2, 3, 4]
    assert found.task == "classification"


def test_names_are_sorted_by_alphabet_otherwise(write):
    found = read_labelled(write("label\ttext\n ham \ta\n10\tb\n9\tc\n"))
    assert found.label_names == ("10", "9", "ham")
    assert found.labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize("columns", ["3,1", "3, 1", [3, 1], ("3", "1")])
def test_pairs_by_index(write, columns):
    found = read_labelled(write("0\tb\tx\ta\n1\td\tx\tc\n"), columns, 0)
    assert found.texts == [("a", "b"), ("c", "d")]


def test_pairs_by_name_and_a_name_with_a_comma(write):
    path = write("Quality\t#1 String\t#2 String\tone, two\n0\ta\tb\tc\n1\td\t\tf\n")
    assert read_labelled(path, "#1 String,#2 String", "Quality").texts == [("a", "b"), ("d", "")]
    assert read_labelled(path, "one, two", "Quality").texts == [("c",), ("f",)]


@pytest.mark.parametrize("names", [("text",), ("sentence",), ("sentence1", "sentence2")])
def test_default_columns(write, names):
    lines = [json.dumps({"id": i, **{name: f"{name} {i}" for name in names}, "label": i}) for i in range(3)]
    found = read_labelled(write("\n".join(lines), "t.jsonl"))
    assert found.texts[1] == tuple(f"{name} 1" for name in names)
    assert found.label_names == ("0", "1", "2")


def test_a_numeric_name_is_a_name_in_json(write):
    lines = [json.dumps({"0": f"text {i}", "label": i % 2 == 0}) for i in range(2)]
    found = read_labelled(write("\n".join(lines), "t.jsonl"), "0", "label")
    assert found.texts[0] == ("text 0",)
    assert found.label_names == ("false", "true")


def test_labels_of_training_give_the_same_ids(write):
    path = write("a\tyes\nb\tyes\n")
    found = read_labelled(path, "0", "1", label_names=("yes", "maybe", "no"))
    assert found.labels.tolist() == [0, 0]
    assert found.label_names == ("yes", "maybe", "no")


def test_an_unseen_label_in_validation(write):
    path = write("a\tpositive\nb\tnegative\nc\tpostive\n", "dev.tsv")
    message = complaint(read_labelled, path, "0", "1", label_names=("negative", "positive"))
    assert (
        message
        == "dev.tsv:3: label 'postive' is not one of ['negative', 'positive']; did you mean 'positive'?"
    )
    message = complaint(read_labelled, path, "0", "1", label_names=("a", "b"))
    assert message == (
        "dev.tsv:1: label 'positive' is not one of ['a', 'b']; mend it or, if this line is a header, "
        "give the columns by name"
    )


def test_a_misspelt_label_in_training(write):
    content = "a\tpositive\nb\tnegative\n" * 60
    path = write(content + "c\tpostive\n" + content)
    with pytest.warns(InputWarning) as warned:
        found = read_labelled(path, "0", "1")
    assert [str(one.message).removeprefix(f"{Path(path).parent}/") for one in warned] == [
        "t.tsv:121: label 'postive' occurs once and becomes a class of its own; did you mean 'positive', which "
        "occurs 120 times?"
    ]
    assert warned[0].filename == __file__
    assert found.label_names == ("negative", "positive", "postive") and found.labels.max() == 2
    # Names that are given need no warning, and what is rare but unlike, or a number, or common enough, neither.
    allowed = read_labelled(path, "0", "1", label_names=("positive", "negative", "postive"))
    assert allowed.labels.max() == 2
    for label in ("neutral", "3", "class_3"):
        path = write(("a\tpositive\nb\tclass_1\n" * 60) + f"c\t{label}\n")
        assert len(read_labelled(path, "0", "1").label_names) == 3
    path = write(content + "c\tpostive\n" * 3)
    assert len(read_labelled(path, "0", "1").label_names) == 3


def test_numbers_that_are_not_all_whole_are_for_regression(write):
    path = write("a\t5.000\nb\t3.8\nc\t-1e1\n")
    found = read_labelled(path, "0", "1")
    assert found.task == "regression" and found.label_names is None
    assert found.labels.dtype == np.float32
    np.testing.assert_allclose(found.labels, [5, 3.8, -10])
    assert read_labelled(path, "0", "1", task="classification").label_names == ("-1e1", "3.8", "5.000")
    whole = write("a\t1\nb\t2\n")
    assert read_labelled(whole, "0", "1").task == "classification"
    assert read_labelled(whole, "0", "1", task="regression").labels.tolist() == [1, 2]


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e99", "n/a", "1,5"])
def test_regression_takes_finite_numbers_only(write, value):
    path = write(f"a\t0.5\nb\t1\nc\t{value}\n")
    message = complaint(read_labelled, path, "0", "1", task="regression")
    assert message == f"t.tsv:3: label {value!r} is not a finite number"


def test_auto_does_not_make_classes_of_numbers_because_one_is_missing(write):
    lines = "".join(f"t\t{i / 7}\n" for i in range(40))
    assert complaint(read_labelled, write(lines + "t\tn/a\n"), "0", "1").startswith(
        "t.tsv:41: label 'n/a' is not a finite"
    )
    assert complaint(read_labelled, write("t\t1.0\nt\t0.0\nt\tnan\n"), "0", "1").startswith(
        "t.tsv:3: label 'nan' is"
    )


def test_declared_class_names_keep_their_order(tmp_path):
    path = tmp_path / "t.parquet"
    features = {"label": {"_type": "ClassLabel", "names": ["zero", "one", "absent"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}

    def write(labels):
        table = pyarrow.table({"text": [f"t{i}" for i in range(len(labels))], "label": labels})
        pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)

    write([1, 0, 1])
    found = read_labelled(path)
    assert found.label_names == ("zero", "one", "absent")
    assert found.labels.tolist() == [1, 0, 1]
    write([1, -1])
    message = complaint(read_labelled, path)
    assert (
        message
        == "t.parquet row 2: label -1 is not an id of the 3 classes (-1 stands for no label: a test split?)"
    )


@pytest.mark.parametrize(
    ("content", "columns", "label", "expected"),
    [
        ("a\t1\nb\t1\n", "0", "1", "t.tsv: all 2 rows have the label '1'; a classifier needs two classes"),
        ("a\t1\nb\n", "0", "1", "t.tsv:2: has 1 field, column 1 (label) needs at least 2"),
        ("a\t1\n \t0\n", "0", "1", "t.tsv:2: the text is empty; remove the row"),
        ("a\tb\t1\n\t\t0\n", "0,1", "2", "t.tsv:2: both texts are empty"),
        ("a\t1\nb\t \n", "0", "1", "t.tsv:2: the label is empty"),
        ("text\tlabel\n", None, None, "t.tsv: holds no rows below its header"),
        (
            "txt\tlabel\na\t1\n",
            None,
            None,
            "none of the columns 'text', 'sentence' or 'sentence1,sentence2': give",
        ),
        ("text\tclass\na\t1\n", None, None, "t.tsv: no column 'label' (label)"),
        ("a\t1\nb\t0\n", "0", None, "label_column is 'label', a name, but 0 is an index"),
        ("a\t1\nb\t0\n", None, "1", "label_column 1 is an index: give text_columns by index"),
        ("a\t1\nb\t0\n", "text", "1", "text_columns is 'text', a name, but 1 is an index"),
        ("a\tb\tc\t1\n", "0,1,2", "3", "text_columns names 3 columns"),
        ("a\t1\n", "0", "0", "column '0' is both label_column and one of text_columns"),
        ("a\t1\n", "0,", "1", "has an empty name"),
        (
            "Quality\tid\tone\n1\t5\ta\n0\t6\tb\n",
            "2",
            "0",
            "give the columns by name, text_columns 'one' and label_column 'Quality'",
        ),
        ("Label\tSMS\nham\ta\nspam\tb\n", "1", "0", "t.tsv:1: label 'Label' occurs in the first line only"),
        ("one\tscore\na\t0.5\nb\t1.5\n", "0", "1", "text_columns 'one' and label_column 'score'"),
        ("".join(f"a\tid {i}\n" for i in range(10)), "0", "1", "no label occurs twice"),
    ],
)
def test_mistakes(write, content, columns, label, expected):
    assert expected in complaint(read_labelled, write(content), columns, label)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text": 3, "label": 0}, "t.jsonl:2: column 'text' holds int, not text"),
        ({"text": None, "label": 0}, "t.jsonl:2: column 'text' holds null, not text"),
        ({"text": "a", "label": None}, "t.jsonl:2: column 'label' (label) holds null, not a label"),
        ({"text": "a", "label": [1]}, "t.jsonl:2: column 'label' (label) holds a list, not a label"),
        ({"text": "a"}, "t.jsonl:2: no 'label' (label), only 'text'"),
    ],
)
def test_values_of_a_wrong_type(write, record, expected):
    path = write(json.dumps({"text": "a", "label": 1}) + "\n" + json.dumps(record), "t.jsonl")
    assert complaint(read_labelled, path) == expected


def test_settings_out_of_range(write):
    path = write("a\t1\nb\t0\n")
    assert "task 'regresion' is not one of" in complaint(read_labelled, path, "0", "1", task="regresion")
    assert "regression has none" in complaint(
        read_labelled, path, "0", "1", task="regression", label_names=("0", "1")
    )


def test_half_a_surrogate_pair_becomes_something_a_tokenizer_takes(write):
    path = write('{"text": "a\\ud83d", "label": 0}\n{"text": "b", "label": 1}', "t.jsonl")
    assert read_labelled(path).texts[0] == ("a?",)


def test_texts_one_a_line(write):
    path = write("first\tstill first\r\nsecond\n\n", "t.txt")
    found = read_texts(path)
    assert found.texts == [("first\tstill first",), ("second",)] and found.lines.tolist() == [1, 2]
    assert complaint(read_texts, write("a\n\nb\n", "t.txt")).startswith("t.txt:2: is blank")
    assert complaint(read_texts, write("\n", "t.txt")) == "t.txt: the file is empty"


def test_texts_of_a_table(write):
    assert read_texts(write("id,sentence\n1,a\n2,b\n", "t.csv")).texts == [("a",), ("b",)]
    path = write("a\tb\n")
    assert read_texts(path, "1,0").texts == [("b", "a")]
    assert read_texts(write("a\tb\n", "t.txt"), "1").texts == [("b",)]
    assert "mrpc" not in complaint(read_texts, path)


def test_real_pairs(shared_data):
    train = read_labelled(shared_data / "mrpc" / "msr-para-train.tsv", "#1 String,#2 String", "Quality")
    assert len(train) == 3576 and train.label_names == ("0", "1")
    assert round(100 * train.labels.mean(), 1) == 67.3
    assert train.lines[-1] == 3577
    assert '"the witness"' in train.texts[0][0] and not any(
        "\r" in text for pair in train.texts for text in pair
    )
    assert "looks like a header" in complaint(
        read_labelled, shared_data / "mrpc" / "msr-para-train.tsv", "3,4", "0"
    )


def test_real_sentences(shared_data):
    assert len(read_labelled(shared_data / "sst2" / "train.tsv", "0", "1")) == 6920
    assert len(read_labelled(shared_data / "sst2" / "dev.tsv", "0", "1", label_names=("0", "1"))) == 872
    found = read_labelled(shared_data / "sms_spam" / "SMSSpamCollection", "SMS", "Label")
    assert np.bincount(found.labels).tolist() == [4827, 747]
