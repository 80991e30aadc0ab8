"""The validation data of a run, by which a model is measured before and after it is rounded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kerasllm.data.batches.causal_lm import CausalEvaluationBatches
from kerasllm.data.batches.masked_lm import BertPretrainingBatches
from kerasllm.data.batches.padded_labelled import ClassificationBatches
from kerasllm.data.batches.pairs import HeldOutGroups
from kerasllm.data.batches.questions import JudgedBatches
from kerasllm.data.batches.tagged import TaggingBatches
from kerasllm.data.batches.translation import TranslationBatches
from kerasllm.data.examples.labelled import encode_texts
from kerasllm.data.examples.pairs import encode_groups
from kerasllm.data.examples.questions import encode_questions
from kerasllm.data.examples.tagged import encode_words, split_words
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache.store import tokenize_corpus
from kerasllm.data.token_cache.stream import tokenize_stream
from kerasllm.errors import InputError
from kerasllm.models import (
    BertClassifier,
    BertEncoder,
    BertMaskedLM,
    BertPretraining,
    BertQuestionAnswering,
    BertRegressor,
    BertTokenClassifier,
    GPTCausalLM,
    RecurrentClassifier,
    RecurrentSeq2SeqLM,
    Seq2SeqLM,
)
from kerasllm.tasks import Classification, QuestionAnswering, Regression, Tagging
from kerasllm.tasks.embedding import group_figures
from kerasllm.tasks.ordered_outputs import predict_in_order
from kerasllm.tokenizers.wordpiece import continuation_mask, special_token_ids
from kerasllm.training.options.labelled import LabelledOptions
from kerasllm.training.options.pairs import PairOptions
from kerasllm.training.options.parallel import ParallelOptions
from kerasllm.training.options.questions import QuestionOptions
from kerasllm.training.options.tagged import TaggedOptions
from kerasllm.training.run.settings import recorded

Figures = Callable[[Any], dict[str, Any]]
"""A function of a model that returns its figures on the validation data."""

_TEXT_LENGTH, _TEXT_BATCHES = 256, 20  # of validation text: some ten thousand tokens


def validation_figures(run: Path, model: Any, tokenizer: Any) -> Figures | None:
    """Returns a function of a model that returns its figures on the validation data of a run.

    Args:
        run: the run directory.
        model: the run's model.
        tokenizer: its tokenizer.

    Returns:
        The function; None if this is no run, it has no validation data, or the model is none of a classifier,
        regressor, tagger, reader, encoder of sentences, pretrained BERT or GPT, and translator.

    Raises:
        InputError: the run's data can no longer be read.
    """
    if not (run / "config.yaml").is_file():
        return None
    settings = recorded(run)
    if isinstance(model, GPTCausalLM) and settings.get("corpus"):
        return _text_figures(settings, tokenizer)
    if isinstance(model, BertMaskedLM | BertPretraining) and settings.get("corpus"):
        return _masked_figures(settings, tokenizer)
    if not settings.get("validation") and not settings.get("validation_fraction"):
        return None
    if isinstance(model, BertClassifier | BertRegressor | RecurrentClassifier):
        options: Any = _options(LabelledOptions, settings)
        part = options.read(settings["seed"])["validation"]
        encoded = encode_texts(tokenizer, part.texts, settings["sequence_length"], part.place)
        batches = ClassificationBatches(encoded, part.labels, batch_size=32, shuffle=False)
        task: Any = Regression()
        if not isinstance(model, BertRegressor):
            task = Classification(part.label_names or (), multi_label=model.multi_label)
        return partial(_evaluate, task, batches)
    if isinstance(model, BertTokenClassifier):
        options = _options(TaggedOptions, settings)
        part = options.read(settings["seed"], partial(split_words, tokenizer))["validation"]
        words = encode_words(tokenizer, part.words, settings["sequence_length"])
        batches = TaggingBatches(words, part.labels, batch_size=32, shuffle=False)
        return partial(_evaluate, Tagging(part.label_names, part.scheme), batches)
    if isinstance(model, BertQuestionAnswering):
        options = _options(QuestionOptions, settings)
        questions = options.read(settings["seed"])["validation"]
        windows = encode_questions(
            tokenizer,
            questions.questions,
            questions.contexts,
            questions.context_of,
            settings["sequence_length"],
            stride=settings["document_stride"],
            spans=questions.spans,
        )
        judged = JudgedBatches(windows, questions, batch_size=16)
        length = settings["max_answer_length"]
        task = QuestionAnswering(questions.has_unanswerable, max_answer_length=length, n_best=1)
        return partial(_evaluate, task, judged)
    if isinstance(model, BertEncoder):
        options = _options(PairOptions, settings)
        pairs = options.read(settings["seed"])["validation"]
        groups = encode_groups(tokenizer, pairs, settings["sequence_length"])
        texts = HeldOutGroups(groups, batch_size=32)
        return lambda encoder: group_figures(predict_in_order(encoder, texts), groups)
    if isinstance(model, Seq2SeqLM | RecurrentSeq2SeqLM):
        options = _options(ParallelOptions, settings)
        parallel = options.encode("validation", options.read()["validation"], tokenizer, model.config)
        return partial(_token_loss, TranslationBatches(parallel, batch_tokens=2048, shuffle=False))
    return None


def _text_figures(settings: dict[str, Any], tokenizer: Any) -> Figures | None:
    """Returns a function of a model that returns its loss on the first windows of a run's validation text."""
    names, column = settings["validation_corpus"], settings["text_column"]
    fraction = settings["validation_fraction"]
    if not names and not fraction:
        return None
    text = tokenize_stream(Corpus(names or settings["corpus"], column), tokenizer, progress=False)
    if not names:
        split = {"by": settings.get("validation_split", "fraction"), "seed": settings["seed"]}
        text = text.split(fraction, **split)[1]
    length = min(settings["context_length"], _TEXT_LENGTH)
    batches = CausalEvaluationBatches(text, context_length=length, batch_size=8, limit=_TEXT_BATCHES)
    return partial(_token_loss, batches)


def _masked_figures(settings: dict[str, Any], tokenizer: Any) -> Figures | None:
    """Returns a function of a model that returns its loss on masked tokens of a run's validation text."""
    names, fraction = settings["validation_corpus"], settings["validation_fraction"]
    if "masked_lm" not in settings["objectives"] or not (names or fraction):
        return None
    text = tokenize_corpus(
        Corpus(names or settings["corpus"], settings["text_column"]), tokenizer, progress=False
    )
    if not names:
        pairs = {"next_sentence", "sentence_order"} & set(settings["objectives"])
        try:
            text = text.split(fraction, settings["seed"], least=2 if pairs else 1)[1]
        except InputError:  # as in the run, too few documents
            return None
    batches = BertPretrainingBatches(
        text,
        special=special_token_ids(tokenizer),
        continuation=continuation_mask(tokenizer),
        objectives=("masked_lm",),
        batch_size=8,
        steps=_TEXT_BATCHES,
        pad_last=True,
        prefetch=0,
        **{name: settings[name] for name in ("seed", "sequence_length", "masking", "masking_probability")},
    )
    return partial(_token_loss, _Masked(batches))


class _Masked:
    """Batches of masked text whose labels are those of all tokens, as an exported model knows no masked positions."""

    def __init__(self, batches: BertPretrainingBatches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        inputs, labels, weights = self._batches[index]
        inputs = dict(inputs)
        places = inputs.pop("masked_positions")
        every = [np.zeros(inputs["token_ids"].shape, kind) for kind in (np.int64, np.float32)]
        rows, slots = np.nonzero(weights["masked_lm"])
        for whole, some in zip(every, (labels["masked_lm"], weights["masked_lm"]), strict=True):
            whole[rows, places[rows, slots]] = some[rows, slots]
        return inputs, *every


def _token_loss(batches: Any, model: Any) -> dict[str, Any]:
    """Returns `loss`, in nats per token, `perplexity`, `accuracy` and `tokens`."""
    loss = right = tokens = 0.0
    for step in range(min(len(batches), _TEXT_BATCHES)):
        inputs, labels, weights = batches[step]
        logits = model.predict_on_batch(inputs)
        if isinstance(logits, dict):
            logits = logits["masked_lm"]
        logits = np.asarray(logits).astype(np.float64)
        best = logits.max(axis=-1, keepdims=True)
        sums = np.log(np.exp(logits - best).sum(axis=-1)) + best[..., 0]
        chosen = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        loss += float(((sums - chosen) * weights).sum())
        right += float(((logits.argmax(axis=-1) == labels) * weights).sum())
        tokens += float(weights.sum())
    mean = loss / tokens
    return {"loss": mean, "perplexity": math.exp(mean), "accuracy": right / tokens, "tokens": round(tokens)}


def _evaluate(task: Any, batches: Any, model: Any) -> dict[str, Any]:
    figures = task.evaluate(model, batches)
    return {name: value for name, value in figures.items() if isinstance(value, int | float)}


def _options(kind: type, settings: dict[str, Any]) -> Any:
    """Returns the options of the data that a run was started with."""
    names = {field.name for field in dataclasses.fields(kind)}
    kept = {name: value for name, value in settings.items() if name in names}
    return kind(**kept | {"test": None})  # test data stays unseen
