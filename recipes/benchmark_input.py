"""One measurement of the benchmark: from a text file to the last batch of an epoch, in a process of its own.

python recipes/benchmark_input.py --peer kerasllm --kind pairs --directory /tmp/input ... prints a line of JSON.
`recipes/benchmark.py` runs it. `--peer datasets` is the same work as the examples of Hugging Face do it: a text
file loaded and mapped by `datasets`, collated by `transformers`, batched by PyTorch. Both start cold, with nothing
cached, and with the same tokenizer; both may use `--processes` beside the main one. `--kind pairs` are BERT's sentence
pairs, masked; `--kind windows` a GPT's.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

LOADING = "torch.utils.data"  # by its name, as only `kerasllm.backend` imports a framework
VOCABULARY = {"pairs": 8192, "windows": 16384}
SHORT = 0.1  # of the pairs are shorter than a row by intent
MASKED = 0.15


def main(options: dict[str, Any]) -> None:
    """Measures, then prints."""
    if options["peer"] == "prepare":
        prepare(Path(options["directory"]), options["text"], options["megabytes"])
        return
    text, tokenizer = prepared(options)
    measure = ours if options["peer"] == "kerasllm" else PEERS[options["kind"]]
    with tempfile.TemporaryDirectory(dir=options["directory"]) as empty:
        (clock, versions), peak = watched(lambda: measure(options, text, tokenizer, empty))
    size = text.stat().st_size
    tokenizing = clock.seconds.get("load", 0.0) + clock.seconds["tokenize"]
    figures = {
        **{"first_seconds": clock.first, "step_seconds": clock.total, "tokens": float(clock.tokens)},
        **{"bytes_per_second": size / clock.total, "tokenizing_bytes_per_second": size / tokenizing},
        **{"text_bytes": size, "stages": clock.seconds, "peak_bytes": peak, "versions": versions},
    }
    print(json.dumps(figures), flush=True)


class Clock:
    """Seconds of each stage, from one call of `lap` to the next, and of the first batch; counts real tokens."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.first = 0.0
        self.tokens = 0
        self._began = time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    def lap(self, stage: str) -> None:
        """Ends a stage."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._began
        self._began = now

    def count(self, masks: Iterable[Any]) -> None:
        """Takes all batches, given the mask of real tokens of each, and ends the stage."""
        for mask in masks:
            self.first = self.first or self.total + time.perf_counter() - self._began
            self.tokens += int(mask.sum())
        self.lap("batches")


def watched(work: Callable[[], Any]) -> tuple[Any, int]:
    """What it gives, and the bytes of memory that this process and those below it took at most.

    Looks ten times a second; what processes share counts once (Linux's "Pss").
    """
    peak, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            peak[0] = max(peak[0], memory())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        result = work()
    finally:
        over.set()
        thread.join()
    return result, peak[0] or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory() -> int:
    """Bytes that this process and those below it take now; 0 where that is not told."""
    total, family = 0, [os.getpid()]
    for process in family:  # which grows
        place = Path(f"/proc/{process}")
        try:
            lines = (place / "smaps_rollup").read_text().splitlines()
            family += [
                int(child) for file in place.glob("task/*/children") for child in file.read_text().split()
            ]
        except OSError:  # over meanwhile
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def prepared(options: dict[str, Any]) -> tuple[Path, Path]:
    """The text and the tokenizer, made first where they are missing: in a process whose memory does not count."""
    directory = Path(options["directory"])
    if not (directory / "ready").exists():
        settings = options | {"peer": "prepare"}
        command = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        subprocess.run([sys.executable, __file__, *command], check=True, stdout=sys.stderr)
    return Path(options["text"] or directory / "text.txt"), directory / options["kind"] / "tokenizer.json"


def prepare(directory: Path, text: str, megabytes: float) -> None:
    """Writes a text, the documents of Python's own over and over in another order, unless given; and tokenizers."""
    from kerasllm.data.sources.corpus import Corpus
    from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
    from kerasllm.tokenizers.saving import save_tokenizer
    from kerasllm.tokenizers.wordpiece import train_wordpiece

    directory.mkdir(parents=True, exist_ok=True)
    documents = list(Corpus([text or "python-docs"]).documents())
    if not text:
        draw, written = random.Random(0), 0
        with (directory / "text.txt").open("w", encoding="utf-8", newline="\n") as file:
            while written < 1e6 * megabytes:
                draw.shuffle(documents)
                for sentences in documents:
                    first = draw.randrange(len(sentences))
                    turned = sentences[first:] + sentences[:first]
                    written += file.write("\n".join(turned) + "\n\n")
    for kind, train in (("pairs", train_wordpiece), ("windows", train_byte_level_bpe)):
        words = (" ".join(sentences) for sentences in documents)
        save_tokenizer(train(words, VOCABULARY[kind]), directory / kind, max_length=512)
    (directory / "ready").touch()


def ours(
    options: dict[str, Any], text: Path, tokenizer_file: Path, empty: str
) -> tuple[Clock, dict[str, str]]:
    """Text → token cache → batches, as the recipes do it."""
    from kerasllm import __version__
    from kerasllm.data.batches.causal_lm import CausalBatches
    from kerasllm.data.batches.masked_lm import BertPretrainingBatches
    from kerasllm.data.sources.corpus import Corpus
    from kerasllm.data.token_cache.store import tokenize_corpus
    from kerasllm.data.token_cache.stream import tokenize_stream
    from kerasllm.tokenizers.loading import load_tokenizer
    from kerasllm.tokenizers.wordpiece import special_token_ids

    tokenizer = load_tokenizer(tokenizer_file)
    length, size, processes = options["length"], options["batch_size"], options["processes"]
    clock = Clock()
    corpus = Corpus([text])
    batches: Any
    if options["kind"] == "pairs":
        store = tokenize_corpus(corpus, tokenizer, empty, processes=processes, progress=False)
        clock.lap("tokenize")
        batches = BertPretrainingBatches(
            store,
            special=special_token_ids(tokenizer),
            sequence_length=length,
            batch_size=size,
            steps=None,
            seed=0,
            short_sequence_probability=SHORT,
            masking_probability=MASKED,
        )
        clock.count(batches[number][0]["padding_mask"] for number in range(len(batches)))
    else:
        stream = tokenize_stream(corpus, tokenizer, empty, processes=processes, progress=False)
        clock.lap("tokenize")
        steps = (stream.num_tokens - 1) // length // size
        batches = CausalBatches(stream, context_length=length, batch_size=size, steps=steps, seed=0)
        clock.count(batches[number][2] for number in range(steps))
    return clock, {"kerasllm": __version__}


def pairs_of_datasets(
    options: dict[str, Any], text: Path, tokenizer_file: Path, empty: str
) -> tuple[Clock, dict[str, str]]:
    """Documents → sentences → pairs by `map` → a collator that masks. A line counts as a sentence."""
    datasets, transformers = libraries()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tokenizer_file.parent)
    cls, sep, length = tokenizer.cls_token_id, tokenizer.sep_token_id, options["length"]
    plain = dict.fromkeys(("add_special_tokens", "return_attention_mask", "return_token_type_ids"), False)

    def tokenize(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        lines = [[line for line in document.split("\n") if line.strip()] for document in rows["text"]]
        flat = [line for document in lines for line in document]
        ids = iter(tokenizer(flat, **plain)["input_ids"])
        return {"sentences": [[next(ids) for _ in document] for document in lines]}

    def pair(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        made: dict[str, list[Any]] = {}
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

    clock = Clock()
    data = datasets.load_dataset(
        "text", data_files=str(text), split="train", sample_by="paragraph", cache_dir=empty
    )
    clock.lap("load")
    data = data.map(tokenize, batched=True, num_proc=options["processes"], remove_columns=["text"])
    clock.lap("tokenize")
    data = data.map(pair, batched=True, num_proc=options["processes"], remove_columns=["sentences"])
    clock.lap("pairs")
    collate = transformers.DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=MASKED, pad_to_multiple_of=length
    )
    clock.count(batch["attention_mask"] for batch in loaded(data, collate, options))
    return clock, {module.__name__: module.__version__ for module in (datasets, transformers)}


def document_pairs(
    documents: list[list[list[int]]], number: int, limit: int, draw: Any
) -> Iterator[tuple[list[int], list[int], int]]:
    """Segments A and B of one document and whether B is another's, as BERT's authors cut them."""
    document = documents[number]
    target = draw.randint(2, limit) if draw.random() < SHORT else limit
    chunk: list[list[int]] = []
    length = place = 0
    while place < len(document):
        chunk.append(document[place])
        length += len(document[place])
        place += 1
        if place < len(document) and length < target:
            continue
        middle = draw.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
        first = [token for sentence in chunk[:middle] for token in sentence]
        label = int(len(documents) > 1 and (len(chunk) == 1 or draw.random() < 0.5))
        if label:
            other = draw.randrange(len(documents) - 1)
            sentences = documents[other + (other >= number)]
            second: list[int] = []
            for sentence in sentences[draw.randrange(len(sentences)) :]:
                second += sentence
                if len(first) + len(second) >= target:
                    break
            place -= len(chunk) - middle  # what was not used begins the next chunk
        else:
            second = [token for sentence in chunk[middle:] for token in sentence]
        excess = len(first) + len(second) - limit
        while excess > 0:  # from the longer one, at either end
            longer = first if len(first) > len(second) else second
            del longer[0 if draw.random() < 0.5 else -1]
            excess -= 1
        if first and second:
            yield first, second, label
        chunk, length = [], 0
        target = draw.randint(2, limit) if draw.random() < SHORT else limit


def windows_of_datasets(
    options: dict[str, Any], text: Path, tokenizer_file: Path, empty: str
) -> tuple[Clock, dict[str, str]]:
    """Lines → tokens → blocks, by `map`, each with a copy for labels."""
    datasets, transformers = libraries()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tokenizer_file.parent)
    length = options["length"]

    def tokenize(rows: dict[str, list[Any]]) -> Any:
        return tokenizer(rows["text"])

    def group(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        made = {}
        for name, lists in rows.items():
            flat = [number for numbers in lists for number in numbers]
            last = len(flat) // length * length
            made[name] = [flat[start : start + length] for start in range(0, last, length)]
        made["labels"] = list(made["input_ids"])
        return made

    clock = Clock()
    data = datasets.load_dataset(
        "text", data_files=str(text), split="train", keep_linebreaks=True, cache_dir=empty
    )
    clock.lap("load")
    data = data.map(tokenize, batched=True, num_proc=options["processes"], remove_columns=["text"])
    clock.lap("tokenize")
    data = data.map(group, batched=True, num_proc=options["processes"])
    clock.lap("blocks")
    batches = loaded(data, transformers.default_data_collator, options)
    clock.count(batch["attention_mask"] for batch in batches)
    return clock, {module.__name__: module.__version__ for module in (datasets, transformers)}


PEERS = {"pairs": pairs_of_datasets, "windows": windows_of_datasets}


def libraries() -> tuple[Any, Any]:
    """Hugging Face's two, quiet."""
    datasets, transformers = importlib.import_module("datasets"), importlib.import_module("transformers")
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()  # about texts longer than the model's rows
    importlib.import_module(LOADING)  # now, as it takes a second
    return datasets, transformers


def loaded(data: Any, collate: Any, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Batches of NumPy arrays."""
    loader = importlib.import_module(LOADING).DataLoader(
        data,
        batch_size=options["batch_size"],
        shuffle=True,
        drop_last=True,
        collate_fn=collate,
        num_workers=options["processes"],
    )
    for batch in loader:
        yield {name: value.numpy() for name, value in batch.items()}


def read(arguments: list[str]) -> dict[str, Any]:
    """`--name value` pairs; all but names are numbers."""
    pairs = {
        name.removeprefix("--"): value for name, value in zip(arguments[::2], arguments[1::2], strict=True)
    }
    names = ("peer", "kind", "directory", "text")
    return {name: value if name in names else json.loads(value) for name, value in pairs.items()}


if __name__ == "__main__":
    if len(sys.argv) < 3:
        print(__doc__)
    else:
        main(read(sys.argv[1:]))
