"""Every form of a table, and each way in which one can be broken."""

import csv
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from kerasllm.data.sources.tables import Column, open_table
from kerasllm.errors import InputError


def rows(path, *columns, by_index=False):
    return list(open_table(str(path), by_index=by_index).rows([Column(name, "text") for name in columns]))


def written(tmp_path, name, content):
    path = tmp_path / name
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def complaint(path, *columns, by_index=False):
    with pytest.raises(InputError) as raised:
        rows(path, *columns, by_index=by_index)
    message = str(raised.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz", "t", "t.txt"])
def test_a_tsv_is_split_at_tabs_only(tmp_path, name):
    content = '\ufeffa\tb\r\n"x\ty"y\u2028\x0b\r\n\r\n1,5\t"\n  \n\tz'
    path = written(tmp_path, name, content)
    assert rows(path, "b", "a") == [(2, ('y"y\u2028\x0b', '"x')), (4, ('"', "1,5")), (6, ("z", ""))]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_csv_has_quoting_and_fields_of_several_lines(tmp_path, name):
    path = written(tmp_path, name, '\ufeffa,b\r\n"one\ntwo, ""three""",1\r\n\r\nfour,2\r\n')
    assert rows(path, "a", "b") == [(2, ('one\ntwo, "three"', "1")), (5, ("four", "2"))]


def test_a_csv_leaves_the_process_wide_field_limit_alone(tmp_path):
    before = csv.field_size_limit()
    path = written(tmp_path, "t.csv", "a\n" + "x" * (before + 1) + "\n")
    assert len(rows(path, "a")[0].values[0]) == before + 1
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.json", "t.ndjson"])
def test_json_lines(tmp_path, name):
    path = written(tmp_path, name, '\ufeff{"a": "é", "b": 1}\n\n{"b": null, "c": 0, "a": "\\n"}\n')
    assert rows(path, "a", "b") == [(1, ("é", 1)), (3, ("\n", None))]


def test_parquet_with_class_names(tmp_path):
    path = tmp_path / "t.parquet"
    table = pyarrow.table({"text": ["a", "b"], "more": [1.5, 2.0], "label": [0, 1]})
    features = {"text": {"_type": "Value"}, "label": {"_type": "ClassLabel", "names": ["no", "yes"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)
    assert rows(path, "label", "text") == [(1, (0, "a")), (2, (1, "b"))]
    opened = open_table(str(path), by_index=False)
    assert opened.class_names == {"label": ("no", "yes")}
    assert opened.place(2) == f"{path} row 2"


def test_indexes_mean_no_header(tmp_path):
    path = written(tmp_path, "t.tsv", "x\t0\ny\t1\t\t\n")
    assert rows(path, "1", "0", by_index=True) == [(1, ("0", "x")), (2, ("1", "y"))]


def test_a_hub_description_of_a_local_directory(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    rows_of = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    asked = []

    def load_dataset(identifier, configuration=None, *, split, revision):
        asked.append((identifier, configuration, split))
        if configuration is None:
            raise FileNotFoundError(f"no dataset {identifier}")
        return rows_of

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = open_table("hub:some/task", by_index=False, split="validation")
    assert asked == [("some/task", None, "validation"), ("some", "task", "validation")]
    assert table.class_names == {"label": ("neg", "pos")}
    assert list(table.rows([Column("label", "label"), Column("text", "text")])) == [
        (1, (1, "a")),
        (2, (0, "b")),
    ]
    assert table.place(1) == "hub:some/task#validation row 1"
    open_table("hub:some/task/small#test", by_index=False)
    assert asked[-1] == ("some/task", "small", "test")
    with pytest.raises(InputError, match="hub:alone: no dataset alone"):
        open_table("hub:alone", by_index=False)


@pytest.mark.parametrize(
    ("name", "content", "columns", "expected"),
    [
        ("t.tsv", "", ["a"], ": the file is empty"),
        ("t.jsonl", "\n\n", ["a"], ": the file is empty"),
        ("t.tsv", "text\tlabel\nx\t1\n", ["txt"], ": no column 'txt' (text); did you mean 'text'?"),
        ("t.tsv", "Text\tlabel\nx\t1\n", ["text"], "did you mean 'Text'? Its columns: 'Text', 'label'"),
        ("t.tsv", "text\tlabel\nx\t1\n", ["quite"], "if the file has no header, give all columns by index"),
        ("t.tsv", "a\ta\nx\t1\n", ["a"], ": the column 'a' is there twice"),
        ("t.tsv", "a\tb\nx\n", ["b"], ":2: has 1 field, column 'b' (text) needs at least 2"),
        ("t.tsv", "a\tb\nx\ty\tz\n", ["b"], ":2: has 3 fields where line 1 has 2"),
        ("t.txt", "a b\nx\n", ["b"], ": no tab in its first line"),
        (
            "t.tsv",
            b"a\tb\nx\ty\n\xff\tz\n",
            ["b"],
            ":3: byte 1 of the line (byte 9 of the file), 0xff, is not UTF-8",
        ),
        (
            "t.tsv",
            b"\xef\xbb\xbfa\xe9\tb\n",
            ["b"],
            ":1: byte 5 of the line (byte 5 of the file), 0xe9, is not",
        ),
        ("t.tsv", "a\tb\n".encode("utf-16"), ["b"], ": is UTF-16; convert it with iconv"),
        ("t.tsv", b"\x89PNG\0\0", ["b"], ": holds NUL bytes"),
        ("t.tsv", b"a\tb\n" + b"x\ty\n" * 2000 + b"x\0\ty\n", ["b"], ":2002: holds a NUL byte"),
        ("t.tsv", gzip.compress(b"a\tb\n", mtime=0), ["b"], ": is compressed with gzip; add .gz to its name"),
        ("t.csv", 'a,b\n1,2\n"x,y\nz,w\n', ["b"], ":3: not valid CSV: unexpected end of data"),
        ("t.csv", 'a,b\n"x" y,z\n', ["b"], ":2: not valid CSV"),
        ("t.csv", "a;b\nx;y\n", ["b"], ":1: one column only; is ';' the separator?"),
        ("t.csv", "a,b\nx, y,1\n", ["b"], ":2: has 3 fields where line 1 has 2; a separator within a text?"),
        ("t.jsonl", '{"a": 1}\n{"a": \n', ["a"], ":2: not JSON: Expecting value; each line must be"),
        ("t.jsonl", '[{"a": 1}]\n', ["a"], ":1: holds a list; each line must be one JSON object"),
        ("t.jsonl", '{"a": 1}\n{"b": 1}\n', ["a"], ":2: no 'a' (text), only 'b'"),
        ("t.jsonl", '{"a": 1}\n', ["0"], ": no column '0' (text). Its columns: 'a'"),
        ("t.parquet", "PAR", ["a"], ": not a readable Parquet file"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(tmp_path, name, content, columns, expected):
    assert expected in complaint(written(tmp_path, name, content), *columns)


def test_too_few_fields_without_a_header(tmp_path):
    path = written(tmp_path, "t.tsv", "x\t1\ny\n")
    message = complaint(path, "1", by_index=True)
    assert message == ":2: has 1 field, column 1 (text) needs at least 2"


def test_no_such_file(tmp_path):
    written(tmp_path, "train.tsv", "a\tb\n")
    assert complaint(tmp_path / "trian.tsv", "a") == f": no such file; did you mean {tmp_path / 'train.tsv'}?"
    assert complaint(tmp_path, "a") == ": is a directory; name one of its files (train.tsv)"
    assert complaint(tmp_path / "t.parquet", "a").startswith(": no such file")


def test_a_damaged_gzip_file(tmp_path):
    path = tmp_path / "t.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\n" + b"x\ty\n" * 5000)[:-10])
    assert ": broken gzip file" in complaint(path, "b")
    path.write_bytes(b"a\tb\n")
    assert ": broken gzip file" in complaint(path, "b")
