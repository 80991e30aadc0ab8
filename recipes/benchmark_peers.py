"""One measurement of the benchmark in PyTorch alone: transformers, or a plain training loop, in a process of its own.

python recipes/benchmark_peers.py --work gpt --peer transformers ... prints a line of JSON. `recipes/benchmark.py`
runs it, with the options of `recipes/benchmark_case.py`. Nothing of kerasllm or Keras is loaded, which would count
as the peer's memory; and as only `kerasllm.backend` imports a framework, PyTorch is loaded by its name.
"""

from __future__ import annotations

import importlib
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FRAMEWORK = "torch"
torch: Any = None
WARM_UP = 3


def main(options: dict[str, Any]) -> None:
    """Measures, then prints."""
    global torch
    torch = importlib.import_module(FRAMEWORK)
    torch.manual_seed(0)
    versions = {"torch": torch.__version__}
    if options["peer"] == "transformers":
        versions["transformers"] = importlib.import_module("transformers").__version__
    if options["work"] == "generation":
        generate = generation(options)
        seconds = [timed(generate) for _ in range(1 + options["steps"])]
        tokens = options["batch_size"] * options["new_tokens"]
        figures = {"step_seconds": statistics.median(seconds[1:])}
    else:
        step = training(options)
        seconds = [timed(step) for _ in range(WARM_UP + options["steps"])]
        tokens = options["batch_size"] * options["length"]
        figures = {"step_seconds": statistics.median(seconds[WARM_UP:])}
    figures |= {"first_seconds": seconds[0], "tokens": float(tokens), "peak_bytes": peak_memory()}
    if options["work"] != "generation":
        figures["peak_flops"] = matrix_product_peak(options["precision"])
    print(json.dumps(figures | {"versions": versions}), flush=True)


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def training(options: dict[str, Any]) -> Callable[[], float]:
    """A function that trains one step: forward, backward, clipping, fused AdamW."""
    makers = {"bert": bert, "gpt": gpt, "shakespeare": plain_gpt}
    parameters, loss_of = makers[options["work"]](options)
    plain = options["peer"] == "torch_loop"
    groups = [
        {
            "params": [weight for weight in parameters if weight.dim() > 1],
            "weight_decay": 0.1 if plain else 0.01,
        },
        {"params": [weight for weight in parameters if weight.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
    half = options["precision"] == "mixed_bfloat16"

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def bert(options: dict[str, Any]) -> tuple[list[Any], Callable[[], Any]]:
    """BERT of transformers with both objectives; labels at as many positions as we have slots."""
    from transformers import BertConfig, BertForPreTraining

    model = BertForPreTraining(
        BertConfig(
            vocab_size=options["vocabulary_size"],
            hidden_size=options["hidden_dim"],
            num_hidden_layers=options["num_layers"],
            num_attention_heads=options["num_heads"],
            intermediate_size=4 * options["hidden_dim"],
            hidden_dropout_prob=options["dropout"],
            attention_probs_dropout_prob=options["dropout"],
        )
    ).train()
    tokens = random_tokens(options)
    places = torch.linspace(1, options["length"] - 2, options["slots"]).long()
    labels = torch.full_like(tokens, -100)
    labels[:, places] = tokens[:, places]
    segments = (torch.arange(options["length"]) >= options["length"] // 2).long().expand_as(tokens)
    batch = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "token_type_ids": segments,
        "labels": labels,
        "next_sentence_label": torch.arange(options["batch_size"]) % 2,
    }
    return list(model.parameters()), lambda: model(**batch).loss


def gpt(options: dict[str, Any]) -> tuple[list[Any], Callable[[], Any]]:
    """GPT-2 of transformers, training."""
    model = gpt2(options, options["length"]).train()
    tokens = random_tokens(options)
    return list(model.parameters()), lambda: model(input_ids=tokens, labels=tokens).loss


def gpt2(options: dict[str, Any], positions: int) -> Any:
    """GPT-2 of transformers, of the work's shape."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=options["vocabulary_size"],
            n_layer=options["num_layers"],
            n_head=options["num_heads"],
            n_embd=options["hidden_dim"],
            n_positions=positions,
            resid_pdrop=options["dropout"],
            embd_pdrop=options["dropout"],
            attn_pdrop=options["dropout"],
        )
    )


def generation(options: dict[str, Any]) -> Callable[[], Any]:
    """Greedy generation of transformers."""
    model = gpt2(options, max(options["length"] + options["new_tokens"], 1024)).eval()
    prompts = random_tokens(options)
    count = options["new_tokens"]
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return lambda: model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=count, **settings
    )


def plain_gpt(options: dict[str, Any]) -> tuple[list[Any], Callable[[], Any]]:
    """A GPT in torch's functions, nothing around them; batches cut from a stream, as one trains on text."""
    functional = torch.nn.functional
    width, heads, length = options["hidden_dim"], options["num_heads"], options["length"]
    vocabulary, rows = options["vocabulary_size"], options["batch_size"]

    def weight(*sizes: int, deviation: float = 0.02) -> Any:
        return torch.nn.Parameter(torch.randn(*sizes) * deviation)

    def linear(inside: int, outside: int, deviation: float = 0.02) -> list[Any]:
        return [weight(outside, inside, deviation=deviation), weight(outside, deviation=0.0)]

    def norm() -> list[Any]:
        return [torch.nn.Parameter(torch.ones(width)), weight(width, deviation=0.0)]

    residual = 0.02 / math.sqrt(2 * options["num_layers"])
    token, position, last = weight(vocabulary, width), weight(length, width), norm()
    blocks = [
        [
            *(norm(), linear(width, 3 * width), linear(width, width, residual)),
            *(norm(), linear(width, 4 * width), linear(4 * width, width, residual)),
        ]
        for _ in range(options["num_layers"])
    ]
    stream = torch.randint(vocabulary, (500_000,))

    def loss() -> Any:
        starts = torch.randint(len(stream) - length - 1, (rows, 1))
        windows = stream[starts + torch.arange(length + 1)]
        hidden = token[windows[:, :-1]] + position
        for before_attention, projection, attended, before_mlp, up, down in blocks:
            inputs = functional.layer_norm(hidden, (width,), *before_attention)
            query, key, value = (
                part.view(rows, length, heads, -1).transpose(1, 2)
                for part in functional.linear(inputs, *projection).chunk(3, dim=-1)
            )
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            hidden = hidden + functional.linear(mixed.transpose(1, 2).flatten(2), *attended)
            inputs = functional.layer_norm(hidden, (width,), *before_mlp)
            inner = functional.gelu(functional.linear(inputs, *up), approximate="tanh")
            hidden = hidden + functional.linear(inner, *down)
        scores = functional.linear(functional.layer_norm(hidden, (width,), *last), token)
        return functional.cross_entropy(scores.flatten(0, 1), windows[:, 1:].flatten())

    parameters = [token, position, *last, *(one for block in blocks for pair in block for one in pair)]
    return parameters, loss


def random_tokens(options: dict[str, Any]) -> Any:
    """(batch, length) of the whole vocabulary."""
    return torch.randint(options["vocabulary_size"], (options["batch_size"], options["length"]))


def matrix_product_peak(precision: str) -> float:
    """FLOP/s of the fastest of a few products of torch's own, as `training.hardware.throughput` measures Keras'."""
    dtype = torch.bfloat16 if precision == "mixed_bfloat16" else torch.float32
    best = 0.0
    for size in (1024, 2048):
        left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
        best = max(best, *(2 * size**3 / timed(lambda: left @ right) for _ in range(3)))  # noqa: B023
    return best


def peak_memory() -> int:
    """Bytes of resident memory at most. What the system's counter holds a process inherits from its parent."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read(arguments: list[str]) -> dict[str, Any]:
    """`--name value` pairs; numbers as such."""
    values = {}
    for name, text in zip(arguments[::2], arguments[1::2], strict=True):
        try:
            values[name.removeprefix("--")] = json.loads(text)
        except json.JSONDecodeError:
            values[name.removeprefix("--")] = text
    return values


if __name__ == "__main__":
    if len(sys.argv) < 3:
        print(__doc__)
    else:
        main(read(sys.argv[1:]))
