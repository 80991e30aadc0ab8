"""Fine-tunes a GPT on conversations, on prompts and completions, or on more plain text.

KERAS_BACKEND=torch python recipes/finetune_gpt.py --init runs/mine --train chats.jsonl --output runs/chat
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kerasllm import GPTCausalLM, cli
from kerasllm.checkpoints import resolve_directory
from kerasllm.cli.ranges import at_least
from kerasllm.cli.settings import in_group
from kerasllm.data.batches.causal_lm import CausalBatches, CausalEvaluationBatches
from kerasllm.data.batches.conversations import ConversationBatches
from kerasllm.data.examples.conversations import encode_conversations
from kerasllm.data.sources.conversations import is_conversation_file, read_conversations
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.sources.splitting import text_key
from kerasllm.data.token_cache.stream import tokenize_stream
from kerasllm.errors import naming
from kerasllm.tasks import CausalLanguageModeling
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.loading import find_chat_template, load_tokenizer
from kerasllm.training import options
from kerasllm.training.job import Job, is_finished, train
from kerasllm.training.run.card import part_sizes


@dataclass(kw_only=True)
class Config(options.AdapterOptions, options.FineTuningOptions, options.TrainingOptions):
    """Fine-tunes a GPT and writes a run directory."""

    group = "data"

    init: str = field(metadata=in_group("model"))
    """The model to start from: a run, a model directory or a hub id."""

    train: str
    """JSONL or JSON of {"messages": [{"role", "content"}]}, {"prompt", "completion"}, ShareGPT or Alpaca; or text."""

    text_column: str = "text"
    """Field that holds the text in .jsonl, .parquet and hub data sets of plain text."""

    chat_template: str | None = None
    """File with a Jinja template in Hugging Face's form; if null, that of --init, or a plain one."""

    context_length: int | None = field(default=None, metadata=at_least(1))
    """Tokens per row, into which several conversations are packed; all of the model's positions if null."""

    batch_size: options.BatchSize = 8
    learning_rate: float = 2e-5
    """Peak learning rate; ten times as much suits --lora_rank."""

    weight_decay: float = 0.0
    may_grow = frozenset({"epochs"})
    processes: int | None = field(default=None, metadata=at_least(1))
    """Processes that tokenize plain text; one per core if null."""


def main(config: Config) -> int:
    """Goes from the checkpoint and its tokenizer to conversations or text and batches, and trains."""
    if is_finished(config):
        return 0
    config.check_parts()
    config.check_validation()
    config.check_adapters(config.init)
    directory = resolve_directory(config.init)
    tokenizer = load_tokenizer(directory)
    shape = options.GPTOptions(dropout=config.dropout).check_with(
        config.init, vocabulary_size=vocabulary_size(tokenizer), sequence_length=config.context_length
    )
    length = config.context_length or shape.max_sequence_length
    template = None
    if is_conversation_file(config.train):
        template, name = find_chat_template(config.chat_template, directory)
        reading = {"template": template, "template_name": name, "end_token_id": shape.end_token_ids}
        make_parts = read_conversation_files(config, tokenizer, length, reading)
    else:
        make_parts = read_texts(config, tokenizer, length)

    def make_job() -> Job:
        make_batches, held_out = make_parts({"context_length": length, "batch_size": config.batch_size})
        with naming(f"--train {config.train}"):
            batches = make_batches()
        filled = length * getattr(batches, "fill", 1)
        return Job(
            task=CausalLanguageModeling(),
            make_model=lambda: GPTCausalLM.from_pretrained(directory, **config.model_settings),
            batches=batches,
            make_batches=make_batches,
            tokens_per_step=config.batch_size * config.gradient_accumulation * filled,
            tokenizer=tokenizer,
            chat_template=template,
            held_out=held_out,
            recorded={"data": part_sizes({"train": batches, **held_out})},
            eval_interval=batches.steps // config.epochs,
            example=("--chat",) if template else None,
        )

    return train(config, make_job)


def read_conversation_files(config: Config, tokenizer: Any, length: int, reading: dict) -> Any:
    """Returns a function from the sizes of a batch to `make_batches` and the batches of the other parts."""
    records = {name: list(read_conversations(source)) for name, source in config.sources.items()}
    groups = [text_key(repr(record._replace(place=""))) for record in records["train"]]
    parts = config.set_aside(groups, config.seed)
    records |= {name: [records["train"][record] for record in chosen] for name, chosen in parts.items()}
    examples = {name: encode_conversations(part, tokenizer, **reading) for name, part in records.items()}
    train_on = examples.pop("train")
    with naming(f"--train {config.train}"):
        print(ConversationBatches(train_on, context_length=length, batch_size=1).summary, flush=True)

    def make_parts(shared: dict) -> tuple[Any, dict]:
        held_out: dict[str, Any] = {"validation": None}
        for name, part in examples.items():
            with naming(f"--{name} {config.sources.get(name, 'set aside')}"):
                held_out[name] = ConversationBatches(part, shuffle=False, prefetch=0, **shared)
        return partial(ConversationBatches, train_on, **config.for_batches | shared), held_out

    return make_parts


def read_texts(config: Config, tokenizer: Any, length: int) -> Any:
    """Returns the same as `read_conversation_files`, for plain text."""
    streams = {
        name: tokenize_stream(Corpus([source], config.text_column), tokenizer, processes=config.processes)
        for name, source in config.sources.items()
    }
    streams |= config.set_text_aside(streams["train"])
    stream = streams.pop("train")

    def make_parts(shared: dict) -> tuple[Any, dict]:
        run: dict[str, Any] = {"gradient_accumulation": config.gradient_accumulation, "seed": config.seed}
        a_step = length * config.batch_size * config.gradient_accumulation
        run["steps"] = config.epochs * max(stream.num_tokens // a_step, 1)
        held_out: dict[str, Any] = {"validation": None}
        for name, part in streams.items():
            with naming(f"--{name} {config.sources.get(name, 'set aside')}"):
                held_out[name] = CausalEvaluationBatches(part, keep_partial=True, **shared)
        return partial(CausalBatches, stream, **run, **shared), held_out

    return make_parts


if __name__ == "__main__":
    cli.run(main, Config)
