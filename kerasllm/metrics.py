"""Accuracy and perplexity from logits, computed without a softmax."""

import keras
from keras import ops

from kerasllm import backend
from kerasllm.losses import token_cross_entropy, valid_labels


class _WeightedMean(keras.metrics.Metric):
    """The base class of the metrics: a weighted sum of values divided by the sum of the weights."""

    def __init__(self, name: str | None = None, **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable(shape=(), initializer="zeros", name="total", dtype="float32")
        self.weight = self.add_variable(shape=(), initializer="zeros", name="weight", dtype="float32")

    def values(self, y_true, y_pred):
        """Returns one value for each label."""
        raise NotImplementedError

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch: labels int (...), logits (..., classes), weights (...) or (batch,); see `valid_labels`."""
        y_pred = ops.convert_to_tensor(y_pred)
        labels, weights = valid_labels(y_true, sample_weight, y_pred.shape[-1])
        values = ops.cast(self.values(labels, y_pred), "float32")
        self.total.assign_add(ops.sum(ops.where(weights == 0, 0.0, values * weights)))
        self.weight.assign_add(ops.sum(weights))

    def result(self):
        """Returns the weighted mean so far, 0 before the first batch."""
        return self.total / ops.maximum(self.weight, 1e-7)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"name": self.name, "dtype": self.dtype}


def _hits(labels, logits):
    """Returns 1 for each label whose logit is the highest, 1/n if n logits are the highest, and 0 otherwise."""
    return backend.hits(ops.cast(labels, "int32"), ops.convert_to_tensor(logits))


@keras.saving.register_keras_serializable(package="kerasllm")
class MaskedLanguageModelAccuracy(_WeightedMean):
    """Share of the masked tokens that are predicted correctly.

    Args:
        name: the metric's name.

    Call `update_state` with labels int (batch, slots), logits (batch, slots, vocabulary) and `sample_weight`
    (batch, slots).
    """

    def __init__(self, name: str = "accuracy", **kwargs) -> None:
        super().__init__(name=name, **kwargs)

    def values(self, y_true, y_pred):
        """Returns 1 for a hit, 0 for a miss, a fraction for a tie."""
        return _hits(y_true, y_pred)


@keras.saving.register_keras_serializable(package="kerasllm")
class NextSentenceAccuracy(_WeightedMean):
    """Share of the pairs whose class is predicted correctly.

    Args:
        name: the metric's name.

    Call `update_state` with labels int (batch,), logits (batch, 2) and, optionally, `sample_weight` (batch,).
    """

    def __init__(self, name: str = "accuracy", **kwargs) -> None:
        super().__init__(name=name, **kwargs)

    def values(self, y_true, y_pred):
        """Returns 1 for a hit, 0 for a miss, a half for a tie."""
        return _hits(y_true, y_pred)


@keras.saving.register_keras_serializable(package="kerasllm")
class Perplexity(_WeightedMean):
    """The exponential of the mean cross-entropy of the tokens.

    Args:
        name: the metric's name.

    Call `update_state` with labels int (...), logits (..., vocabulary) and, optionally, `sample_weight`.
    """

    def __init__(self, name: str = "perplexity", **kwargs) -> None:
        super().__init__(name=name, **kwargs)

    def values(self, y_true, y_pred):
        """Returns the cross-entropy of each token, in nats."""
        return token_cross_entropy(y_true, y_pred)

    def result(self):
        """Returns the exponential of the weighted mean so far."""
        return ops.exp(super().result())
