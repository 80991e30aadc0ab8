"""The comparison that ends each export: twenty texts through the exported file and through the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kerasllm.errors import InputError
from kerasllm.export.samples import TEXTS, real_outputs, sample_batches
from kerasllm.models import BertBackbone, BertEncoder

ALLOWED = {"float32": 1e-4, "float16": 1e-2}
"""The greatest difference that is allowed, by the precision of an exported file's weights.

It is absolute for outputs up to 1, and beyond that a share of the greatest output, as rounding errors are.
"""


@dataclass(frozen=True)
class Comparison:
    """How far the results of an exported file are from the model's.

    Args:
        texts: number of texts.
        greatest_difference: the greatest absolute difference of an output at a real token.
        greatest_output: the greatest absolute value of an output of the model there.
        same_choice: the share of tokens, or of texts, for which the greatest output is the same one; None for outputs
            that are no scores.
    """

    texts: int
    greatest_difference: float
    greatest_output: float
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
        allowed = ALLOWED[precision] * max(1.0, self.greatest_output)
        if not self.greatest_difference <= allowed:  # NaN is not
            raise InputError(
                f"{place}: results differ from the model's by {self.greatest_difference:.2g}, above {allowed:.2g}: "
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
    differences, outputs, same = [0.0], [0.0], [np.zeros(0, bool)]
    is_vector = isinstance(model, BertBackbone | BertEncoder)
    for inputs in sample_batches(model, tokenizer):
        mask = inputs.get("padding_mask")
        if (
            mask is None
        ):  # of an encoder-decoder, whose targets' padding is that of the sources, one token later
            mask = np.pad(inputs["encoder_padding_mask"], ((0, 0), (1, 0)), constant_values=1)
            mask = np.roll(mask[:, 1:], 1, axis=0)
        for ours, theirs in real_outputs(
            exported.predict_on_batch(inputs), model.predict_on_batch(inputs), mask
        ):
            differences.append(float(np.abs(ours - theirs).max()))
            outputs.append(float(np.abs(theirs).max()))
            if theirs.ndim > 1 and not is_vector:
                same.append((ours.argmax(axis=-1) == theirs.argmax(axis=-1)).reshape(-1))
    choices = np.concatenate(same)
    return Comparison(
        len(TEXTS),
        float(np.max(differences)),  # NaN if one is
        float(np.max(outputs)),
        float(choices.mean()) if choices.size else None,
    )
