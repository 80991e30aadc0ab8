"""Saving of tokenizers in the form that `transformers` loads."""

import json
import os
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kerasllm.errors import InputError
from kerasllm.files.atomic import replace_file
from kerasllm.files.json import write_json
from kerasllm.tokenizers.loading import SETTINGS_FILE
from kerasllm.tokenizers.special_tokens import known_roles, marks
from kerasllm.tokenizers.wordpiece import SPECIAL_TOKENS


def save_tokenizer(
    tokenizer: Tokenizer,
    directory: str | os.PathLike[str],
    *,
    max_length: int | None = None,
    chat_template: str | None = None,
) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`, from which `transformers.AutoTokenizer` loads.

    Args:
        tokenizer: a tokenizer of any kind. Its special tokens are saved with their roles; if it has no
            padding token, its end mark is saved as one.
        directory: the directory, which is created if it is missing.
        max_length: the most tokens that the model takes, with special tokens; None if there is no model yet.
        chat_template: a chat template in Hugging Face's form (Jinja), or None.

    Raises:
        InputError: a file cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    description = json.loads(tokenizer.to_str())
    wordpiece = description["model"].get("type") == "WordPiece"
    settings: dict[str, Any] = {
        "tokenizer_class": "BertTokenizer" if wordpiece else "PreTrainedTokenizerFast",
        **({} if max_length is None else {"model_max_length": max_length}),
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
    path = directory / "tokenizer.json"
    try:
        replace_file(path, tokenizer.to_str(pretty=True))
        path = directory / SETTINGS_FILE
        write_json(path, settings, ensure_ascii=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}; free space or choose another place"
        ) from error


def _roles(tokenizer: Tokenizer) -> dict[str, str]:
    """Returns the special tokens that the tokenizer has, by the names of their roles."""
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    named = dict(zip(roles, SPECIAL_TOKENS, strict=True))
    known = {role: token for role, token in named.items() if tokenizer.token_to_id(token) is not None}
    found = marks(tokenizer)
    if found is None:
        return known | known_roles(tokenizer)
    end, beginning = found
    return {"bos_token": beginning, "eos_token": end, "pad_token": end} | known | known_roles(tokenizer)
