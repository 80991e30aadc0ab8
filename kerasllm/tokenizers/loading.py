"""Loading of tokenizers of any kind, and of their chat templates, from files."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kerasllm.errors import InputError
from kerasllm.tokenizers.byte_level_bpe import read_byte_level_bpe
from kerasllm.tokenizers.chat_template import DEFAULT_CHAT_TEMPLATE
from kerasllm.tokenizers.encoding import refusing, vocabulary_size
from kerasllm.tokenizers.marian import VOCABULARY as MARIAN_VOCABULARY
from kerasllm.tokenizers.marian import has_marian_tokenizer, read_marian
from kerasllm.tokenizers.parallel import remember_target_tokenizer
from kerasllm.tokenizers.saving import TARGET_FILE
from kerasllm.tokenizers.settings import (
    SETTINGS_FILE,
    apply_settings,
    read_settings,
    register_special_tokens,
    warn_of_unknown_marks,
)
from kerasllm.tokenizers.special_tokens import remember_length, remember_roles, remember_templates
from kerasllm.tokenizers.wordpiece import bert_tokenizer, read_vocabulary, special_token_ids

_TEMPLATE, _OTHER_TEMPLATES = "chat_template.jinja", "additional_chat_templates"
_LARGEST_VOCABULARY = 2**24
_VOCABULARY, _MERGES = "vocab.json", "merges.txt"


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        path: a `tokenizer.json`; a `vocab.txt` (WordPiece, one piece a line); a `vocab.json` or `merges.txt`
            (byte-level BPE) beside the other one; or a directory that holds one of these, or whose `model/`
            does (a run). A directory with `source.spm`, `target.spm` and `vocab.json` is a Marian model's; reading it
            needs the extra `sentencepiece`. A `tokenizer_config.json` beside the file names the special tokens and
            sets the options, as in `transformers`; if it contradicts `tokenizer.json`, an `InputWarning` says so. The
            chat template beside the file is saved again with the tokenizer.

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
    return _load(_find(Path(path)), needed=special_token_ids)


def read_chat_template(path: str | os.PathLike[str]) -> str | None:
    """Returns the chat template beside a tokenizer, or None if there is none.

    Args:
        path: the tokenizer, as for `load_tokenizer`; beside it the template is in `chat_template.jinja` or
            `tokenizer_config.json`.

    Raises:
        InputError: there is no tokenizer, or the settings are damaged.
    """
    directory = _find(Path(path)).parent
    templates = _read_templates(directory)
    if templates is None or isinstance(templates, str):
        return templates
    named = {entry["name"]: entry["template"] for entry in templates}
    if "default" not in named:
        raise InputError(
            f"{directory}: has the chat templates {', '.join(sorted(named))}, and none of the name 'default'; "
            "choose one with --chat_template FILE"
        )
    return named["default"]


def _read_templates(directory: Path) -> str | list[dict[str, str]] | None:
    """Returns the chat template in a directory, a list if there are several with a name each, or None."""
    template = _read_template(directory)
    others = sorted((directory / _OTHER_TEMPLATES).glob("*.jinja"))
    if not others or isinstance(template, list):
        return template
    named = {"default": template} if template else {}
    named |= {file.stem: _read_text(file) for file in others}
    return [{"name": name, "template": text} for name, text in named.items()]


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: not UTF-8 at byte {error.start}; convert it with iconv -t UTF-8"
        ) from error


def _read_template(directory: Path) -> Any:
    """Returns the chat template in its own file, else that in the settings."""
    file = directory / _TEMPLATE
    if file.is_file():
        return _read_text(file)
    template = read_settings(directory).get("chat_template")
    named = isinstance(template, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("name", "template"))
        for entry in template
    )
    if template is not None and not isinstance(template, str) and not named:
        raise InputError(
            f"{directory / SETTINGS_FILE}: chat_template is {type(template).__name__}, not text; it is one string, or "
            'a list of {"name", "template"}'
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
                f"{path}: holds neither tokenizer.json nor vocab.txt nor vocab.json and merges.txt "
                "(or source.spm and target.spm); "
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
    if has_marian_tokenizer(directory):
        return directory / MARIAN_VOCABULARY
    pairs = [file for file in sorted(directory.glob(f"*{_MERGES}")) if _partner(file).is_file()]
    return next((file for file in pairs if file.name == _MERGES), pairs[0] if pairs else None)


def _partner(path: Path) -> Path:
    """Returns the vocab.json of a merges.txt, or vice versa; both names may have a common prefix."""
    mine, other = (_MERGES, _VOCABULARY) if path.name.endswith(_MERGES) else (_VOCABULARY, _MERGES)
    return path.with_name(path.name.removesuffix(mine) + other)


def _load(path: Path, needed: Callable[[Tokenizer], object] | None = None) -> Tokenizer:
    """Reads a tokenizer and its settings; `needed` raises if it lacks a token, before any warning of one."""
    settings = read_settings(path.parent)
    tokenizer = _read(path, settings)
    register_special_tokens(tokenizer, settings)
    if needed:
        try:
            needed(tokenizer)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    warn_of_unknown_marks(tokenizer, settings, path)
    remember_roles(tokenizer, settings)
    remember_length(tokenizer, settings)
    with contextlib.suppress(InputError):  # a broken template is told where it is used
        remember_templates(tokenizer, _read_templates(path.parent))
    greatest = vocabulary_size(tokenizer) - 1
    if greatest >= _LARGEST_VOCABULARY:  # the library allocates all ids up to the greatest, also unused ones
        raise InputError(f"{path}: the greatest id is {greatest}: no vocabulary is as large as that")
    return tokenizer


def _read(path: Path, settings: dict[str, Any]) -> Tokenizer:
    if path.name == MARIAN_VOCABULARY and has_marian_tokenizer(path.parent):
        return read_marian(path.parent)
    if path.name.endswith((_MERGES, _VOCABULARY)):
        partner = _partner(path)
        if not partner.is_file():
            raise InputError(f"{path}: {partner.name} is not beside it; byte-level BPE needs both files")
        merges, vocabulary = (path, partner) if path.name.endswith(_MERGES) else (partner, path)
        return read_byte_level_bpe(vocabulary, merges, settings)
    if path.suffix == ".txt":
        return bert_tokenizer(read_vocabulary(path), settings)
    with refusing(f"{path}: not a tokenizer of the tokenizers library"):
        text = path.read_text(encoding="utf-8")
        _check_merges(path, text)
        tokenizer = Tokenizer.from_str(text)
    apply_settings(tokenizer, settings, path)
    other = path.parent / TARGET_FILE
    if path.name == "tokenizer.json" and other.is_file():
        with refusing(f"{other}: not a tokenizer of the tokenizers library"):
            remember_target_tokenizer(tokenizer, Tokenizer.from_str(other.read_text(encoding="utf-8")))
    return tokenizer


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
