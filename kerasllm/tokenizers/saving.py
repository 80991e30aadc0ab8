"""Saving of tokenizers in the form that `transformers` loads."""

import json
import os
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kerasllm.errors import InputError
from kerasllm.files.atomic import replace_file
from kerasllm.files.json import write_json
from kerasllm.tokenizers.parallel import target_tokenizer
from kerasllm.tokenizers.settings import SETTINGS_FILE
from kerasllm.tokenizers.special_tokens import known_templates, saved_roles

TARGET_FILE = "target_tokenizer.json"


def save_tokenizer(
    tokenizer: Tokenizer,
    directory: str | os.PathLike[str],
    *,
    max_length: int | None = None,
    chat_template: str | None = None,
) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`, from which `transformers.AutoTokenizer` loads.

    A tokenizer of an encoder-decoder's targets that is not that of its sources is `target_tokenizer.json`.

    Args:
        tokenizer: a tokenizer of any kind. Its special tokens are saved with their roles; if it has no
            padding token, its end mark is saved as one.
        directory: the directory, which is created if it is missing.
        max_length: the most tokens that the model takes, with special tokens; None if there is no model yet.
        chat_template: a chat template in Hugging Face's form (Jinja); by default that which lay beside the
            tokenizer when it was loaded, if there was one.

    Raises:
        InputError: a file cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    description = json.loads(tokenizer.to_str())
    normalizer = description.get("normalizer") or {}
    # `transformers` builds a BertTokenizer anew, with BERT's own steps; of any other it takes tokenizer.json.
    is_bert = description["model"].get("type") == "WordPiece" and normalizer.get("type") == "BertNormalizer"
    is_bert &= (description.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
    settings: dict[str, Any] = {
        "tokenizer_class": "BertTokenizer" if is_bert else "PreTrainedTokenizerFast",
        **({} if max_length is None else {"model_max_length": max_length}),
        "clean_up_tokenization_spaces": False,
        **saved_roles(tokenizer),
    }
    if is_bert:
        settings["do_lower_case"] = normalizer["lowercase"]
        settings["strip_accents"] = normalizer["strip_accents"]
        settings["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
    chat_template = known_templates(tokenizer) if chat_template is None else chat_template
    if chat_template is not None:
        settings["chat_template"] = chat_template
    path = directory / "tokenizer.json"
    try:
        replace_file(path, tokenizer.to_str(pretty=True))
        of_targets = target_tokenizer(tokenizer)
        if of_targets is not tokenizer:
            path = directory / TARGET_FILE
            replace_file(path, of_targets.to_str(pretty=True))
        path = directory / SETTINGS_FILE
        write_json(path, settings, ensure_ascii=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}; free space or choose another place"
        ) from error
