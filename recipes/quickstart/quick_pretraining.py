"""Pretrains the quick start's small BERT, which is a run like any other: it may be interrupted and resumed."""

from __future__ import annotations

import dataclasses
from typing import Any

from kerasllm import BertConfig, BertPretraining
from kerasllm.checkpoints import write_model
from kerasllm.data.batches.masked_lm import BertPretrainingBatches
from kerasllm.data.token_cache.store import store_of_sentences
from kerasllm.tasks import MaskedLanguageModeling
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.wordpiece import special_token_ids
from kerasllm.training.fit import fit_run
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import LinearWarmupDecay
from kerasllm.training.run.card import part_sizes
from kerasllm.training.run.directory import RunDirectory


def pretrain(
    config: Any, run: RunDirectory, corpus: list, tokenizer: Any
) -> tuple[BertPretraining, int | None, dict[str, float]]:
    """Returns the pretrained model, an exit code if it was told to stop, and its validation figures.

    Args:
        config: the quick start's settings.
        run: the run directory.
        corpus: the sentences of each document.
        tokenizer: a `tokenizers.Tokenizer`.
    """
    train, validation = store_of_sentences(corpus, tokenizer).split(0.03, 0, least=2)
    settings: dict[str, Any] = {
        "special": special_token_ids(tokenizer),
        "sequence_length": config.sequence_length,
        "batch_size": config.batch_size,
        "masking_probability": config.masking_probability,
    }

    def make_batches(start_step: int) -> BertPretrainingBatches:
        return BertPretrainingBatches(train, steps=config.steps, start_step=start_step, seed=0, **settings)

    held = BertPretrainingBatches(validation, steps=50, seed=1, pad_last=True, prefetch=0, **settings)
    shape = BertConfig(
        vocabulary_size=tokenizer.get_vocab_size(),
        num_layers=config.num_layers,
        num_heads=max(config.hidden_dim // 64, 1),
        hidden_dim=config.hidden_dim,
        max_sequence_length=config.sequence_length,
        dropout=0.0,
        initializer_range=config.initializer_range,
    )
    run.record(data=part_sizes({"train": train, "validation": validation}), model=dataclasses.asdict(shape))
    model = BertPretraining(shape, seed=0)
    print(f"pretraining: {model.count_params():,} parameters, {config.steps:,} steps", flush=True)
    schedule = LinearWarmupDecay(config.learning_rate, steps=config.steps, warmup=config.steps // 10)
    MaskedLanguageModeling().compile(model, adamw(schedule, beta_2=0.98))
    result = fit_run(
        model,
        make_batches,
        run,
        steps=config.steps,
        tokens_per_step=make_batches(0).mean_fill * config.sequence_length * config.batch_size,
        checkpoint_minutes=2.0,
        keep=1,
        resume=config.resume,
    )
    if result.interrupted:
        return model, result.interrupted, {}
    write_model(model, run.model)
    save_tokenizer(tokenizer, run.model, max_length=config.sequence_length)
    return model, None, MaskedLanguageModeling().evaluate(model, held)
