"""Predictions for texts: a model with its tokenizer, from a directory or from a script."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kerasllm.checkpoints import resolve_directory
from kerasllm.data.text_data.texts import check_tokenizer, each_text
from kerasllm.errors import InputError, InputWarning, naming
from kerasllm.tasks import TASKS, PredictionSettings, Task, task_of
from kerasllm.tasks.saved_model import open_model
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.wordpiece import special_token_ids

_BATCHES_AT_A_TIME = 16  # batches of texts that are read ahead, to sort them by length


class Predictor:
    """A model with its tokenizer, which takes texts and returns what the model says of them.

    Several threads may use one predictor; they take turns at the model.

    Args:
        model: a task model of kerasllm, such as a `BertClassifier` or a `GPTCausalLM`.
        tokenizer: the model's tokenizer (`kerasllm.load_tokenizer`).

    Attributes:
        turn: the lock that whoever runs the model holds.

    Raises:
        InputError: the model is of no task, or the tokenizer does not fit it.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        found = [task for task in TASKS if isinstance(model, task.model_classes)]
        if not found:
            known = ", ".join(each.__name__ for task in TASKS for each in task.model_classes)
            raise InputError(f"a {type(model).__name__} is of no task: a Predictor takes one of {known}")
        check_tokenizer(tokenizer)
        self.model, self.tokenizer = model, tokenizer
        self.task: type[Task] = found[0]
        size = vocabulary_size(tokenizer)
        if size > model.config.vocabulary_size:
            raise InputError(
                f"the tokenizer has {size} tokens, the model {model.config.vocabulary_size}: give the model's own"
            )
        if self.task.reads_wordpiece and not model.reads_any_tokenizer:
            special_token_ids(tokenizer)  # raises if there are none
        self.turn = threading.Lock()

    @property
    def sequence_length(self) -> int:
        """The tokens of a text that the model is made for: its positions, or fewer of an encoder that says so."""
        positions = self.model.config.max_sequence_length
        return getattr(self.model, "sequence_length", None) or positions

    def predict(
        self,
        texts: Any,
        *,
        batch_size: int = 64,
        sequence_length: int | None = None,
        probabilities: bool = False,
        top_k: int = 5,
        is_split_into_words: bool = False,
    ) -> Any:
        """Returns a prediction for each text, in the order of the texts.

        Args:
            texts: a list of texts, or of pairs of texts (tuples or lists of two); a single text counts as a list of
                one. For a generator or another iterator the result is a generator, too, which reads some batches ahead.
            batch_size: number of texts in a batch.
            sequence_length: the most tokens of a text, with special tokens, by default as many as the model is made
                for. Longer texts are cut, and an `InputWarning` says how many.
            probabilities: whether a classifier's predictions have the probabilities of all classes.
            top_k: number of candidates for each [MASK].
            is_split_into_words: whether a tagger tags the words between single spaces, as it was trained on words that
                were divided before, and not those that its tokenizer finds.

        Returns:
            Dicts: `{"label", "score"}` from a classifier (`{"labels", "scores"}` if it is multi-label), and
            `"probabilities"` by name on request; `{"value"}` from a regressor; `{"masks"}` from a masked language
            model, for each [MASK] a list of `{"token", "score"}`; `{"entities"}` from a tagger (`{"words"}` if its
            tags have no scheme); `{"answer", "score", "start", "end"}` for a pair of a question and a context;
            `{"translation"}` from an encoder-decoder; `{"vector"}` from an encoder; and `{"text"}` from a language
            model, the text with its likeliest continuation (`generate` has the settings).

        Raises:
            InputError: a text is none, or does not suit the model; the message has its index.
        """
        positions = self.model.config.max_sequence_length
        length = self.sequence_length if sequence_length is None else sequence_length
        if length > positions:
            raise InputError(f"sequence_length {length} is above the model's {positions} positions")
        if sequence_length is not None and not self.task.heeds_length:
            raise InputError(
                f"sequence_length has no effect on {self.task.name.replace('_', ' ')}: leave it out"
            )
        if batch_size < 1 or top_k < 1:
            raise InputError(f"batch_size is {batch_size} and top_k {top_k}, they must be at least 1")
        if is_split_into_words and self.task.name != "tagging":
            raise InputError(
                f"is_split_into_words is for taggers, not for {self.task.name.replace('_', ' ')}"
            )
        settings = PredictionSettings(
            length, batch_size, top_k, probabilities, is_split_into_words=is_split_into_words
        )
        if isinstance(texts, Iterator):
            return self._predictions(each_text(texts), settings)
        return list(self._predictions(each_text([texts] if isinstance(texts, str) else texts), settings))

    def _predictions(
        self, texts: Iterator[tuple[str, ...]], settings: PredictionSettings
    ) -> Iterator[dict[str, Any]]:
        total = cut = 0
        while chunk := list(itertools.islice(texts, _BATCHES_AT_A_TIME * settings.batch_size)):
            with self.turn:
                own = replace(settings, first=total)
                found, num_cut = self.task.predict(self.model, self.tokenizer, chunk, own)
            total, cut = total + len(chunk), cut + num_cut
            yield from found
        if cut:
            warnings.warn(
                f"{cut:,} of {total:,} texts were cut to {settings.sequence_length} tokens",
                InputWarning,
                stacklevel=4,
            )

    def generate(
        self,
        prompts: Any,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        stop: Sequence[str] = (),
        stop_token_ids: Sequence[int] | None = None,
        seed: int = 0,
        batch_size: int = 8,
    ) -> Any:
        """Continues texts with a GPT, greedily unless a setting of sampling is given.

        Args:
            prompts: a text, or a list of texts; for a generator or another iterator the result is a generator, too.
            max_new_tokens: the most new tokens; by default 128, or fewer if the model has fewer positions left.
            temperature: number that the logits are divided by; 0 is greedy.
            top_k: sample from the k likeliest tokens.
            top_p: sample from the likeliest tokens that together have probability p, in (0, 1].
            min_p: sample from tokens with at least min_p times the highest probability, in (0, 1].
            repetition_penalty: above 1, tokens that have occurred score lower.
            num_beams: above 1, beam search, which excludes sampling.
            length_penalty: in beam search, above 0 favors longer texts.
            stop: texts at which a continuation is cut off; they are left out of it.
            stop_token_ids: tokens that end a text; by default the model's end tokens.
            seed: seed of the sampling. The draws of a text depend on its number, not on the size of the batches.
            batch_size: number of texts in a batch.

        Returns:
            The prompts with their continuations, in the form of the prompts.

        Raises:
            InputError: the model does not generate text, a prompt is no text, or a setting is out of its range.
        """
        if not hasattr(self.model, "generate"):
            raise InputError(f"a {type(self.model).__name__} does not continue texts: call predict")
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "num_beams": num_beams,
            "length_penalty": length_penalty,
            "stop": stop,
            "stop_token_ids": stop_token_ids,
            "seed": seed,
        }
        if isinstance(prompts, str):
            return next(self._continuations([prompts], 1, settings))
        found = self._continuations(prompts, batch_size, settings)
        return found if isinstance(prompts, Iterator) else list(found)

    def _continuations(
        self, prompts: Iterable[str], batch_size: int, settings: dict[str, Any]
    ) -> Iterator[str]:
        texts = each_text(prompts, "prompts")
        done = 0
        while batch := list(itertools.islice(texts, batch_size)):
            if any(len(text) == 2 for text in batch):
                raise InputError("prompts holds a pair of texts, a prompt is one text")
            with self.turn:
                rows = [text for (text,) in batch]
                found = self.model.generate(rows, tokenizer=self.tokenizer, first_row=done, **settings)
            done += len(batch)
            yield from found


def load(source: str | Path, *, revision: str | None = None) -> Predictor:
    """Returns a trained model with its tokenizer, ready for texts.

    Args:
        source: a run directory, a model directory, or a hub id.
        revision: the branch, tag or commit of a hub id.

    Raises:
        InputError: there is no such model, its tokenizer does not fit it, or its weights lack the task's head.
    """
    saved = open_model(resolve_directory(source, revision))
    task = task_of(saved)
    with naming(str(saved.directory)):
        if task.reads_wordpiece and not saved.model_class.reads_any_tokenizer:
            special_token_ids(saved.tokenizer)
    return Predictor(task.load(saved), saved.tokenizer)
