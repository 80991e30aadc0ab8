"""Sentences with tags: CoNLL's columns, tables of lists, texts with spans, and the schemes of tags."""

import json

import pytest

from kerasllm.data.sources.conll import read_conll
from kerasllm.data.sources.tag_schemes import (
    Entity,
    count_illegal,
    entities,
    is_iob1,
    strict_entities,
    to_bioes,
    to_iob2,
)
from kerasllm.data.sources.tagged import read_tagged
from kerasllm.errors import InputError

WNUT = "Ann\tB-person\nLee\tI-person\nsings\tO\n\t\nin\tO\nRome\tB-place\n.\tO\n"


def written(tmp_path, content, name="train.conll"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def tags_of(sentences):
    return [sentences.label_names[label] for label in sentences.labels]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_tabs_and_blank_lines_that_hold_a_tab(tmp_path, ends):
    found = read_tagged(written(tmp_path, "\ufeff" + WNUT.replace("\n", ends)))
    assert found.words == [("Ann", "Lee", "sings"), ("in", "Rome", ".")]
    assert tags_of(found) == ["B-person", "I-person", "O", "O", "B-place", "O"]
    assert found.label_names == ("O", "B-person", "I-person", "B-place", "I-place")
    assert (found.scheme, found.lines.tolist(), found.num_illegal) == ("IOB2", [1, 5], 0)


def test_four_columns_with_spaces_documents_and_comments(tmp_path):
    content = (
        "-DOCSTART- -X- O O\n\n# a comment of its own\nEU NNP I-NP I-ORG\n# NN I-NP O\nrejects VBZ I-VP O\n"
    )
    found = read_tagged(written(tmp_path, content))
    assert found.words == [("EU", "#", "rejects")]
    assert tags_of(found) == ["B-ORG", "O", "O"]
    assert found.notes == ("the tags are IOB1 and are converted",)
    parts = read_tagged(written(tmp_path, content), 0, 1, scheme="none")
    assert parts.label_names == ("NN", "NNP", "VBZ") and parts.scheme == "none"


@pytest.mark.parametrize("comment", ["# id 5239 domain=en", "# id 5239d808\tdomain=en", "# id = 1"])
def test_comments_with_as_many_columns_as_words(tmp_path, comment):
    """Such as MultiCoNER's; a `#` within a sentence, or with a tag that other words have, is a word."""
    content = f"{comment}\nann _ _ B-PER\nsings _ _ O\n# _ _ X\n\n{comment}\n# _ _ O\nrome _ _ B-LOC\n"
    found = read_tagged(written(tmp_path, content), scheme="none")
    assert found.words == [("ann", "sings", "#"), ("#", "rome")]
    assert tags_of(found) == ["B-PER", "O", "X", "O", "B-LOC"]
    path = written(tmp_path, content)
    unlabelled = [[line.word for line in own] for own in read_conll(str(path), label_column=None)]
    assert unlabelled == [["ann", "sings", "#"], ["#", "rome"]]
    document = "-DOCSTART- -X- -X- O\n\nann\tB-PER\nsings\tO\n"
    assert read_tagged(written(tmp_path, document)).words == [("ann", "sings")]


def test_a_stray_tag_that_costs_the_entities_is_named(tmp_path):
    found = read_tagged(written(tmp_path, "a\tB-ORG\nb\to\nc\tO\nd\tO\n"))
    assert found.scheme == "none"
    assert found.notes == (
        "the tags are judged one by one, without entities: 'o' is neither O nor a prefix and a type, as 'B-ORG' is",
    )
    assert not read_tagged(written(tmp_path, "a\tNN\nb\tV-B\nc\tO\n")).notes


def test_conll_u_leaves_out_ranges_and_empty_nodes(tmp_path):
    def line(number, word, tag):
        return "\t".join([number, word, word, tag, "_", "_", "0", "_", "_", "_"])

    rows = ["# text = vámonos al mar", line("1-2", "vámonos", "_"), line("1", "vamos", "VERB")]
    rows += [line("2", "nos", "PRON"), line("2.1", "x", "X"), line("3", "#", "SYM"), ""]
    path = written(tmp_path, "\n".join(rows), "train.conllu")
    assert [word.word for word in next(read_conll(path, 1, 3))] == ["vamos", "nos", "#"]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("a\tO\nb\n", (), "train.conll:2: has 1 columns where most lines have 2"),
        ("a\tO\nb\tO\nc d\te\tO\n", (), "train.conll:3: has 3 columns where most lines have 2"),
        ("a\tO\n\tO\n", (), "train.conll:2: the word is empty"),
        ("a\tO\nb\t\n", (), "train.conll:2: the tag is empty"),
        ("a\tO\n", (0, 2), "label_column is 2, the file has 2 columns"),
        ("a\tO\n", (1, -1), "token_column and label_column are the same column"),
        ("a\tO\n", ("word", 1), "token_column is 'word'"),
        ("\n \n", (), "holds no words"),
        ("a\tO\nb\tO\n", (), "all words have the tag 'O'"),
        (b"a\tO\n\xff\tO\n", (), "train.conll:2: byte 1 of the line"),
    ],
)
def test_bad_files(tmp_path, content, columns, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        read_tagged(written(tmp_path, content), *columns)


def test_a_tag_that_training_lacks_is_named_with_its_line(tmp_path):
    names = ("O", "B-person", "I-person")
    with pytest.raises(
        InputError, match=r"train.conll:6: tag 'B-place' of 'Rome' does not occur in the training"
    ):
        read_tagged(written(tmp_path, WNUT), label_names=names)
    entirely_outside = read_tagged(written(tmp_path, "a\tO\n"), label_names=names)
    assert entirely_outside.scheme == "IOB2" and entirely_outside.labels.tolist() == [0]


def test_lists_of_names_or_ids_and_texts_with_spans(tmp_path):
    lists = [{"tokens": ["Ann", "sings"], "ner_tags": ["B-P", "O"]}, {"tokens": ["so"], "ner_tags": ["O"]}]
    content = "".join(json.dumps(row) + "\n" for row in lists)
    found = read_tagged(written(tmp_path, content, "a.jsonl"))
    assert found.words == [("Ann", "sings"), ("so",)] and tags_of(found) == ["B-P", "O", "O"]

    def split(text):
        starts = [0, *(i + 1 for i, letter in enumerate(text) if letter == " ")]
        return [(start, start + len(text[start:].split(" ")[0])) for start in starts]

    rows = [
        {"text": "Ann Lee sings", "spans": [{"start": 0, "end": 7, "label": "P"}]},
        {"text": "in Rome now", "spans": [[3, 6, "L"]]},
        {"text": "no one", "spans": []},
    ]
    found = read_tagged(
        written(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "b.jsonl"), split_words=split
    )
    assert tags_of(found) == ["B-P", "I-P", "O", "O", "B-L", "O", "O", "O"]
    for spans, message in [
        ([[0, 20, "P"]], "b.jsonl:1: the span from 0 to 20 lies outside the text of 13"),
        ([[0, 4, "P"], [2, 7, "P"]], "b.jsonl:1: the span from 2 to 7 overlaps"),
        ([[3, 4, "P"]], "b.jsonl:1: the span from 3 to 4 holds no word"),
        ([["0", 4, "P"]], "b.jsonl:1: a span is"),
    ]:
        content = json.dumps({"text": "Ann Lee sings", "spans": spans}) + "\n"
        with pytest.raises(InputError, match=message):
            read_tagged(written(tmp_path, content, "b.jsonl"), split_words=split)


def test_parquet_with_class_names(tmp_path):
    import datasets

    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-P", "I-P"])),
        }
    )
    rows = {"tokens": [["Ann", "Lee"], ["so"]], "ner_tags": [[1, 2], [0]]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    assert tags_of(read_tagged(str(tmp_path / "a.parquet"))) == ["B-P", "I-P", "O"]


def test_schemes():
    assert is_iob1([["I-A", "I-A", "B-A", "O"]]) and not is_iob1([["B-A", "I-A"], ["I-A"]])
    tags = ["I-A", "I-A", "B-A", "O", "B-B", "I-A"]
    assert entities(tags) == [Entity("A", 0, 1), Entity("A", 2, 2), Entity("B", 4, 4), Entity("A", 5, 5)]
    assert strict_entities(tags, "IOB2") == [Entity("A", 2, 2), Entity("B", 4, 4)]
    assert to_iob2(tags) == ["B-A", "I-A", "B-A", "O", "B-B", "B-A"]
    assert to_bioes(tags) == ["B-A", "E-A", "S-A", "O", "S-B", "S-A"]
    assert entities(to_bioes(tags)) == entities(tags) == strict_entities(to_bioes(tags), "BIOES")
    assert count_illegal([tags], "IOB2") == 2
    assert count_illegal([["B-A", "O"], ["B-A"], ["S-A", "B-A", "I-A", "E-A"]], "BIOES") == 2


def test_illegal_tags_are_counted_and_bilou_is_converted(tmp_path):
    found = read_tagged(written(tmp_path, "a\tB-A\nb\tO\nc\tI-A\n"))
    assert found.num_illegal == 1 and found.notes[0].startswith("1 tags may not stand where they do")
    found = read_tagged(written(tmp_path, "a\tB-A\nb\tL-A\nc\tU-A\n"))
    assert (found.scheme, tags_of(found)) == ("BIOES", ["B-A", "E-A", "S-A"])
    found = read_tagged(written(tmp_path, "a\tB-A\nb\tI-A\nc\tO\n"), scheme="BIOES")
    assert tags_of(found) == ["B-A", "E-A", "O"]
