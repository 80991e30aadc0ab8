"""Learning-rate schedules over optimizer steps, with or without gradient accumulation."""

import math

import keras
from keras import ops

from kerasllm.errors import InputError, counted


def warmup_steps(warmup: float, steps: int) -> int:
    """Returns `warmup` as a number of steps; below 1 it is a share of all `steps`.

    Raises:
        InputError: `warmup` is negative, no whole number from 1 on, or leaves no step after it.
    """
    count = round(warmup * steps) if warmup < 1 else int(warmup)
    if warmup < 0 or (warmup >= 1 and count != warmup):
        raise InputError(f"warmup is {warmup}: give a whole number of steps, or a share of all steps below 1")
    if count >= steps > 1:
        raise InputError(f"warmup takes {count} of {counted(steps, 'step')}: it must leave some")
    return min(count, steps - 1)


@keras.saving.register_keras_serializable(package="kerasllm")
class LinearWarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to the peak, then falls linearly to zero, one step after the last.

    Args:
        peak: the learning rate after warm-up.
        steps: number of all optimizer steps.
        warmup: steps of the rise; the first has peak / warmup, not zero.
        gradient_accumulation: batches per optimizer step; Keras passes the number of *batches* to a schedule.

    Reference: Devlin et al. 2019, https://arxiv.org/abs/1810.04805, appendix A.2.
    """

    def __init__(self, peak: float, *, steps: int, warmup: int = 0, gradient_accumulation: int = 1) -> None:
        self.peak = peak
        self.steps = steps
        self.warmup = warmup
        self.gradient_accumulation = gradient_accumulation

    def __call__(self, step):
        """Returns the learning rate of the optimizer step to which batch number `step` (from 0) belongs."""
        step = ops.cast(ops.floor_divide(step, self.gradient_accumulation), "float32")
        rise = (step + 1) / max(self.warmup, 1)
        fall = (self.steps - step) / max(self.steps - self.warmup, 1)
        factor = ops.where(step < self.warmup, rise, ops.clip(fall, 0.0, 1.0))
        return ops.cast(self.peak, "float32") * factor

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup": self.warmup,
            "gradient_accumulation": self.gradient_accumulation,
        }


@keras.saving.register_keras_serializable(package="kerasllm")
class InverseSquareRootDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to the peak, then falls with the inverse square root of the step.

    Args:
        peak: the learning rate after warm-up.
        steps: number of all optimizer steps, which this schedule does not need.
        warmup: steps of the rise; the first has peak / warmup, not zero.
        gradient_accumulation: batches per optimizer step; Keras passes the number of *batches* to a schedule.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 5.3.
    """

    def __init__(self, peak: float, *, steps: int, warmup: int = 0, gradient_accumulation: int = 1) -> None:
        self.peak = peak
        self.steps = steps
        self.warmup = warmup
        self.gradient_accumulation = gradient_accumulation

    def __call__(self, step):
        """Returns the learning rate of the optimizer step to which batch number `step` (from 0) belongs."""
        step = ops.cast(ops.floor_divide(step, self.gradient_accumulation), "float32") + 1
        warmup = float(max(self.warmup, 1))
        factor = ops.minimum(step / warmup, ops.sqrt(warmup / step))
        return ops.cast(self.peak, "float32") * factor

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup": self.warmup,
            "gradient_accumulation": self.gradient_accumulation,
        }


@keras.saving.register_keras_serializable(package="kerasllm")
class CosineWarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to the peak, then falls by a cosine to the minimum, one step after the last.

    Args:
        peak: the learning rate after warm-up.
        minimum: the learning rate at the end.
        steps: number of all optimizer steps.
        warmup: steps of the rise; the first has peak / warmup, not zero.
        gradient_accumulation: batches per optimizer step; Keras passes the number of *batches* to a schedule.

    Reference: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983; Brown et al. 2020,
    https://arxiv.org/abs/2005.14165, appendix B.
    """

    def __init__(
        self,
        peak: float,
        *,
        minimum: float = 0.0,
        steps: int,
        warmup: int = 0,
        gradient_accumulation: int = 1,
    ) -> None:
        self.peak = peak
        self.minimum = minimum
        self.steps = steps
        self.warmup = warmup
        self.gradient_accumulation = gradient_accumulation

    def __call__(self, step):
        """Returns the learning rate of the optimizer step to which batch number `step` (from 0) belongs."""
        step = ops.cast(ops.floor_divide(step, self.gradient_accumulation), "float32")
        rise = (step + 1) / max(self.warmup, 1)
        done = ops.clip((step - self.warmup) / max(self.steps - self.warmup, 1), 0.0, 1.0)
        fall = self.minimum + 0.5 * (1 + ops.cos(math.pi * done)) * (self.peak - self.minimum)
        return ops.where(step < self.warmup, self.peak * rise, fall)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            "peak": self.peak,
            "minimum": self.minimum,
            "steps": self.steps,
            "warmup": self.warmup,
            "gradient_accumulation": self.gradient_accumulation,
        }
