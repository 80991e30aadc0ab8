"""Losses from logits, in float32, without a one-hot of the vocabulary, divided by the sum of the weights.

Keras' default reduction divides by the number of *slots*: 19 masked tokens in 96 slots would shrink loss and
gradient five times. A sum of the weights is right for one batch; where one update is made from several
batches (gradient accumulation, data parallelism), a mean of their means is not the mean of the whole. There,
build the loss with `reduction="sum"` and let the data carry the weights: `w * K / W`, W the sum of all K
batches' weights, as `kerasllm.data`'s batches do. The average of the K gradients is then that of the big batch.
"""

import math

import keras
from keras import ops

from kerasllm import backend


def token_cross_entropy(labels, logits):
    """Returns the cross-entropy of each label in nats, float32 (...), for labels int (...) and logits (..., classes).

    The largest logit is subtracted first, and `logsumexp - logit[label]` needs no one-hot.
    """
    return backend.cross_entropy(ops.cast(labels, "int32"), ops.convert_to_tensor(logits))


class _WeightedLoss(keras.losses.Loss):
    """Keras' reductions of one value a label, for the classes below."""

    def __init__(self, reduction: str = "mean_with_sample_weight", name: str | None = None) -> None:
        super().__init__(name=name, reduction=reduction)

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Returns a scalar, or the unreduced losses with `reduction=None`."""
        # Keras' own would first make a float32 copy of the logits under mixed precision.
        losses = self.call(y_true, y_pred)
        weights = ops.ones_like(losses) if sample_weight is None else ops.cast(sample_weight, "float32")
        # A padded slot may hold anything, a NaN too: it is left out, not multiplied by zero.
        losses = ops.where(weights == 0, 0.0, losses * weights)
        if self.reduction in (None, "none"):
            return losses
        total = ops.sum(losses)
        if self.reduction == "sum":
            return total
        if self.reduction == "mean_with_sample_weight":
            return total / ops.maximum(ops.sum(weights), 1e-7)
        return total / ops.cast(ops.size(losses), "float32")

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"reduction": self.reduction, "name": self.name}


class _CrossEntropy(_WeightedLoss):
    """Weighted cross-entropy from logits, for the classes below."""

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

    Divides by the sum of the weights, so empty prediction slots dilute nothing.

    Args:
        label_smoothing: probability mass spread over the vocabulary, in [0, 1).
        reduction: "mean_with_sample_weight", or "sum" where the weights are normalized already (see the
            module's text on gradient accumulation and data parallelism).
        name: of the loss.

    Call with `labels` int (batch, slots), `logits` float (batch, slots, vocabulary) and `sample_weight`
    (batch, slots), 1 for a real slot, 0 for padding. Returns a scalar in nats; 0 where all weights are 0.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1.
    """


@keras.saving.register_keras_serializable(package="kerasllm")
class NextSentenceLoss(_CrossEntropy):
    """Mean cross-entropy of "B follows A" (class 0) against "B is from elsewhere" (class 1).

    Args:
        label_smoothing: probability mass spread over both classes, in [0, 1).
        reduction: "mean_with_sample_weight", or "sum" where the weights are normalized already.
        name: of the loss.

    Call with `labels` int (batch,), `logits` float (batch, 2) and, optionally, `sample_weight` (batch,); in packed
    rows each has a second axis, of slots. Returns a scalar in nats.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1.
    """


@keras.saving.register_keras_serializable(package="kerasllm")
class SquaredErrorLoss(_WeightedLoss):
    """Mean squared error of one number each; those with a weight of 0 do not count.

    Keras' own takes the mean over the last axis, which is that of the texts here, before it looks at the weights.

    Args:
        reduction: "mean_with_sample_weight", or "sum" where the weights are normalized already.
        name: of the loss.

    Call with `labels` and predictions, float of one shape, and, optionally, `sample_weight` of the same.
    Returns a scalar.
    """

    def call(self, y_true, y_pred):
        """Returns the squared difference of each."""
        return ops.square(ops.cast(y_pred, "float32") - ops.cast(y_true, "float32"))


LOGITS_AT_A_TIME = {4: 1 << 26, 2: 1 << 27}
"""Bytes of a chunk's logits in `CausalLanguageModelLoss`, by the bytes of one logit: 64 MiB in float32, else 128 MiB.

Each chunk adds to the gradient of the whole table; beside products in half precision that counts for 4 to 8 %.
"""


@keras.saving.register_keras_serializable(package="kerasllm")
class CausalLanguageModelLoss(_CrossEntropy):
    """Mean cross-entropy of the next tokens of a batch.

    `GPTCausalLM`, compiled with this loss and without metrics on the logits, never makes all logits at once:
    the projection to the vocabulary and the cross-entropy run over a chunk of tokens at a time, and so do their
    gradients, so that memory does not grow with batch x length x vocabulary.

    Args:
        label_smoothing: probability mass spread over the vocabulary, in [0, 1); above 0 all logits are made.
        chunk_size: tokens at a time; as many as give `LOGITS_AT_A_TIME` bytes where None, all logits at once
            where 0.
        reduction: "mean_with_sample_weight", or "sum" where the weights are normalized already (see the
            module's text on gradient accumulation and data parallelism).
        name: of the loss.

    Call with `labels` int (batch, length), the tokens that follow the inputs, `logits` float
    (batch, length, vocabulary) and, optionally, `sample_weight` (batch, length), 0 for padding. Returns a
    scalar in nats; 0 where all weights are 0.

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

    @property
    def projects(self) -> bool:
        """Returns whether `project` may take the place of the call."""
        reductions = ("sum", "mean_with_sample_weight")
        return self.label_smoothing == 0 and self.chunk_size != 0 and self.reduction in reductions

    def project(self, labels, hidden, table, sample_weight=None, *, differentiable: bool = True):
        """Returns the loss of `labels` under the logits `hidden @ table.T`, chunk by chunk.

        Args:
            labels: int (batch, length).
            hidden: float (batch, length, hidden_dim).
            table: (vocabulary, hidden_dim).
            sample_weight: (batch, length), or (batch,).
            differentiable: whether gradients may be asked for.
        """
        shape = ops.shape(labels)
        weights = ops.ones(shape, "float32") if sample_weight is None else ops.cast(sample_weight, "float32")
        if len(weights.shape) == 1:
            weights = ops.broadcast_to(weights[:, None], shape)
        tokens, vocabulary = math.prod(shape), table.shape[0]
        width = 4 if keras.backend.standardize_dtype(hidden.dtype) == "float32" else 2
        at_a_time = self.chunk_size or max(LOGITS_AT_A_TIME[width] // (vocabulary * width), 1)
        chunks = -(-tokens // at_a_time)
        if isinstance(tokens, int):  # chunks of one size need no padding and one program
            chunks = next((n for n in range(chunks, 2 * chunks) if tokens % n == 0), chunks)
        total = backend.linear_cross_entropy(
            ops.reshape(hidden, (tokens, hidden.shape[-1])),
            ops.convert_to_tensor(table),
            ops.reshape(ops.cast(labels, "int32"), (tokens,)),
            ops.reshape(weights, (tokens,)),
            -(-tokens // chunks),  # chunks of the same size, so that the last is not mostly padding
            differentiable,
        )
        if self.reduction == "sum":
            return total
        return total / ops.maximum(ops.sum(weights), 1e-7)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"chunk_size": self.chunk_size}
