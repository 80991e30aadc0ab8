"""Measures training and generation in PyTorch alone: by transformers, or by a plain loop.

Nothing of kerasllm or Keras is loaded before the memory is read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from clocks import time_calls
from works import Case

FRAMEWORK = "torch"  # loaded by name, since only `kerasllm.backend` imports torch
torch: Any = importlib.import_module(FRAMEWORK)
functional = torch.nn.functional
DEVICES = {"cpu": "cpu", "gpu": "cuda"}
WARM_UP = 3


def measure(case: Case, steps: int) -> dict[str, Any]:
    """Returns the figures of one case of training or generation.

    Args:
        case: a case of the peer `transformers` or `torch_loop`.
        steps: measured steps of training, or calls of `generate`.
    """
    torch.manual_seed(0)
    if case.work == "generation":
        figures = time_calls(generation(case), steps, 1, wait=lambda tokens: tokens.cpu())
        tokens = case.shape["batch_size"] * case.shape["new_tokens"]
    else:
        figures = time_calls(training(case), steps, WARM_UP, case.block, wait=lambda loss: loss.item())
        tokens = case.shape["batch_size"] * case.shape["length"]
    if case.on_gpu:
        figures["peak_bytes"] = torch.cuda.max_memory_reserved()
    versions = {"torch": torch.__version__}
    if case.peer == "transformers":
        versions["transformers"] = importlib.import_module("transformers").__version__
    return figures | {"tokens": float(tokens), "versions": versions}


def training(case: Case) -> Callable[[], Any]:
    """Returns a function that trains one step: forward, backward, clipping, fused AdamW; it returns the loss."""
    with device_of(case):
        model, loss_of = {"bert": bert, "gpt": gpt, "shakespeare": plain_gpt, "host": plain_gpt}[case.work](
            case
        )
    model.train()
    weights = list(model.parameters())
    decay = 0.1 if case.peer.startswith("torch_loop") else 0.01
    groups = [
        {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": decay},
        {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)

    def step() -> Any:
        with torch.autocast(DEVICES[case.device], torch.bfloat16, enabled=case.precision == "mixed_bfloat16"):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def device_of(case: Case) -> Any:
    """Returns the device of a case, within which tensors are made there, and sets its precision of products.

    Raises:
        RuntimeError: PyTorch does not have the device.
    """
    if case.on_gpu and not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU: install its build for CUDA")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = case.precision == "tf32"
    return torch.device(DEVICES[case.device])


def random_tokens(case: Case) -> Any:
    """Returns random token ids (batch, length) from the whole vocabulary."""
    return torch.randint(case.shape["vocabulary_size"], (case.shape["batch_size"], case.shape["length"]))


def bert(case: Case) -> tuple[Any, Callable[[], Any]]:
    """Returns transformers' BERT and its loss for both objectives, with as many labels as kerasllm has slots."""
    from transformers import BertConfig, BertForPreTraining

    shape = case.shape
    model = BertForPreTraining(
        BertConfig(
            vocab_size=shape["vocabulary_size"],
            hidden_size=shape["hidden_dim"],
            num_hidden_layers=shape["num_layers"],
            num_attention_heads=shape["num_heads"],
            intermediate_size=4 * shape["hidden_dim"],
            hidden_dropout_prob=shape["dropout"],
            attention_probs_dropout_prob=shape["dropout"],
        )
    )
    tokens = random_tokens(case)
    places = torch.linspace(1, shape["length"] - 2, shape["slots"]).long()
    labels = torch.full_like(tokens, -100)
    labels[:, places] = tokens[:, places]
    segments = torch.arange(shape["length"]) >= shape["length"] // 2
    batch = {
        "input_ids": tokens,
        "token_type_ids": segments.long().expand_as(tokens),
        "labels": labels,
        "next_sentence_label": torch.arange(shape["batch_size"]) % 2,
    }
    if case.on_gpu:  # without a mask, which nothing here needs, flash attention takes part
        model = torch.compile(model)
    else:
        batch["attention_mask"] = torch.ones_like(tokens)
    return model, lambda: model(**batch).loss


def gpt(case: Case) -> tuple[Any, Callable[[], Any]]:
    """Returns transformers' GPT-2 and a function that computes its loss."""
    model, tokens = gpt2(case, case.shape["length"]), random_tokens(case)
    model = torch.compile(model) if case.on_gpu else model
    return model, lambda: model(input_ids=tokens, labels=tokens).loss


def gpt2(case: Case, positions: int) -> Any:
    """Returns transformers' GPT-2 without dropout, as for all GPTs of the benchmark."""
    from transformers import GPT2Config, GPT2LMHeadModel

    names = {"n_layer": "num_layers", "n_head": "num_heads", "n_embd": "hidden_dim"}
    sizes = {theirs: case.shape[name] for theirs, name in (names | {"vocab_size": "vocabulary_size"}).items()}
    dropout: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(**sizes, **dropout, n_positions=positions))


def generation(case: Case) -> Callable[[], Any]:
    """Returns a function that generates with transformers, greedily."""
    count = case.shape["new_tokens"]
    with device_of(case):
        model, prompts = gpt2(case, max(case.shape["length"] + count, 1024)).eval(), random_tokens(case)
    if case.precision == "mixed_bfloat16":
        model = model.to(torch.bfloat16)
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": count}
    return lambda: model.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)


class Block(torch.nn.Module):
    """A decoder block with pre-normalization, in PyTorch's own layers and functions."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, torch.nn.Dropout(dropout)
        self.norm, self.last_norm = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.query_key_value, self.output = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, hidden: Any) -> Any:
        """Maps (batch, length, width) to the same shape."""
        projected = self.query_key_value(self.norm(hidden)).unflatten(-1, (3, self.heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each (batch, heads, length, width of a head)
        rate = self.dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=rate)
        hidden = hidden + self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))
        inner = functional.gelu(self.up(self.last_norm(hidden)), approximate="tanh")
        return hidden + self.dropout(self.down(inner))


def plain_gpt(case: Case) -> tuple[Any, Callable[[], Any]]:
    """Returns a GPT in plain PyTorch, and a function that computes its loss on windows drawn from a stream."""
    shape = case.shape
    width, length = shape["hidden_dim"], shape["length"]
    token = torch.nn.Embedding(shape["vocabulary_size"], width)
    position = torch.nn.Embedding(length, width)
    rate = shape.get("dropout", 0.0)
    blocks = [Block(width, shape["num_heads"], rate) for _ in range(shape["num_layers"])]
    body = torch.nn.Sequential(torch.nn.Dropout(rate), *blocks, torch.nn.LayerNorm(width))
    for table in (token, position):
        torch.nn.init.normal_(table.weight, std=0.02)
    stream = torch.randint(shape["vocabulary_size"], (500_000,))

    def loss_of(windows: Any) -> Any:
        hidden = body(token(windows[:, :-1]) + position.weight)
        logits = functional.linear(hidden, token.weight)
        return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    compute = torch.compile(loss_of) if case.peer == "torch_loop_compiled" else loss_of

    def loss() -> Any:
        starts = torch.randint(len(stream) - length - 1, (shape["batch_size"], 1), device=stream.device)
        return compute(stream[starts + torch.arange(length + 1, device=stream.device)])

    return torch.nn.ModuleList([token, position, body]), loss
