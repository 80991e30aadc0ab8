"""The tokens that a tokenizer's post-processor adds before and after a text."""

import json

from tokenizers import Tokenizer, processors


def added_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Returns the ids that a tokenizer's post-processor adds before and after a single text."""
    processor = tokenizer.post_processor
    state = {} if processor is None else json.loads(processor.__getstate__())
    before: list[int] = []
    after: list[int] = []
    for step in state.get("processors", [state]):
        first: list[int] = []
        last: list[int] = []
        if step.get("type") == "TemplateProcessing":
            found = first
            for piece in step["single"]:
                if "Sequence" in piece:
                    found = last
                else:
                    found += step["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
        elif step.get("type") in ("BertProcessing", "RobertaProcessing"):
            first, last = [step["cls"][1]], [step["sep"][1]]
        before, after = first + before, after + last
    return before, after


def mark_processor(
    beginning: tuple[str, int] | None, end: tuple[str, int] | None
) -> processors.PostProcessor:
    """Returns a post-processor that puts a token before each text, and one after it; each is a text and its id."""
    before = f"{beginning[0]}:0 " if beginning else ""
    after = f" {end[0]}:0" if end else ""
    single = f"{before}$A:0{after}"
    pair = single + (f" {beginning[0]}:1" if beginning else "") + " $B:1" + (f" {end[0]}:1" if end else "")
    tokens = list(dict.fromkeys(mark for mark in (beginning, end) if mark))
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)
