"""Text-to-text tasks with an encoder-decoder: translation, summaries, corrections and the like.

BLEU and chrF are sacrebleu's, of detokenized text with its case. Older papers give BLEU of tokenized, lowercased text
("13a", lower case), which is a figure of its own.

Reference: Post 2018, https://arxiv.org/abs/1804.08771.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from kerasllm.data.examples.parallel import encode_side
from kerasllm.errors import InputError, InputWarning, require
from kerasllm.generation.continuation import Settings
from kerasllm.generation.targets import TargetSettings, generate_targets
from kerasllm.losses import CausalLanguageModelLoss
from kerasllm.models import RecurrentSeq2SeqBackbone, RecurrentSeq2SeqLM, Seq2SeqBackbone, Seq2SeqLM
from kerasllm.tasks.base import PredictionSettings, Task
from kerasllm.tokenizers.parallel import decode_text


class Translation(Task):
    """The prediction of a target text for a source text.

    Args:
        label_smoothing: probability mass spread over the vocabulary in training, in [0, 1).
    """

    name: ClassVar[str] = "translation"
    model_classes: ClassVar[tuple[type, ...]] = (
        *(Seq2SeqLM, Seq2SeqBackbone),
        *(RecurrentSeq2SeqLM, RecurrentSeq2SeqBackbone),
    )
    monitors: ClassVar[tuple[str, ...]] = ("loss",)
    reads_wordpiece: ClassVar[bool] = False
    heeds_length: ClassVar[bool] = False
    recipe: ClassVar[str] = "translate"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing
        self._test_function: Any = None

    def losses_and_metrics(self, model: Any, reduction: str) -> dict[str, Any]:
        """Returns the loss alone, so that it can project to the vocabulary in chunks."""
        return {"loss": CausalLanguageModelLoss(label_smoothing=self.label_smoothing, reduction=reduction)}

    def evaluate(self, model: Any, batches: Any) -> dict[str, Any]:
        """Returns `loss` in nats per target token, without label smoothing, `perplexity` and `tokens`.

        Args:
            model: a model that `compile` has compiled.
            batches: a sequence of (inputs, labels, weights), with weights of 1 or 0.
        """
        total = tokens = 0.0
        loss = model.loss
        before, model.test_function = getattr(model, "test_function", None), self._test_function
        loss.label_smoothing = 0.0  # while the step of evaluation is made
        try:
            for index in range(len(batches)):
                inputs, labels, weights = batches[index]
                weight = float(weights.sum())
                value = float(model.test_on_batch(inputs, labels, weights))
                total += value if loss.reduction == "sum" else value * weight
                tokens += weight
        finally:
            loss.label_smoothing = self.label_smoothing
            self._test_function, model.test_function = model.test_function, before
        mean = total / max(tokens, 1.0)
        return {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "tokens": round(tokens)}

    @classmethod
    def predict(
        cls, model: Any, tokenizer: Any, texts: Sequence[tuple[str, ...]], settings: PredictionSettings
    ) -> tuple[list[dict[str, Any]], int]:
        """Returns the `translation` of each text; see `Task.predict`."""
        if any(len(text) == 2 for text in texts):
            raise InputError("single texts are translated, not pairs: leave out the tab")
        sources = [text for (text,) in texts]
        generation = TargetSettings(Settings(num_beams=5), batch_size=settings.batch_size)
        found = translations(model, tokenizer, sources, generation)
        return [{"translation": own[0][0]} for own in found], count_cut(model, tokenizer, sources)

    @classmethod
    def show(cls, prediction: Mapping[str, Any]) -> list[str]:
        """Returns the translation."""
        return [prediction["translation"]]


def translations(
    model: Any, tokenizer: Any, sources: Sequence[str], settings: TargetSettings
) -> list[list[tuple[str, float]]]:
    """Returns the target texts of each source with their scores, the best first, each text once.

    An empty source has an empty target. A source that is longer than the model's positions is cut.

    Args:
        model: a `Seq2SeqLM`.
        tokenizer: its tokenizer.
        sources: the source texts.
        settings: how targets are generated.
    """
    positions, end = model.config.max_sequence_length, model.config.end_token_id
    real = [index for index, text in enumerate(sources) if text.strip()]
    encoded = encode_side([sources[index].strip() for index in real], tokenizer, end)
    cut = [
        ids.tolist() if len(ids) <= positions else [*ids[: positions - 1].tolist(), end] for ids in encoded
    ]
    found: list[list[tuple[str, float]]] = [[("", 0.0)] for _ in sources]
    for index, beams in zip(real, generate_targets(model, cut, settings), strict=True):
        by_text: dict[str, float] = {}
        for beam in beams:  # one text may be there in several segmentations, the best first
            by_text.setdefault(decode_text(tokenizer, beam.tokens), beam.score)
        found[index] = list(by_text.items())
    return found


def count_cut(model: Any, tokenizer: Any, sources: Sequence[str]) -> int:
    """Returns the number of sources that `translations` cuts, as they are longer than the model's positions."""
    encoded = encode_side([text.strip() for text in sources], tokenizer, model.config.end_token_id)
    return sum(len(ids) > model.config.max_sequence_length for ids in encoded)


def warn_cut(model: Any, tokenizer: Any, sources: Sequence[str]) -> None:
    """Warns of the sources that `translations` cuts, if there are any."""
    if cut := count_cut(model, tokenizer, sources):
        positions = model.config.max_sequence_length
        text = f"{cut:,} of {len(sources):,} texts were cut to {positions} tokens"
        warnings.warn(text, InputWarning, stacklevel=2)


def output_line(source: str, found: Sequence[tuple[str, float]], n_best: int, scores: bool) -> str:
    """Returns the line of a text's translations: the only one, or JSON of several or with scores.

    Args:
        source: the text.
        found: its translations with their scores, the best first.
        n_best: number of translations that are asked for.
        scores: whether the line holds the scores.
    """
    if n_best == 1 and not scores:
        return found[0][0]
    rows = [{"text": target} | ({"score": round(score, 4)} if scores else {}) for target, score in found]
    return json.dumps({"source": source, "translations": rows}, ensure_ascii=False)


def check_figures() -> None:
    """Checks that what `translation_figures` needs is there.

    Raises:
        InputError: it is not installed.
    """
    require("BLEU", "translation", "sacrebleu")


def translation_figures(
    found: Sequence[str], expected: Sequence[str], tokenized_lowercase: bool = False
) -> dict[str, Any]:
    """Returns BLEU and chrF in sacrebleu's points, with the signature of BLEU.

    Args:
        found: the translations.
        expected: the references, one for each.
        tokenized_lowercase: whether BLEU ignores case, as older papers give it; its signature says so.
    """
    check_figures()
    import sacrebleu

    bleu = sacrebleu.BLEU(lowercase=tokenized_lowercase)
    references = [list(expected)]
    score = bleu.corpus_score(list(found), references).score
    chrf = sacrebleu.CHRF().corpus_score(list(found), references).score
    return {"bleu": score, "chrf": chrf, "signature": str(bleu.get_signature())}
