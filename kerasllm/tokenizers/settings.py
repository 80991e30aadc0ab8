"""The settings beside a tokenizer.json, which change its tokens as they do in `transformers.AutoTokenizer`.

`transformers` builds some tokenizers anew from their vocabulary and tokenizer_config.json, whatever tokenizer.json
says. If the two files contradict each other, the settings hold here too, and a warning says so. `add_bos_token` and
`add_eos_token` are not heeded beside a tokenizer.json, there as here: its post-processor adds the tokens.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from kerasllm.errors import InputError, InputWarning
from kerasllm.tokenizers.special_tokens import ROLES, token_text

SETTINGS_FILE = "tokenizer_config.json"
_BERT = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer")
_TRAITS = ("special", "lstrip", "rstrip", "single_word", "normalized")
_BERT_SETTINGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
_OF_MODEL = {"bert": "BertTokenizer", "distilbert": "BertTokenizer", "gpt2": "GPT2Tokenizer"}
_DEFAULT_MARKS = {
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "MarianTokenizer": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}


def read_settings(directory: Path) -> dict[str, Any]:
    """Returns the content of `tokenizer_config.json` in a directory, or {} if there is none.

    The special tokens of `special_tokens_map.json`, which older models have beside it, and the name of the class that
    the model's config.json implies are added.

    Raises:
        InputError: a file is no JSON object.
    """
    settings = _read_object(directory / SETTINGS_FILE)
    if "added_tokens_decoder" not in settings:
        settings |= _read_object(directory / "special_tokens_map.json")
    if settings.get("tokenizer_class") is None:
        model = _read_object(directory / "config.json")
        named = model.get("tokenizer_class") or _OF_MODEL.get(str(model.get("model_type")))
        settings |= {"tokenizer_class": named} if named else {}
    for role, token in _DEFAULT_MARKS.get(_class_name(settings), {}).items():
        settings.setdefault(role, token)
    return settings


def check_bert_settings(settings: Mapping[str, Any]) -> None:
    """Checks the settings of BERT's normalization.

    Raises:
        InputError: one of them is neither a boolean nor null.
    """
    for name in _BERT_SETTINGS:
        if not isinstance(settings.get(name), bool | None):
            raise InputError(f"{SETTINGS_FILE}: {name} is {settings[name]!r}, it must be true or false")


def bert_normalizer(settings: Mapping[str, Any]) -> normalizers.Normalizer:
    """Returns BERT's normalization with `do_lower_case`, `strip_accents` and `tokenize_chinese_chars`."""
    lowercase, chinese = settings.get("do_lower_case"), settings.get("tokenize_chinese_chars")
    return normalizers.BertNormalizer(
        lowercase=True if lowercase is None else lowercase,
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=True if chinese is None else chinese,
    )


def register_special_tokens(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Registers the tokens that the settings list or name, so that they are recognized within a text.

    They keep their ids. A token that has no id is added if the settings give it the next one; others are ignored, as
    no model has an embedding for them.

    Args:
        tokenizer: the tokenizer.
        settings: the settings, as `read_settings` returns them.
    """
    registered = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for number, token in _listed_tokens(settings):
        known = tokenizer.token_to_id(token["content"])
        if token["content"] not in registered and number == (
            tokenizer.get_vocab_size() if known is None else known
        ):
            traits = {name: bool(token[name]) for name in _TRAITS if name in token}
            tokenizer.add_tokens([AddedToken(token["content"], **traits)])
            registered.add(token["content"])
    named = [token_text(settings.get(role)) for role in ROLES]
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or ()
    named += map(token_text, extra.values() if isinstance(extra, dict) else extra)
    tokenizer.add_special_tokens(
        [
            token
            for token in dict.fromkeys(named)
            if isinstance(token, str) and token not in registered and tokenizer.token_to_id(token) is not None
        ]
    )


def warn_of_unknown_marks(tokenizer: Tokenizer, settings: Mapping[str, Any], path: Path) -> None:
    """Warns of special tokens that the settings name and the vocabulary lacks, which therefore have no role.

    Args:
        tokenizer: the tokenizer.
        settings: the settings, as `read_settings` returns them.
        path: the tokenizer's file, for the warning.
    """
    implied = _DEFAULT_MARKS.get(_class_name(settings), {})
    for role in ROLES:
        token = token_text(settings.get(role))
        if token and token != implied.get(role) and tokenizer.token_to_id(str(token)) is None:
            warnings.warn(
                f"{path.parent / SETTINGS_FILE}: {role} is {token!r}, which is not in the vocabulary: left out, as no "
                "model has an embedding for it",
                InputWarning,
                stacklevel=4,
            )


def _listed_tokens(settings: Mapping[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Returns the ids and tokens of `added_tokens_decoder` by id; other entries are left out."""
    listed = settings.get("added_tokens_decoder")
    return sorted(
        (
            (int(number), token)
            for number, token in (listed.items() if isinstance(listed, dict) else ())
            if number.isdecimal() and isinstance(token, dict) and isinstance(token.get("content"), str)
        ),
        key=lambda pair: pair[0],
    )


def apply_settings(tokenizer: Tokenizer, settings: Mapping[str, Any], path: Path) -> None:
    """Changes a tokenizer that was read from a `tokenizer.json` as `AutoTokenizer` does.

    Args:
        tokenizer: the tokenizer.
        settings: the settings, as `read_settings` returns them.
        path: the path of the `tokenizer.json`, for the warning.

    Raises:
        InputError: a setting is invalid.
    """
    tokenizer.no_truncation()  # a text is encoded whole, whatever the file was saved with
    tokenizer.no_padding()
    for words in _changes(tokenizer, settings):
        warnings.warn(
            f"{path}: {SETTINGS_FILE} beside it says otherwise, and holds, as in transformers: {words}; "
            "make the two agree",
            InputWarning,
            stacklevel=5,
        )


def _changes(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> Iterator[str]:
    """Makes each change, and yields what was changed in words."""
    name, model = _class_name(settings), tokenizer.model
    if name in _BERT and isinstance(model, models.WordPiece):
        check_bert_settings(settings)
        wanted = bert_normalizer(settings)
        if _bert_state(tokenizer.normalizer) != _bert_state(wanted):
            tokenizer.normalizer = wanted
            yield ", ".join(f"{key} {_shown(settings, key)}" for key in _BERT_SETTINGS)
        if _state(tokenizer.pre_tokenizer) != _state(pre_tokenizers.BertPreTokenizer()):
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            yield f"tokenizer_class {name}, which splits words at white space and punctuation"
        return
    if name == "GPT2Tokenizer" and isinstance(model, models.BPE):
        space = bool(settings.get("add_prefix_space"))
        if tokenizer.normalizer is not None or not _splits_like_gpt2(tokenizer.pre_tokenizer, space):
            tokenizer.normalizer = None
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=True)
            yield f"tokenizer_class {name}, add_prefix_space {space}"
    elif name == "LlamaTokenizer" and isinstance(model, models.BPE) and not _is_byte_level(tokenizer):
        scheme = "always" if settings.get("legacy") else "first"
        scheme = "never" if settings.get("add_prefix_space") is False else scheme
        splitting = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
        if tokenizer.normalizer is not None or _state(tokenizer.pre_tokenizer) != _state(splitting):
            tokenizer.normalizer, tokenizer.pre_tokenizer = None, splitting
            yield f"tokenizer_class {name}, a space before {_SCHEMES[scheme]}"


_SCHEMES = {
    "always": "the text and after each special token",
    "first": "the text alone",
    "never": "nothing",
}


def _class_name(settings: Mapping[str, Any]) -> str:
    return str(settings.get("tokenizer_class")).removesuffix("Fast")


def _shown(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    default = "null, as accents go with case" if name == "strip_accents" else "true, as it is not given"
    return default if value is None else str(value).lower()


def _state(part: Any) -> Any:
    """Returns the JSON of a part of a tokenizer, or None."""
    return None if part is None else json.loads(part.__getstate__())


def _bert_state(normalizer: Any) -> Any:
    """Returns a normalizer's JSON in which BERT's accents are decided, as null means that they go with case."""
    state = _state(normalizer)
    if state is not None and state.get("type") == "BertNormalizer" and state["strip_accents"] is None:
        state["strip_accents"] = state["lowercase"]
    return state


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    state = _state(tokenizer.pre_tokenizer) or {}
    return any(step.get("type") == "ByteLevel" for step in state.get("pretokenizers", [state]))


def _splits_like_gpt2(splitting: Any, add_prefix_space: bool) -> bool:
    state = _state(splitting) or {}
    wanted = {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "use_regex": True}
    return {"use_regex": True} | {key: state.get(key) for key in wanted if key in state} == wanted


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds {type(settings).__name__}, not a JSON object of settings")
    return settings
