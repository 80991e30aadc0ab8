"""A corpus that is part of every installation: the prose of Python's own documentation.

It consists of the docstrings of the standard library, of Keras and of NumPy, and of the reference topics of `help()`:
about two megabytes of English without a download or questions of license, the same for all backends. The sources are
parsed, not imported, so that none of their code runs.
"""

import ast
import gc
import hashlib
import importlib.util
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kerasllm.data.sources.docstrings import prose_sentences
from kerasllm.errors import InputError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STANDARD_LIBRARY, TOPICS, KERAS, NUMPY = "standard library", "topics", "keras", "numpy"

_EXCLUDED_DIRECTORIES = _words(
    "site-packages dist-packages test tests idle_test turtledemo ensurepip pydoc_data __pycache__ lib- "
    "dynload"
)
_EXCLUDED_PREFIXES = ("_sysconfigdata", "__phello__", "_generated")
_BLOCKS = ("body", "handlers", "orelse", "finalbody")  # the fields of a statement that hold statements
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Document:
    """The prose of one module's docstrings, or of one topic of `help()`.

    Args:
        name: the dotted name of the module (`collections.abc`) or of the topic (`topics.assert`).
        origin: "standard library", "topics", "keras" or "numpy".
        sentences: the sentences in the order of the source, at least one; none occurs twice in the corpus.
    """

    name: str
    origin: str
    sentences: tuple[str, ...]


def python_docs() -> Iterator[Document]:
    """Yields the documents: standard library, topics, Keras, NumPy, each in the order of their names.

    The first call in a process parses about 30 MB of source, which takes seconds; the result is cached.

    Raises:
        InputError: the sources of the topics, Keras or NumPy are not installed.
    """
    yield from _documents()


@lru_cache(maxsize=1)
def python_docs_fingerprint() -> str:
    """Returns the SHA-256 (hex) of all sources.

    They determine the text, and hashing them is much faster than extracting it.
    """
    digest = hashlib.sha256()
    for _, name, path in _sources():
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _documents() -> tuple[Document, ...]:
    collecting = gc.isenabled()
    gc.disable()  # collection would double the time, as syntax trees are many small objects without cycles
    try:
        return _extract()
    finally:
        if collecting:
            gc.enable()


def _extract() -> tuple[Document, ...]:
    seen: set[str] = set()
    documents = []
    for origin, name, path in _sources():
        tree = _parse(path)
        texts = _topics(tree) if origin == TOPICS else [(name, text) for text in _docstrings(tree)]
        by_name: dict[str, list[str]] = {}
        for document_name, text in texts:
            kept = by_name.setdefault(document_name, [])
            for sentence in prose_sentences(text):
                key = "".join(filter(str.isalnum, sentence.lower()))
                if key not in seen:
                    seen.add(key)
                    kept.append(sentence)
        documents += [Document(key, origin, tuple(kept)) for key, kept in by_name.items() if kept]
    return tuple(documents)


def _sources() -> Iterator[tuple[str, str, Path]]:
    """Yields origin, dotted module name and path of each source file."""
    library = Path(sysconfig.get_path("stdlib"))
    yield from ((STANDARD_LIBRARY, name, path) for name, path in _modules(library, ""))
    topics = library / "pydoc_data" / "topics.py"
    if not topics.is_file():
        raise InputError(
            f"python-docs: {topics} is not there: this Python came without its documentation's sources"
        )
    yield TOPICS, "topics", topics
    for package in (KERAS, NUMPY):
        found = importlib.util.find_spec(package)  # of a top-level package: finds it, loads nothing
        if found is None or found.origin is None:
            raise InputError(f"python-docs: {package} is not installed; pip install {package}")
        yield from ((package, name, path) for name, path in _modules(Path(found.origin).parent, package))


def _modules(directory: Path, prefix: str) -> list[tuple[str, Path]]:
    """Returns dotted names and paths of all modules below a directory, sorted by name."""
    found = []
    pending = [(directory, prefix)]
    while pending:
        folder, package = pending.pop()
        for entry in folder.iterdir():
            dotted = f"{package}.{entry.stem}" if package else entry.stem
            if not entry.stem.isidentifier() or entry.name in _EXCLUDED_DIRECTORIES:
                continue
            if entry.suffix == ".py" and not entry.stem.startswith(_EXCLUDED_PREFIXES):
                found.append((package if entry.stem == "__init__" else dotted, entry))
            elif entry.suffix == "" and entry.is_dir():
                pending.append((entry, dotted))
    return sorted((name, path) for name, path in found if not name.endswith(("_test", "_tests")))


def _parse(path: Path) -> ast.Module:
    """Returns the syntax tree of a source file, or an empty one if this Python cannot parse the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SyntaxWarning for invalid escapes
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return ast.Module(body=[], type_ignores=[])


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Yields all docstrings in a tree in the order of the source, with those that NumPy adds by function calls."""
    if isinstance(node, _Documented):
        text = ast.get_docstring(node)
        if text:
            yield text
    for child in (child for block in _BLOCKS for child in getattr(node, block, ())):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            function = child.value.func
            if isinstance(function, ast.Name) and function.id in ("add_newdoc", "add_newdoc_for_scalar_type"):
                yield from _strings(child.value)
        elif hasattr(child, "body"):
            yield from _docstrings(child)


def _strings(call: ast.Call) -> Iterator[str]:
    """Yields the docstrings among a call's arguments, which are all strings with a space."""
    for node in ast.walk(call):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield inspect.cleandoc(node.value)


def _topics(tree: ast.Module) -> list[tuple[str, str]]:
    """Returns the names and texts of pydoc's topics, from the only dictionary in its module."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            topics = ast.literal_eval(statement.value)
            return [(f"topics.{name}", topics[name]) for name in sorted(topics)]
    return []
