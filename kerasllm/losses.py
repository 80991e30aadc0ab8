"""Losses from logits, computed in float32 without one-hot labels and divided by the sum of the weights.

Keras' default reduction divides by the number of *slots*: with 19 masked tokens in 96 slots, loss and gradient would
be five times too small. Dividing by the sum of the weights is right for a single batch. If one update is made from
several batches (gradient accumulation, data parallelism), the mean of their means is not the mean over all of them.
For that case, build the loss with `reduction="sum"` and give weights `w * K / W`, where W is the sum of the weights of
all K batches, as the batches of `kerasllm.data` do. The mean of the K gradients is then that of one large batch.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
from keras import ops

from kerasllm import backend

IGNORED_LABEL = -100
"""A token with this label counts for no loss and no metric, as in `transformers` and PyTorch."""


def spread_weights(sample_weight, shape):
    """Returns weights float32 of the shape of the labels, in which a weight of a row weighs all that the row holds.

    Args:
        sample_weight: (batch,), (batch, 1) or the whole shape; None means that all weights are 1.
        shape: the shape of the labels, which begins with the batch.

    Raises:
        ValueError: the weights fit no labels of this shape.
    """
    if sample_weight is None:
        return ops.ones(shape, "float32")
    weights = ops.cast(sample_weight, "float32")
    given, rank = tuple(weights.shape), len(shape)
    while len(weights.shape) > rank and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, axis=-1)
    while 0 < len(weights.shape) < rank:
        weights = ops.expand_dims(weights, axis=-1)
    sizes = zip(weights.shape, shape, strict=False)
    if len(weights.shape) > rank or any(
        isinstance(own, int) and isinstance(size, int) and own not in (1, size) for own, size in sizes
    ):
        raise ValueError(
            f"sample weights of shape {given} do not fit labels of shape {tuple(shape)}: "
            "give a weight for each row, or for each label"
        )
    return ops.broadcast_to(weights, shape)


def spread_over_labels(sample_weight, labels, predictions):
    """Returns the weights of a batch, in which a weight of a row has become a weight of each of the row's labels.

    Keras' own losses and metrics would multiply a weight (batch, 1) by the number of labels, and fail for one of
    (batch,). Weights of labels, and those of one label a row, are returned as they are.

    Args:
        sample_weight: an array, or a dict by the name of the output; None without weights.
        labels: the labels of the batch, or a dict of them.
        predictions: what the model predicts, with one axis more than the losses; or a dict.

    Raises:
        ValueError: the weights do not fit the labels.
    """
    if sample_weight is None or labels is None:
        return sample_weight
    if isinstance(labels, dict) and isinstance(predictions, dict):
        given = sample_weight if isinstance(sample_weight, dict) else dict.fromkeys(labels, sample_weight)
        return {
            name: spread_over_labels(weights, labels.get(name), predictions.get(name))
            for name, weights in given.items()
        }
    ranks = [len(getattr(each, "shape", ())) for each in (sample_weight, labels, predictions)]
    losses = ranks[2] - 1
    if losses < 2 or ranks[1] < losses or not 0 < ranks[0] <= losses:
        return sample_weight
    shape = tuple(labels.shape)[:losses]
    if None not in shape and tuple(sample_weight.shape) == shape:
        return sample_weight
    return spread_weights(sample_weight, ops.shape(labels)[:losses])


def valid_labels(labels, sample_weight, classes):
    """Returns the labels int32, each within its range, and their weights float32 of the same shape.

    `IGNORED_LABEL` gets weight 0. A label of weight 0 may be anything, and becomes 0. Any other label that is no class
    gets weight NaN, and with it the loss and its gradients: a gather would wrap it, clamp it or fail, by the backend.

    Args:
        labels: int (...).
        sample_weight: as `spread_weights` takes it.
        classes: number of classes.
    """
    labels = ops.cast(labels, "int32")
    weights = spread_weights(sample_weight, ops.shape(labels))
    weights = ops.where(labels == IGNORED_LABEL, 0.0, weights)
    is_class = ops.logical_and(labels >= 0, labels < classes)
    weights = ops.where(ops.logical_or(is_class, weights == 0), weights, math.nan)
    return ops.where(is_class, labels, 0), weights


def token_cross_entropy(labels, logits):
    """Returns the cross-entropy of each label in nats, float32 (...), for labels int (...) and logits (..., classes).

    It is `logsumexp - logit[label]` after subtraction of the largest logit, without one-hot labels.
    """
    return backend.cross_entropy(ops.cast(labels, "int32"), ops.convert_to_tensor(logits))


class _WeightedLoss(keras.losses.Loss):
    """The base class of the losses, which reduces one value per label as Keras does.

    In a training step of several processes, the sum of the weights is that of all their rows.
    """

    divides_by_all = True

    def __init__(self, reduction: str = "mean_with_sample_weight", name: str | None = None) -> None:
        super().__init__(name=name, reduction=reduction)

    def prepare(self, y_true, y_pred, sample_weight):
        """Returns labels and weights of the shape of the losses."""
        labels = _without_last_axis(y_true, len(y_pred.shape))
        return labels, spread_weights(sample_weight, ops.shape(y_pred))

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Returns a scalar, or the unreduced losses with `reduction=None`."""
        # Keras' own method would first make a float32 copy of the logits under mixed precision.
        labels, weights = self.prepare(y_true, y_pred, sample_weight)
        # A padded slot may hold NaN, which multiplication by zero would keep.
        losses = ops.where(weights == 0, 0.0, self.call(labels, y_pred) * weights)
        if self.reduction in (None, "none"):
            return losses
        total = ops.sum(losses)
        if self.reduction == "sum":
            return total
        if self.reduction == "mean_with_sample_weight":
            return total / ops.maximum(backend.total_weight(ops.sum(weights)), 1e-7)
        return total / ops.cast(ops.size(losses), "float32")

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"reduction": self.reduction, "name": self.name}


def _without_last_axis(labels, rank: int):
    """Returns labels of `rank` axes, without a last axis of length 1, as a column of a table has it.

    Raises:
        ValueError: they have another number of axes.
    """
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) == rank + 1 and labels.shape[-1] == 1:
        labels = ops.squeeze(labels, axis=-1)
    if len(labels.shape) != rank:
        raise ValueError(f"the labels have shape {tuple(labels.shape)}, they must have {rank} axes")
    return labels


class _CrossEntropy(_WeightedLoss):
    """The base class of the losses that are weighted cross-entropies from logits."""

    takes_classes = True

    def __init__(
        self,
        label_smoothing: float = 0.0,
        reduction: str = "mean_with_sample_weight",
        name: str | None = None,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}, it must lie in [0, 1)")
        super().__init__(name=name, reduction=reduction)
        self.label_smoothing = label_smoothing

    def prepare(self, y_true, y_pred, sample_weight):
        """Returns the result of `valid_labels`."""
        labels = _without_last_axis(y_true, len(y_pred.shape) - 1)
        return valid_labels(labels, sample_weight, y_pred.shape[-1])

    def call(self, y_true, y_pred):
        """Returns the loss of each label, in nats."""
        losses = token_cross_entropy(y_true, y_pred)
        if self.label_smoothing == 0:
            return losses
        logits = ops.cast(y_pred, "float32")
        uniform = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
        return (1 - self.label_smoothing) * losses + self.label_smoothing * uniform

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable(package="kerasllm")
class MaskedLanguageModelLoss(_CrossEntropy):
    """Mean cross-entropy over the masked tokens of a batch.

    It is divided by the sum of the weights, so that empty prediction slots do not change it.

    Args:
        label_smoothing: probability mass spread over the vocabulary, in [0, 1).
        reduction: "mean_with_sample_weight", or "sum" if the weights are already normalized (see the docstring of
            this module).
        name: the loss's name.

    Call it with `labels` int (batch, slots), `logits` float (batch, slots, vocabulary) and `sample_weight`
    (batch, slots), 1 for a real slot, 0 for padding. It returns a scalar in nats, 0 if all weights are 0.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1.
    """


@keras.saving.register_keras_serializable(package="kerasllm")
class NextSentenceLoss(_CrossEntropy):
    """Mean cross-entropy of "B follows A" (class 0) against "B is from elsewhere" (class 1).

    Args:
        label_smoothing: probability mass spread over both classes, in [0, 1).
        reduction: "mean_with_sample_weight", or "sum" if the weights are already normalized.
        name: the loss's name.

    Call it with `labels` int (batch,), `logits` float (batch, 2) and, optionally, `sample_weight` (batch,); for packed
    rows each has a second axis of slots. It returns a scalar in nats.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1.
    """


@keras.saving.register_keras_serializable(package="kerasllm")
class AnswerSpanLoss(_CrossEntropy):
    """Mean cross-entropy of the first and the last token of an answer, among all tokens of the row.

    The loss of a row is the mean of that of its first and that of its last token. As in `transformers`, padding counts
    among the tokens of a row.

    Args:
        label_smoothing: probability mass spread over the tokens, in [0, 1).
        reduction: "mean_with_sample_weight", or "sum" if the weights are already normalized.
        name: the loss's name.

    Call it with `labels` int (batch, 2), the positions of the first and the last token, both 0 ([CLS]) without an
    answer; `logits` float (batch, length, 2); and, optionally, `sample_weight` (batch, 2), or (batch,) for both. It
    returns a scalar in nats.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 4.2.
    """

    takes_classes = False

    def prepare(self, y_true, y_pred, sample_weight):
        """Returns the result of `valid_labels`, where the classes are the tokens of a row."""
        return valid_labels(y_true, sample_weight, ops.shape(y_pred)[1])

    def call(self, y_true, y_pred):
        """Returns the losses of the first and of the last token, (batch, 2), in nats."""
        return super().call(y_true, ops.swapaxes(y_pred, 1, 2))


@keras.saving.register_keras_serializable(package="kerasllm")
class SquaredErrorLoss(_WeightedLoss):
    """Mean squared error of one number per example; numbers with a weight of 0 do not count.

    Keras' own loss takes the mean over the last axis, here the batch, before it applies the weights.

    Args:
        reduction: "mean_with_sample_weight", or "sum" if the weights are already normalized.
        name: the loss's name.

    Call it with float `labels`, predictions and, optionally, `sample_weight`, all of the same shape. It returns a
    scalar.
    """

    def call(self, y_true, y_pred):
        """Returns the squared error of each number."""
        return ops.square(ops.cast(y_pred, "float32") - ops.cast(y_true, "float32"))


@keras.saving.register_keras_serializable(package="kerasllm")
class ClassificationLoss(_CrossEntropy):
    """Mean cross-entropy of one class per example.

    Args:
        label_smoothing: probability mass spread over the classes, in [0, 1).
        reduction: "mean_with_sample_weight", or "sum" if the weights are already normalized.
        name: the loss's name.

    Call it with `labels` int (batch,), `logits` float (batch, classes) and, optionally, `sample_weight` (batch,); for
    packed rows each has a second axis of slots. It returns a scalar in nats. The label -100 does not count; the loss
    is NaN for any other that is no class.
    """


@keras.saving.register_keras_serializable(package="kerasllm")
class MultiLabelLoss(_WeightedLoss):
    """Mean binary cross-entropy of the labels of an example, each of which applies or not, whatever the others do.

    Args:
        reduction: "mean_with_sample_weight", or "sum" if the weights are already normalized.
        name: the loss's name.

    Call it with `labels` (batch, classes), 1 for a label that applies, 0 for one that does not, or a probability;
    `logits` float of the same shape; and, optionally, `sample_weight`, (batch,) or a weight for each label. It returns
    a scalar in nats per label. The label -100 does not count; the loss is NaN for any other outside of [0, 1].
    """

    def prepare(self, y_true, y_pred, sample_weight):
        """Returns labels within [0, 1], and weights of their shape."""
        labels = ops.cast(y_true, "float32")
        if len(labels.shape) != len(y_pred.shape):
            raise ValueError(
                f"the labels have shape {tuple(labels.shape)}: a model of several labels takes 0 or 1 for each of "
                f"{y_pred.shape[-1]} labels"
            )
        weights = spread_weights(sample_weight, ops.shape(y_pred))
        of_labels = sample_weight is not None and tuple(sample_weight.shape) == tuple(y_pred.shape)
        if (
            self.reduction == "sum" and not of_labels
        ):  # the sum over the examples, of a mean over their labels
            weights = weights / y_pred.shape[-1]
        weights = ops.where(labels == IGNORED_LABEL, 0.0, weights)
        is_label = ops.logical_and(labels >= 0, labels <= 1)
        weights = ops.where(ops.logical_or(is_label, weights == 0), weights, math.nan)
        return ops.where(is_label, labels, 0.0), weights

    def call(self, y_true, y_pred):
        """Returns the loss of each label, in nats."""
        logits = ops.cast(y_pred, "float32")
        return ops.maximum(logits, 0.0) - logits * y_true + ops.log1p(ops.exp(-ops.abs(logits)))


LOGITS_AT_A_TIME = {4: 1 << 26, 2: 1 << 27}
"""Size of a chunk's logits in `CausalLanguageModelLoss`, in bytes, by the bytes of one logit.

Each chunk adds to the gradient of the whole table. In half precision that takes 4 to 8 % of the time, hence larger
chunks there.
"""


@keras.saving.register_keras_serializable(package="kerasllm")
class CausalLanguageModelLoss(_CrossEntropy):
    """Mean cross-entropy of the next tokens of a batch.

    A `GPTCausalLM` that is compiled with this loss and without metrics never computes all logits at once: the
    projection to the vocabulary, the cross-entropy and their gradients are computed for a chunk of tokens at a time,
    so that memory does not grow with batch x length x vocabulary.

    Args:
        label_smoothing: probability mass spread over the vocabulary, in [0, 1).
        chunk_size: the number of tokens in a chunk; None means as many as give `LOGITS_AT_A_TIME` bytes of logits,
            and 0 means no chunks.
        reduction: "mean_with_sample_weight", or "sum" if the weights are already normalized (see the docstring of
            this module).
        name: the loss's name.

    Call it with `labels` int (batch, length), the tokens that follow the inputs, `logits` float
    (batch, length, vocabulary) and, optionally, `sample_weight` (batch, length), 0 for padding. It returns a scalar in
    nats, 0 if all weights are 0.

    Reference: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 3.1.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        chunk_size: int | None = None,
        reduction: str = "mean_with_sample_weight",
        name: str | None = None,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, reduction=reduction, name=name)
        if chunk_size is not None and chunk_size < 0:
            raise ValueError(f"chunk_size is {chunk_size}, it must be at least 0")
        self.chunk_size = chunk_size
        self._projection: Callable[..., Any] | None = None

    @property
    def projects(self) -> bool:
        """Whether `project` may be used instead of calling the loss with logits."""
        reductions = ("sum", "mean_with_sample_weight")
        return self.chunk_size != 0 and self.reduction in reductions

    @contextmanager
    def projecting(self, table, *, differentiable: bool = True) -> Iterator[None]:
        """Within, the loss is called with hidden states in place of logits, and calls `project`.

        So Keras weighs it, and adds the losses of layers and regularizers to it, as it does with any other loss.
        """
        self._projection = partial(self.project, table=table, differentiable=differentiable)
        try:
            yield
        finally:
            self._projection = None

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Returns a scalar, or the unreduced losses with `reduction=None`; see also `projecting`."""
        if self._projection is not None:
            return self._projection(y_true, y_pred, sample_weight=sample_weight)
        return super().__call__(y_true, y_pred, sample_weight)

    def project(self, labels, hidden, table, sample_weight=None, *, differentiable: bool = True):
        """Returns the loss of `labels` under the logits `hidden @ table.T`, chunk by chunk.

        Args:
            labels: int (batch, length).
            hidden: float (batch, length, hidden_dim).
            table: float (vocabulary, hidden_dim).
            sample_weight: float (batch, length), (batch, 1) or (batch,).
            differentiable: whether gradients are needed.
        """
        vocabulary = table.shape[0]
        labels, weights = valid_labels(labels, sample_weight, vocabulary)
        tokens = math.prod(ops.shape(labels))
        width = 4 if keras.backend.standardize_dtype(hidden.dtype) == "float32" else 2
        at_a_time = self.chunk_size or max(LOGITS_AT_A_TIME[width] // (vocabulary * width), 1)
        chunks = -(-tokens // at_a_time)
        if isinstance(tokens, int):  # equal chunks need no padding and only one program
            chunks = next((n for n in range(chunks, 2 * chunks) if tokens % n == 0), chunks)
        total = backend.linear_cross_entropy(
            ops.reshape(hidden, (tokens, hidden.shape[-1])),
            ops.convert_to_tensor(table),
            ops.reshape(labels, (tokens,)),
            ops.reshape(weights, (tokens,)),
            -(-tokens // chunks),  # about equal chunks, so that the last is not mostly padding
            differentiable,
        )
        if self.label_smoothing:
            total = total + self.label_smoothing * self._spread(labels, hidden, table, weights)
        if self.reduction == "sum":
            return total
        return total / ops.maximum(backend.total_weight(ops.sum(weights)), 1e-7)

    def _spread(self, labels, hidden, table, weights):
        """Returns the sum over all tokens of the label's logit less the mean logit.

        The cross-entropy with smoothed labels is that without, plus the probability mass times this difference. Logits
        are linear in the table, so that the mean logit is a product with the table's mean row.
        """
        table = ops.convert_to_tensor(table)
        rows = backend.take_rows(table, labels) - ops.mean(table, axis=0)
        differences = ops.sum(ops.cast(hidden, "float32") * ops.cast(rows, "float32"), axis=-1)
        return ops.sum(ops.where(weights == 0, 0.0, differences * weights))

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"chunk_size": self.chunk_size}
