"""Every kind of source gives the documents that it should, as a stream, and names its faults."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kerasllm.data
from kerasllm.data.sources import corpus as corpora
from kerasllm.data.sources import hub as hub_datasets
from kerasllm.data.sources import text as text_pieces
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.sources.hub import HubDataset, looks_like_hub_id
from kerasllm.errors import InputError

TEXT = "First one. Second one.\nA paragraph.\n\n \nOther document.\n"
DOCUMENTS = [["First one.", "Second one.", "A paragraph."], ["Other document."]]


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def documents(*sources: str, **options) -> list[list[str]]:
    return list(Corpus(sources, **options).documents())


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\n\n" + text + "\n\n",
        lambda text: text.rstrip(),
    ],
)
def test_text_files(tmp_path, change):
    assert documents(write(tmp_path / "a.txt", change(TEXT))) == DOCUMENTS
    assert documents(write(tmp_path / "a.txt.gz", gzip.compress(change(TEXT).encode()))) == DOCUMENTS


def test_a_file_without_blank_lines_is_one_document(tmp_path):
    assert documents(write(tmp_path / "a.txt", "One.\nTwo.\nThree.")) == [["One.", "Two.", "Three."]]


def test_directories_are_sorted_and_recursive(tmp_path):
    write(tmp_path / "b.txt", "Bee.")
    write(tmp_path / "a" / "z.md", "Zed.")
    write(tmp_path / "a" / "c.csv", "no text")
    write(tmp_path / "a" / "empty.txt", "")
    write(tmp_path / ".hidden" / "d.txt", "Hidden.")
    write(tmp_path / "c.txt.gz", gzip.compress(b"Sea."))
    assert documents(str(tmp_path)) == [["Zed."], ["Bee."], ["Sea."]]


def test_json_lines_and_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    texts = ["One. Two.\nThree.", "", None, "Vier \u00fc."]
    rows = "".join(json.dumps({"body": text, "n": 1}) + "\n\n" for text in texts)
    json_path = write(tmp_path / "a.jsonl", "\ufeff" + rows)
    zipped = write(tmp_path / "a.jsonl.gz", gzip.compress(rows.encode()))
    parquet = str(tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"body": texts, "n": [1] * 4}), parquet)
    expected = [["One.", "Two.", "Three."], ["Vier \u00fc."]]
    for path in (json_path, zipped, parquet):
        assert documents(path, text_column="body") == expected
    assert documents(json_path, parquet, text_column="body") == expected * 2
    assert len({Corpus([path], "body").fingerprint() for path in (json_path, parquet)}) == 2


def test_local_directory_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    write(tmp_path / "data" / "train.jsonl", '{"text": "One. Two."}\n{"text": "Three."}\n')
    write(tmp_path / "data" / "validation.jsonl", '{"text": "Four."}\n')
    source = f"hub:{tmp_path / 'data'}"
    assert documents(source) == [["One.", "Two."], ["Three."]]
    assert documents(source + "#validation") == [["Four."]]
    before = Corpus([source]).fingerprint()
    assert before != Corpus([source + "#validation"]).fingerprint()
    with pytest.raises(InputError, match=r"no column 'body'; the columns are \['text'\]"):
        documents(source, text_column="body")
    with pytest.raises(InputError, match="name a split with #SPLIT"):
        documents(source + "#nothing")
    write(tmp_path / "data" / "train.jsonl", '{"text": "Other."}\n')
    assert Corpus([source]).fingerprint() != before


def test_hub_ids_are_tried_as_owner_and_name_and_then_as_name_and_configuration(monkeypatch):
    import datasets

    asked = []

    def load(path, name=None, *, split, revision, streaming):
        asked.append((path, name, split, revision, streaming))
        if path == "glue/mrpc":
            raise FileNotFoundError("Couldn't find it\nmore")
        return [{"text": "One. Two."}, {"text": None}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(HubDataset, "_commit", lambda self: "abc")
    assert documents("hub:glue/mrpc@v1#test") == [["One.", "Two."]]
    assert asked == [("glue/mrpc", None, "test", "v1", True), ("glue", "mrpc", "test", "v1", True)]
    asked.clear()
    assert documents("owner/name") == [["One.", "Two."]]
    assert documents("hub:owner/name/config") == [["One.", "Two."]]
    assert documents("hub:wikitext") == [["One.", "Two."]]
    assert [call[:2] for call in asked] == [
        ("owner/name", None),
        ("owner/name", "config"),
        ("wikitext", None),
    ]
    prints = {Corpus([source]).fingerprint() for source in ("owner/name", "owner/name@v2", "owner/name#test")}
    assert len(prints) == 3


def test_hub_failures_are_one_line(monkeypatch):
    import datasets

    def load(*arguments, **options):
        raise ConnectionError("Couldn't reach the Hub\ndetails")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(InputError, match="owner/name: Couldn't reach the Hub") as caught:
        documents("owner/name")
    assert "\n" not in str(caught.value)

    def broken_rows(*arguments, **options):
        yield {"text": "One."}
        raise OSError("connection reset")

    monkeypatch.setattr(datasets, "load_dataset", broken_rows)
    with pytest.raises(InputError, match="reading stopped: OSError: connection reset"):
        documents("owner/name")
    with pytest.raises(InputError, match="not a dataset"):
        documents("hub:a/b/c/d")


@pytest.mark.parametrize(
    ("source", "is_id"),
    [
        ("owner/name", True),
        ("owner/name@main#train", True),
        ("a/b/c", True),
        ("name", False),
        ("./a/b", False),
        ("data/train.txt", False),
        ("data/x.jsonl", False),
        ("/a/b", False),
        ("a b/c", False),
        ("a/b/c/d", False),
    ],
)
def test_ids_are_told_from_paths(source, is_id):
    assert looks_like_hub_id(source) == is_id


def test_python_docs():
    first = next(iter(Corpus(["python-docs"]).documents()))
    assert first and all(isinstance(sentence, str) for sentence in first)
    assert Corpus(["python-docs"]).fingerprint() == Corpus("python-docs").fingerprint()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "a.txt: the file is empty"),
        ("a.txt", " \n\n\t\n", "a.txt: nothing but blank lines"),
        ("a.txt", b"text\0more", "a.txt: byte 4 is NUL: a binary file"),
        (
            "a.txt",
            b"one\ntwo caf\xe9\n",
            r"a.txt:2: byte 11 of the file \(0xe9\) is not UTF-8; convert .* iconv",
        ),
        ("a.txt.gz", b"not gzip", "a.txt.gz: broken gzip file"),
        ("a.txt.gz", gzip.compress(b"text" * 999, mtime=0)[:-9], "a.txt.gz: broken gzip file"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "a.jsonl:2: not JSON"),
        ("a.jsonl", '{"text": "a"}\n[1]\n', "a.jsonl:2: list where a JSON object"),
        (
            "a.jsonl",
            '{"body": "a", "id": 1}\n',
            r"a.jsonl:1: no field 'text'; the fields are \['body', 'id'\]",
        ),
        ("a.jsonl", '{"text": 5}\n', "a.jsonl:1: field 'text' holds int, not text"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', "a.jsonl:1: byte 13 of the line is not UTF-8"),
        ("a.jsonl", "\n\n", "a.jsonl: nothing but blank lines"),
        ("a.parquet", "no parquet", "a.parquet: not a readable Parquet file"),
    ],
)
def test_faults_are_named(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        documents(write(tmp_path / name, content))


def test_faults_of_places_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Corpus([str(tmp_path / "nothing.txt")])
    with pytest.raises(InputError, match=r"holds no \.txt or \.md file"):
        Corpus([str(tmp_path)])
    with pytest.raises(InputError, match="no source"):
        Corpus([])
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"no column 'text'; the columns are \['n'\]"):
        documents(str(tmp_path / "a.parquet"))
    with pytest.raises(InputError, match="column 'n' holds int64, not text"):
        documents(str(tmp_path / "a.parquet"), text_column="n")


def test_fingerprint_is_of_content(tmp_path):
    first = Corpus([write(tmp_path / "a.txt", TEXT)]).fingerprint()
    assert Corpus([write(tmp_path / "elsewhere" / "b.txt", TEXT)]).fingerprint() == first
    assert Corpus([write(tmp_path / "a.txt", TEXT + "x")]).fingerprint() != first
    assert len(first) == 64
    one = [write(tmp_path / "1.txt", "One."), write(tmp_path / "2.txt", "Two.")]
    assert Corpus(one).fingerprint() != Corpus(one[::-1]).fingerprint()


PARTS = st.lists(
    st.sampled_from(["\n", "\n\n", " \n", "\r\n", "A b. ", "c", "\u00e9\u6f22", " ", "."]), max_size=40
)


@settings(deadline=None, max_examples=200)
@given(PARTS, st.integers(1, 9), st.integers(4, 30))
def test_pieces_do_not_depend_on_the_blocks(parts, block, size):
    content = "".join(parts).encode()
    blocks = [content[start : start + block] for start in range(0, len(content), block)]

    def joined(pieces):
        found, text = [], ""
        for piece in pieces:
            text += piece.text
            if piece.ends_document:
                found.append(" ".join(text.split()))
                text = ""
        assert not text
        return [text for text in found if text]

    expected = [
        " ".join(part.split())
        for part in text_pieces.re.split(r"\n[^\S\n]*\n\s*", content.decode().replace("\r\n", "\n"))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_pieces, "PIECE_SIZE", size)
        assert joined(text_pieces.read_text(blocks, "x")) == [text for text in expected if text]
        whole = "".join(parts).replace("\r\n", "\n")
        assert "".join(piece.text for piece in text_pieces.cut(whole)) == whole


def test_long_lines_are_cut_after_sentences():
    text = "This is a sentence of some length. " * 100_000
    pieces = list(text_pieces.read_text([text.encode()], "x"))
    assert len(pieces) > 1 and all(
        len(piece.text) <= 2 * text_pieces.PIECE_SIZE + len(text) % 2 for piece in pieces[1:]
    )
    assert "".join(piece.text for piece in pieces) == text
    cut = list(text_pieces.cut(text))
    assert len(cut) >= 3 and all(piece.text.endswith(". ") for piece in cut)


def test_nothing_is_held_whole(tmp_path):
    with (tmp_path / "lines.txt").open("w") as file:
        for _ in range(60):
            file.write("A sentence that is here to take space. " * 25_000 + "\n")
    (tmp_path / "one.txt").write_text((tmp_path / "lines.txt").read_text().replace("\n", ""))
    code = (
        "import sys, types; package = types.ModuleType('kerasllm'); \n"
        "package.__path__ = [sys.argv[1]]\n"
        "sys.modules['kerasllm'] = package\n"
        "from kerasllm.data.sources.corpus import Corpus\n"
        # Not getrusage's peak, which a process inherits from the one that started it.
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "print(sum(len(piece.text) for piece in Corpus([sys.argv[2]]).pieces()))\n"
        "print(peak() - before)\n"
    )
    package = str(Path(kerasllm.data.__file__).parents[1])
    for name in ("lines.txt", "one.txt"):
        out = subprocess.run(
            [sys.executable, "-c", code, package, str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert int(out[0]) >= 58_000_000
        assert int(out[1]) < 30_000, f"{name}: reading 58 MB took {out[1]} kB"


def test_modules_are_light():
    assert "datasets" not in vars(hub_datasets) and "pyarrow" not in vars(corpora)
