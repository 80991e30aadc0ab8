"""The prose of Python's documentation: cleaning by hand-made docstrings, and what must hold for the whole."""

import hashlib
import subprocess
import sys
from inspect import cleandoc
from pathlib import Path

import pytest

import kerasllm.data
from kerasllm.data.sources import python_docs as module
from kerasllm.data.sources.docstrings import prose_sentences
from kerasllm.data.sources.python_docs import python_docs, python_docs_fingerprint
from kerasllm.errors import InputError


def test_google_sections_keep_descriptions_only():
    text = """Computes the mean of the values in a list.

    Args:
        values: List of numbers, which must not be
            empty for the mean to exist.
        weights (optional): How much each of them counts.

    Returns:
        The mean of the values, a float.

    Example:

    >>> mean([1, 2, 3])
    2.0
    """
    assert prose_sentences(cleandoc(text)) == [
        "Computes the mean of the values in a list.",
        "List of numbers, which must not be empty for the mean to exist.",
        "How much each of them counts.",
        "The mean of the values, a float.",
    ]


def test_numpy_sections_tables_and_code_go():
    text = """
    Return the sum of ``a`` along the axis. See :func:`other.name` and *all* of `that`.

    Parameters
    ----------
    a : array_like
        The values that are to be summed.

    ==========  ==========================
    one         a row of the table is here
    ==========  ==========================

    .. versionadded:: 1.2
       The version that it was added in is not prose.

    It is used like this::

        for value in the_list_of_all_the_values:
            print(value)

    - The first point is made here.
    - The second point is as good
      as the first one is.

    ```python
    this is a line of the code and not prose.
    ```

    See Also
    --------
    prod : The product of all these values is found by it.
    """
    assert prose_sentences(cleandoc(text)) == [
        "Return the sum of a along the axis.",
        "See other.name and all of that.",
        "The values that are to be summed.",
        "The first point is made here.",
        "The second point is as good as the first one is.",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "x = y + z of the sum",
        "See https://example.com for the rest of it.",
        "a b c d e f",
        "+---+ |the| a is",
    ],
)
def test_what_is_not_prose_goes(line):
    assert prose_sentences(line) == []


@pytest.fixture(scope="module")
def documents():
    return list(python_docs())


def test_documents_are_named_sorted_and_of_four_origins(documents):
    origins = list(dict.fromkeys(document.origin for document in documents))
    assert origins == ["standard library", "topics", "keras", "numpy"]
    for origin in origins:
        names = [document.name for document in documents if document.origin == origin]
        assert names == sorted(set(names))
    names = {document.name for document in documents}
    assert {
        "argparse",
        "collections",
        "json.decoder",
        "topics.assert",
        "keras.src.layers.core.dense",
    } <= names
    assert not [name for name in names if ".tests" in name or name.startswith(("test.", "idlelib.idle_test"))]
    assert sum(len(sentence) for document in documents for sentence in document.sentences) > 1_500_000


def test_sentences_are_prose_and_occur_once(documents):
    sentences = [sentence for document in documents for sentence in document.sentences]
    assert len(set(sentences)) == len(sentences)
    for sentence in sentences:
        assert len(sentence.split()) >= 4, sentence
        assert sum(letter.isalpha() or letter.isspace() for letter in sentence) > 0.6 * len(sentence), (
            sentence
        )
        assert ">>>" not in sentence and "\n" not in sentence and "``" not in sentence, sentence
    assert all(document.sentences for document in documents)


def test_another_process_finds_the_same_whatever_its_locale_and_hash_seed(documents, tmp_path):
    package = Path(kerasllm.data.__file__).parents[1]
    code = (
        "import sys, types, hashlib; package = types.ModuleType('kerasllm'); \n"
        "package.__path__ = [sys.argv[1]]\n"
        "sys.modules['kerasllm'] = package\n"
        "from kerasllm.data.sources.python_docs import python_docs, python_docs_fingerprint\n"
        "print(hashlib.sha256(repr(list(python_docs())).encode()).hexdigest(), python_docs_fingerprint())\n"
        "assert 'keras' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    environment = {"LC_ALL": "C", "PYTHONHASHSEED": "7", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, str(package)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    text_hash = hashlib.sha256(repr(documents).encode()).hexdigest()
    assert result.stdout.split() == [text_hash, python_docs_fingerprint()]


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="keras is not installed"):
        list(module._sources())
