"""Prepares the input as Hugging Face's examples do: by `datasets`' map, `transformers`' collators, PyTorch's loader."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from clocks import Stages

LOADING = "torch.utils.data"  # loaded by name, since only `kerasllm.backend` imports torch
SHORT = 0.1
"""Share of the pairs that are made shorter than a row."""
MASKED = 0.15
"""Share of the tokens that are masked."""

Rows = dict[str, list[Any]]


def by_datasets(
    shape: dict[str, Any], text: Path, tokenizer_file: Path, cache: str
) -> tuple[Stages, dict[str, str]]:
    """Makes tokens, then BERT's pairs or a GPT's blocks of a text by `map`, and then batches.

    Returns:
        The clock of the stages, and the versions of the libraries.
    """
    datasets, transformers = importlib.import_module("datasets"), importlib.import_module("transformers")
    loading = importlib.import_module(LOADING)  # before the clock starts, as it takes a second
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()  # it warns of texts longer than a row
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tokenizer_file.parent)
    length, settings = shape["length"], {"batched": True, "num_proc": shape["processes"]}
    if shape["kind"] == "pairs":
        reading: dict[str, Any] = {"sample_by": "paragraph"}
        maps = {"tokenize": partial(tokenize_sentences, tokenizer), "pairs": partial(pair, tokenizer, length)}
        collate = transformers.DataCollatorForLanguageModeling(
            tokenizer, mlm_probability=MASKED, pad_to_multiple_of=length
        )
    else:
        reading = {"keep_linebreaks": True}
        maps = {"tokenize": partial(tokenize_lines, tokenizer), "blocks": partial(group, length)}
        collate = transformers.default_data_collator
    stages = Stages()
    data = datasets.load_dataset("text", data_files=str(text), split="train", cache_dir=cache, **reading)
    stages.end("load")
    for stage, function in maps.items():
        data = data.map(function, remove_columns=data.column_names, **settings)
        stages.end(stage)
    loader = loading.DataLoader(
        data,
        batch_size=shape["batch_size"],
        shuffle=True,
        drop_last=True,
        collate_fn=collate,
        num_workers=shape["processes"],
    )
    batches = ({name: value.numpy() for name, value in batch.items()} for batch in loader)
    stages.count(batch["attention_mask"] for batch in batches)
    return stages, {module.__name__: module.__version__ for module in (datasets, transformers)}


def tokenize_lines(tokenizer: Any, rows: Rows) -> Any:
    """Tokenizes each line."""
    return tokenizer(rows["text"])


def group(length: int, rows: Rows) -> Rows:
    """Cuts the tokens of many lines into blocks, each with a copy for labels."""
    made = {}
    for name, lists in rows.items():
        flat = [number for numbers in lists for number in numbers]
        last = len(flat) // length * length
        made[name] = [flat[start : start + length] for start in range(0, last, length)]
    made["labels"] = list(made["input_ids"])
    return made


def tokenize_sentences(tokenizer: Any, rows: Rows) -> Rows:
    """Tokenizes the sentences of each document; a line counts as a sentence."""
    lines = [[line for line in document.split("\n") if line.strip()] for document in rows["text"]]
    flat = [line for document in lines for line in document]
    plain = dict.fromkeys(("add_special_tokens", "return_attention_mask", "return_token_type_ids"), False)
    ids = iter(tokenizer(flat, **plain)["input_ids"])
    return {"sentences": [[next(ids) for _ in document] for document in lines]}


def pair(tokenizer: Any, length: int, rows: Rows) -> Rows:
    """Makes rows of two segments from documents of token ids."""
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    made: Rows = {}
    documents = [[ids for ids in document if ids] for document in rows["sentences"]]
    documents = [document for document in documents if document]
    for number in range(len(documents)):
        for first, second, label in document_pairs(documents, number, length - 3, random):
            row = {
                "input_ids": [cls, *first, sep, *second, sep],
                "token_type_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1),
                "special_tokens_mask": [1, *[0] * len(first), 1, *[0] * len(second), 1],
                "next_sentence_label": label,
            }
            for name, value in row.items():
                made.setdefault(name, []).append(value)
    return made


def document_pairs(
    documents: list[list[list[int]]], number: int, limit: int, draw: Any
) -> Iterator[tuple[list[int], list[int], int]]:
    """Yields segments A and B, and whether B is of another document, cut as by BERT's authors.

    Args:
        documents: the token ids of each sentence of each document.
        number: the index of the document that A is of.
        limit: maximum tokens of both segments together.
        draw: the module `random`, or a `random.Random`.
    """

    def draw_target() -> int:
        return draw.randint(2, limit) if draw.random() < SHORT else limit

    document, target = documents[number], draw_target()
    chunk: list[list[int]] = []
    length = place = 0
    while place < len(document):
        chunk.append(document[place])
        length += len(document[place])
        place += 1
        if place < len(document) and length < target:
            continue
        middle = draw.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
        first, second = (
            [token for ids in part for token in ids] for part in (chunk[:middle], chunk[middle:])
        )
        label = int(len(documents) > 1 and (len(chunk) == 1 or draw.random() < 0.5))
        if label:
            other = draw.randrange(len(documents) - 1)
            sentences = documents[other + (other >= number)]
            second = []
            for sentence in sentences[draw.randrange(len(sentences)) :]:
                second += sentence
                if len(first) + len(second) >= target:
                    break
            place -= len(chunk) - middle  # unused sentences begin the next chunk
        for _ in range(len(first) + len(second) - limit):  # cuts tokens off the longer one
            longer = first if len(first) > len(second) else second
            del longer[0 if draw.random() < 0.5 else -1]
        if first and second:
            yield first, second, label
        chunk, length, target = [], 0, draw_target()
