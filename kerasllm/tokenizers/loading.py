"""Tokenizers of any kind: read, written so that `transformers` reads them, and asked for their ids."""

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kerasllm.errors import InputError
from kerasllm.tokenizers.byte_level_bpe import read_byte_level_bpe
from kerasllm.tokenizers.chat_template import DEFAULT_CHAT_TEMPLATE
from kerasllm.tokenizers.known_characters import Coverage, unknown_character
from kerasllm.tokenizers.special_tokens import end_of_text_id, known_roles, marks, remember_roles
from kerasllm.tokenizers.wordpiece import SPECIAL_TOKENS, bert_tokenizer, read_vocabulary, special_token_ids

__all__ = [
    "check_vocabulary",
    "encode",
    "end_of_text_id",
    "find_chat_template",
    "load_tokenizer",
    "load_wordpiece",
    "read_chat_template",
    "save_tokenizer",
    "vocabulary_size",
]

_SETTINGS = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
_LARGEST_VOCABULARY = 2**24
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_VOCABULARY, _MERGES = "vocab.json", "merges.txt"


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        path: a `tokenizer.json`; a `vocab.txt` (WordPiece, one piece a line); a `vocab.json` or `merges.txt`
            (byte-level BPE) beside the other one; or a directory that holds one of these, or whose `model/`
            does (a run). A `tokenizer_config.json` beside it names the special tokens, and sets the options of
            all but the first.

    Raises:
        InputError: nothing there, or not a tokenizer.
    """
    return _load(_find(Path(path)))


def load_wordpiece(path: str | os.PathLike[str]) -> Tokenizer:
    """Loads a tokenizer that has BERT's special tokens.

    Args:
        path: as for `load_tokenizer`.

    Raises:
        InputError: as `load_tokenizer`, or a special token is missing.
    """
    found = _find(Path(path))
    tokenizer = _load(found)
    try:
        special_token_ids(tokenizer)
    except InputError as error:
        raise InputError(f"{found}: {error}") from error
    return tokenizer


def save_tokenizer(
    tokenizer: Tokenizer,
    directory: str | os.PathLike[str],
    *,
    max_length: int,
    chat_template: str | None = None,
) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`, from which `transformers.AutoTokenizer` loads.

    Args:
        tokenizer: of any kind. Special tokens are named by their roles: BERT's, or the mark at the end of a
            text, which also pads.
        directory: made if it is missing.
        max_length: tokens that the model takes, special tokens included.
        chat_template: Jinja that writes a conversation out, in Hugging Face's form.

    Raises:
        InputError: the disk is full.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    description = json.loads(tokenizer.to_str())
    wordpiece = description["model"].get("type") == "WordPiece"
    settings: dict[str, Any] = {
        "tokenizer_class": "BertTokenizer" if wordpiece else "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **_roles(tokenizer),
    }
    normalizer = description.get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        settings["do_lower_case"] = normalizer["lowercase"]
        settings["strip_accents"] = normalizer["strip_accents"]
        settings["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
    if chat_template is not None:
        settings["chat_template"] = chat_template
    _write(directory / "tokenizer.json", tokenizer.to_str(pretty=True))
    _write(directory / _SETTINGS, json.dumps(settings, indent=2) + "\n")


def read_chat_template(path: str | os.PathLike[str]) -> str | None:
    """The chat template beside a tokenizer; None where there is none.

    Args:
        path: as for `load_tokenizer`; the template is in `chat_template.jinja` or `tokenizer_config.json`.

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
    template = _read_settings(directory / _SETTINGS).get("chat_template")
    if isinstance(template, list):  # several, each with its name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise InputError(
            f"{directory / _SETTINGS}: chat_template is {type(template).__name__}, not text; it is one string"
        )
    return template


def find_chat_template(file: str | None, directory: Path) -> tuple[str, str]:
    """Returns a chat template and, for messages, where it is from: the file's, else the model's, else a plain one.

    Args:
        file: what `--chat_template` names, if anything.
        directory: of the model.

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


def check_vocabulary(tokenizer: Tokenizer, model_size: int, place: Any) -> None:
    """Refuses a tokenizer whose greatest id the model has no embedding for.

    Args:
        tokenizer: of any kind.
        model_size: tokens of the model.
        place: the model's directory, for the message.

    Raises:
        InputError: they do not belong together.
    """
    size = vocabulary_size(tokenizer)
    if size > model_size:
        raise InputError(
            f"{place}: the tokenizer has {size} tokens, the model {model_size}: they do not belong together; "
            "copy the model anew"
        )


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the greatest id, which is what a model's table needs: ids may have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def encode(tokenizer: Tokenizer, text: str, place: str = "", *, special_tokens: bool = False) -> list[int]:
    """The ids of a text, without any that the tokenizer would add.

    Args:
        tokenizer: is not changed.
        text: any.
        place: where the text is from, for messages: "prompts.txt:3".
        special_tokens: whether "<|endoftext|>" and the like in the text are tokens, not plain text.

    Raises:
        InputError: the tokenizer does not know a character, or is damaged.
    """
    half = _HALF_PAIR.search(text)
    if half is not None:
        raise InputError(
            f"{place or 'text'}: holds half of a surrogate pair (U+{ord(half[0]):04X}), which is no character; "
            "take it out"
        )
    unknown = _coverage(tokenizer, tokenizer.get_vocab_size()).first_unknown(
        text, skip_special=special_tokens
    )
    if unknown is not None:
        raise unknown_character(text[unknown], place)
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = not special_tokens
    try:  # it raises where there is no [UNK]
        with _refusing(f"{place or 'text'}: cannot be tokenized"):
            return tokenizer.encode(text, add_special_tokens=False).ids
    finally:
        tokenizer.encode_special_tokens = before


@lru_cache(maxsize=4)
def _coverage(tokenizer: Tokenizer, size: int) -> Coverage:
    """Kept, as GPT-2's takes half a second to make; tokenizers are told apart by identity, and by their size."""
    return Coverage(json.loads(tokenizer.to_str()))


def _find(path: Path) -> Path:
    """The file that a path stands for."""
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
    """The vocab.json of a merges.txt and the other way round; both names may have the same beginning."""
    mine, other = (_MERGES, _VOCABULARY) if path.name.endswith(_MERGES) else (_VOCABULARY, _MERGES)
    return path.with_name(path.name.removesuffix(mine) + other)


def _load(path: Path) -> Tokenizer:
    tokenizer = _read(path)
    remember_roles(tokenizer, _read_settings(path.with_name(_SETTINGS)))
    greatest = vocabulary_size(tokenizer) - 1
    if greatest >= _LARGEST_VOCABULARY:  # the library writes a vocabulary out from 0 to there, gaps and all
        raise InputError(f"{path}: the greatest id is {greatest}: no vocabulary is as large as that")
    return tokenizer


def _read(path: Path) -> Tokenizer:
    settings = path.with_name(_SETTINGS)
    if path.name.endswith((_MERGES, _VOCABULARY)):
        partner = _partner(path)
        if not partner.is_file():
            raise InputError(f"{path}: {partner.name} is not beside it; byte-level BPE needs both files")
        merges, vocabulary = (path, partner) if path.name.endswith(_MERGES) else (partner, path)
        return read_byte_level_bpe(vocabulary, merges, _read_settings(settings))
    if path.suffix == ".txt":
        return bert_tokenizer(read_vocabulary(path), _read_settings(settings))
    with _refusing(f"{path}: not a tokenizer of the tokenizers library"):
        text = path.read_text(encoding="utf-8")
        _check_merges(path, text)
        return Tokenizer.from_str(text)


def _check_merges(path: Path, text: str) -> None:
    """Refuses merges from which the library would cut a prefix that is not there, in the middle of a letter.

    It would end the whole process then, without an exception.
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


@contextmanager
def _refusing(words: str) -> Iterator[None]:
    """What the library raises, as our own error: bare Exceptions, and Rust's panics, which are not even those."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, InputError):
            raise
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise InputError(f"{words}: {error}") from error
        raise


def _roles(tokenizer: Tokenizer) -> dict[str, str]:
    """The special tokens by the names of their roles, as far as the tokenizer has them."""
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    named = dict(zip(roles, SPECIAL_TOKENS, strict=True))
    known = {role: token for role, token in named.items() if tokenizer.token_to_id(token) is not None}
    found = marks(tokenizer)
    if found is None:
        return known | known_roles(tokenizer)
    end, beginning = found
    return {"bos_token": beginning, "eos_token": end, "pad_token": end} | known | known_roles(tokenizer)


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


def _write(path: Path, content: str) -> None:
    """Replaces a file by a whole one, or leaves it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}; free space or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
