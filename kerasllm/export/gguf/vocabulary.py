"""A byte-level BPE tokenizer in GGUF."""

from __future__ import annotations

import json
from typing import Any

import gguf

from kerasllm.errors import InputError
from kerasllm.models import GPTConfig
from kerasllm.tokenizers.added_tokens import added_ids
from kerasllm.tokenizers.special_tokens import known_templates, marks

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    rf"{_LETTERS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    rf"{_LETTERS}|\p{{N}}|{_REST}": "qwen2",
}
"""llama.cpp's names of the rules by which texts are split into words."""


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Any, config: GPTConfig) -> None:
    """Adds the tokens, merges and special tokens.

    Args:
        writer: the file under construction.
        tokenizer: a byte-level BPE tokenizer.
        config: the model's config.

    Raises:
        InputError: the tokenizer is of another kind, splits words in a way that has no name in llama.cpp, or has no end
            token.
    """
    description = json.loads(tokenizer.to_str())
    model = description["model"]
    rule = _splitting(description)
    tokens = [f"[PAD{index}]" for index in range(config.vocabulary_size)]
    types = [gguf.TokenType.UNUSED] * config.vocabulary_size
    for token, index in model["vocab"].items():
        tokens[index], types[index] = token, gguf.TokenType.NORMAL
    for added in description.get("added_tokens") or ():
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], kind
    named = marks(tokenizer)
    end = config.end_token_id
    if end is None and named is not None:
        end = tokenizer.token_to_id(named[0])
    if end is None or end >= config.vocabulary_size:
        raise InputError(
            "the model has no end token, and llama.cpp takes token 11 for it: give the tokenizer one"
        )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    beginning, _ = added_ids(tokenizer)
    begin = beginning[0] if beginning else config.begin_token_id
    writer.add_bos_token_id(end if begin is None or begin >= config.vocabulary_size else begin)
    writer.add_add_bos_token(bool(beginning))
    writer.add_eos_token_id(end)
    if config.more_end_token_ids:
        writer.add_eot_token_id(config.more_end_token_ids[0])
    if config.pad_token_id is not None and 0 <= config.pad_token_id < config.vocabulary_size:
        writer.add_pad_token_id(config.pad_token_id)
    template = known_templates(tokenizer)
    if template:
        writer.add_chat_template(template)


def _splitting(description: dict[str, Any]) -> str:
    """Returns llama.cpp's name of the rule by which a tokenizer splits texts into words.

    Raises:
        InputError: it has none.
    """
    model = description["model"]
    split = description.get("pre_tokenizer") or {}
    steps = split.get("pretokenizers", [split])
    kinds = [step.get("type") for step in steps]
    if model.get("type") != "BPE" or kinds[-1:] != ["ByteLevel"] or not model.get("merges"):
        raise InputError(
            "the tokenizer is no byte-level BPE with merges, which alone can be written to GGUF: train the model with "
            "--tokenizer bpe"
        )
    normalizer = (description.get("normalizer") or {}).get("type")
    found = None
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        found = "gpt-2"
    elif kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        found = "smollm"
    elif kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        found = _SPLITS.get((steps[0].get("pattern") or {}).get("Regex", ""))
    allowed = ("NFC", None) if found == "qwen2" else (None,)
    if found is None or normalizer not in allowed or steps[-1].get("add_prefix_space"):
        raise InputError(
            "the tokenizer prepares texts in a way that has no name in llama.cpp: GPT-2's, Llama 3's, Qwen 2's and "
            "SmolLM's have"
        )
    return found
