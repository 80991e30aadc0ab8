"""The comparison that ends each export: twenty texts through the exported file and through the model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kerasllm.errors import InputError
from kerasllm.export.samples import TEXTS, greatest_difference, sample_batches
from kerasllm.models import BertBackbone, BertEncoder

ALLOWED = {"float32": 1e-4, "float16": 1e-2}
"""The greatest difference that is allowed, by the precision of an exported file's weights."""


@dataclass(frozen=True)
class Comparison:
    """How far the results of an exported file are from the model's.

    Args:
        texts: number of texts.
        greatest_difference: the greatest absolute difference of an output at a real token.
        same_choice: the share of tokens, or of texts, for which the greatest output is the same one; None for outputs
            that are no scores.
    """

    texts: int
    greatest_difference: float
    same_choice: float | None

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return asdict(self)

    def checked(self, place: Any, precision: str) -> dict[str, Any]:
        """Returns the fields by name, and what is allowed.

        Args:
            place: the file, for the message.
            precision: "float32" or "float16".

        Raises:
            InputError: the difference is greater than allowed.
        """
        allowed = ALLOWED[precision]
        if not self.greatest_difference <= allowed:  # NaN is not
            raise InputError(
                f"{place}: results differ from the model's by {self.greatest_difference:.2g}, above {allowed:g}: "
                "nothing is kept; the packages that wrote and ran the file may not fit this model"
            )
        return self.as_dict() | {"allowed": allowed}


def compare(model: Any, exported: Any, tokenizer: Any) -> Comparison:
    """Returns how far the results of an exported file are from the model's for the texts of `kerasllm.export.samples`.

    Args:
        model: the model.
        exported: what has `predict_on_batch` for the exported file.
        tokenizer: the model's tokenizer.
    """
    greatest, same, total = 0.0, 0, 0
    is_vector = isinstance(model, BertBackbone | BertEncoder)
    for inputs in sample_batches(model, tokenizer):
        mask = inputs.get("padding_mask")
        if mask is None:  # of an encoder-decoder, whose targets' padding is that of the sources, one token later
            mask = np.pad(inputs["encoder_padding_mask"], ((0, 0), (1, 0)), constant_values=1)
            mask = np.roll(mask[:, 1:], 1, axis=0)
        found, expected = exported.predict_on_batch(inputs), model.predict_on_batch(inputs)
        differs = greatest_difference(found, expected, mask)
        greatest = max(greatest, differs) if not math.isnan(differs) else differs
        for ours, theirs in [] if is_vector else _arrays(found, expected):
            chosen = ours.argmax(axis=-1) == theirs.argmax(axis=-1)
            chosen = chosen[mask == 1] if chosen.shape == mask.shape else chosen
            same, total = same + int(chosen.sum()), total + chosen.size
        if math.isnan(greatest):
            break
    return Comparison(len(TEXTS), greatest, same / total if total else None)


def _arrays(found: Any, expected: Any) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Yields the pairs of arrays that have more than one number for each text or token."""
    names = expected if isinstance(expected, dict) else None
    pairs = [(found[name], expected[name]) for name in names] if names else [(found, expected)]
    for ours, theirs in pairs:
        if np.ndim(theirs) > 1:
            yield np.asarray(ours), np.asarray(theirs)
