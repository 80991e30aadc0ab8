"""Loading of tokenizers of any kind, and of their chat templates, from files."""

import json
import os
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kerasllm.errors import InputError
from kerasllm.tokenizers.byte_level_bpe import read_byte_level_bpe
from kerasllm.tokenizers.chat_template import DEFAULT_CHAT_TEMPLATE
from kerasllm.tokenizers.encoding import refusing, vocabulary_size
from kerasllm.tokenizers.special_tokens import remember_length, remember_roles
from kerasllm.tokenizers.wordpiece import bert_tokenizer, read_vocabulary, special_token_ids

SETTINGS_FILE = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
_LARGEST_VOCABULARY = 2**24
_VOCABULARY, _MERGES = "vocab.json", "merges.txt"


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        path: a `tokenizer.json`; a `vocab.txt` (WordPiece, one piece a line); a `vocab.json` or `merges.txt`
            (byte-level BPE) beside the other one; or a directory that holds one of these, or whose `model/`
            does (a run). A `tokenizer_config.json` beside the file names the special tokens, and for all but
            `tokenizer.json` also sets the options.

    Raises:
        InputError: there is no tokenizer, or it cannot be read.
    """
    return _load(_find(Path(path)))


def load_wordpiece(path: str | os.PathLike[str]) -> Tokenizer:
    """Loads a tokenizer that has BERT's special tokens.

    Args:
        path: a file or directory, as `load_tokenizer` takes it.

    Raises:
        InputError: the tokenizer cannot be loaded, or lacks a special token.
    """
    found = _find(Path(path))
    tokenizer = _load(found)
    try:
        special_token_ids(tokenizer)
    except InputError as error:
        raise InputError(f"{found}: {error}") from error
    return tokenizer


def read_chat_template(path: str | os.PathLike[str]) -> str | None:
    """Returns the chat template beside a tokenizer, or None if there is none.

    Args:
        path: the tokenizer, as for `load_tokenizer`; beside it the template is in `chat_template.jinja` or
            `tokenizer_config.json`.

    Raises:
        InputError: there is no tokenizer, or the settings are damaged.
    """
    directory = _find(Path(path)).parent
    file = directory / _TEMPLATE
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{file}: not UTF-8 at byte {error.start}; convert it with iconv -t UTF-8"
            ) from error
    template = _read_settings(directory / SETTINGS_FILE).get("chat_template")
    if isinstance(template, list):  # several templates, each with a name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise InputError(
            f"{directory / SETTINGS_FILE}: chat_template is {type(template).__name__}, not text; it is one string"
        )
    return template


def find_chat_template(file: str | None, directory: Path) -> tuple[str, str]:
    """Returns a chat template and, for messages, its place: the given file, else the model, else the default.

    Args:
        file: the file that `--chat_template` names, or None.
        directory: the model's directory.

    Raises:
        InputError: the file cannot be read, or the model's settings are damaged.
    """
    if file is None:
        found = read_chat_template(directory)
        return (found, str(directory)) if found else (DEFAULT_CHAT_TEMPLATE, "")
    try:
        return Path(file).read_text(encoding="utf-8"), file
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--chat_template {file}: cannot be read ({error})") from error


def _find(path: Path) -> Path:
    """Returns the tokenizer's file for a path, which may be a directory."""
    if path.is_dir():
        found = next((file for place in (path, path / "model") if (file := _file_in(place))), None)
        if found is None:
            raise InputError(
                f"{path}: holds neither tokenizer.json nor vocab.txt nor vocab.json and merges.txt; "
                "give a tokenizer's directory"
            )
        return found
    if not path.is_file():
        raise InputError(
            f"{path}: no such tokenizer; give a tokenizer.json, a vocab.txt, a vocab.json beside its merges.txt, "
            "or a directory with one"
        )
    return path


def _file_in(directory: Path) -> Path | None:
    for name in ("tokenizer.json", "vocab.txt"):
        if (directory / name).is_file():
            return directory / name
    pairs = [file for file in sorted(directory.glob(f"*{_MERGES}")) if _partner(file).is_file()]
    return next((file for file in pairs if file.name == _MERGES), pairs[0] if pairs else None)


def _partner(path: Path) -> Path:
    """Returns the vocab.json of a merges.txt, or vice versa; both names may have a common prefix."""
    mine, other = (_MERGES, _VOCABULARY) if path.name.endswith(_MERGES) else (_VOCABULARY, _MERGES)
    return path.with_name(path.name.removesuffix(mine) + other)


def _load(path: Path) -> Tokenizer:
    tokenizer = _read(path)
    settings = _read_settings(path.with_name(SETTINGS_FILE))
    remember_roles(tokenizer, settings)
    remember_length(tokenizer, settings)
    greatest = vocabulary_size(tokenizer) - 1
    if greatest >= _LARGEST_VOCABULARY:  # the library allocates all ids up to the greatest, also unused ones
        raise InputError(f"{path}: the greatest id is {greatest}: no vocabulary is as large as that")
    return tokenizer


def _read(path: Path) -> Tokenizer:
    settings = path.with_name(SETTINGS_FILE)
    if path.name.endswith((_MERGES, _VOCABULARY)):
        partner = _partner(path)
        if not partner.is_file():
            raise InputError(f"{path}: {partner.name} is not beside it; byte-level BPE needs both files")
        merges, vocabulary = (path, partner) if path.name.endswith(_MERGES) else (partner, path)
        return read_byte_level_bpe(vocabulary, merges, _read_settings(settings))
    if path.suffix == ".txt":
        return bert_tokenizer(read_vocabulary(path), _read_settings(settings))
    with refusing(f"{path}: not a tokenizer of the tokenizers library"):
        text = path.read_text(encoding="utf-8")
        _check_merges(path, text)
        return Tokenizer.from_str(text)


def _check_merges(path: Path, text: str) -> None:
    """Refuses merges that lack the continuing-subword prefix, which the library removes without looking.

    If that cut a character in two, the library would end the process without an exception.
    """
    model = json.loads(text)["model"]
    prefix = model.get("continuing_subword_prefix")
    if model.get("type") == "WordPiece" or not prefix:
        return
    for merge in model.get("merges") or ():
        second = (merge.split(" ") if isinstance(merge, str) else merge)[-1]
        if not (prefix.isascii() and second.startswith(prefix)):
            raise InputError(
                f"{path}: the merge {merge!r} does not fit the continuing_subword_prefix {prefix!r}: "
                "its second part must begin with it"
            )


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds {type(settings).__name__}, not a JSON object of settings")
    return settings
