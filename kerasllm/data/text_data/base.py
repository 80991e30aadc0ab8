"""The base class of data sets made from texts, of which each pass of `fit` is an epoch of its own."""

from __future__ import annotations

import abc
from typing import Any

import keras

from kerasllm.data.batches.base import MicroBatches
from kerasllm.data.batches.share import Share
from kerasllm.errors import InputError


class TextData(keras.utils.PyDataset, abc.ABC):
    """A Keras data set whose items are the batches of one epoch, made anew for each epoch of `fit`.

    A batch is a pure function of the seed, the epoch and its index. `fit` of a model of kerasllm sets the epoch, keeps
    the order of the batches (whatever its `shuffle`), and calls `bind_to`; `evaluate` always reads epoch 0. With
    another Keras model, the next epoch begins after a whole pass, and `fit` wants `shuffle=False` if the order of the
    batches, too, shall depend on the seed alone.

    Args:
        batches: batches that start at step 0 and have `steps_per_epoch`.
        shuffle: whether each epoch differs; otherwise every pass is epoch 0.

    Attributes:
        epoch: the epoch that is read, from 0.
        share: (part, parts, multiple): which of a batch's rows this process reads; `fit` sets it. See `Share`.
        batches: the batches, by the number of the step over all epochs.
    """

    wants = ""  # the kind of model, for messages

    def __init__(self, batches: MicroBatches, *, shuffle: bool) -> None:
        super().__init__()
        self.batches, self.shuffle = batches, shuffle
        self.epoch = self._reads = 0
        self.share = (0, 1, 1)
        self._last, self._shapes_asked, self._in_epoch = -1, False, False

    @property
    def num_batches(self) -> int:
        """The number of batches in an epoch, by which Keras asks before it compares the shapes of the first two."""
        self._shapes_asked = not self._in_epoch
        return len(self)

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        return self.batches.steps_per_epoch

    def __getitem__(self, index: int) -> Any:
        """Returns batch `index` of the current epoch."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        self._reads, self._last = self._reads + 1, index
        # Outside of an epoch, the batches show TensorFlow which axes vary; nobody else is shown anything but the texts.
        (self.batches.on_epoch_end if self._shapes_asked and index < 2 else self.batches.on_epoch_begin)()
        epoch = self.epoch if self.shuffle else 0
        batch = self.batches.whole(epoch * len(self) + index, index)
        return batch if self.share == (0, 1, 1) else Share(*self.share).of(batch)

    def on_epoch_begin(self) -> None:
        """Counts the batches that are read from here on."""
        self._reads, self._shapes_asked, self._in_epoch = 0, False, True

    def on_epoch_end(self) -> None:
        """Goes on to the next epoch if the whole of this one was read."""
        self._shapes_asked = self._in_epoch = False
        if self._reads >= len(self):
            self.epoch += 1

    def epoch_callback(self) -> keras.callbacks.Callback:
        """Returns a callback that sets the epoch to that of `fit`."""
        return _SetEpoch(self)

    def bind_to(self, model: Any) -> None:
        """Checks that a model can read these batches, before `fit` and `evaluate`.

        Raises:
            InputError: the model is of another kind, or has fewer positions or tokens.
        """
        if not self.suits(model):
            raise InputError(f"{type(self).__name__} is for {self.wants}, not for {type(model).__name__}")
        config = model.config
        if self.longest > config.max_sequence_length:
            raise InputError(
                f"the rows of this {type(self).__name__} have up to {self.longest} tokens, the model has "
                f"{config.max_sequence_length} positions: make it with {self.length_name}={config.max_sequence_length}"
            )
        if self.greatest_token >= config.vocabulary_size:
            raise InputError(
                f"the texts hold token {self.greatest_token}, the model has {config.vocabulary_size} tokens: give the "
                "model's own tokenizer"
            )

    length_name = "sequence_length"  # the argument that bounds the length of a row

    @property
    @abc.abstractmethod
    def longest(self) -> int:
        """The greatest length of a row."""

    @property
    @abc.abstractmethod
    def greatest_token(self) -> int:
        """The greatest token id of the texts."""

    @abc.abstractmethod
    def suits(self, model: Any) -> bool:
        """Returns whether a model of kerasllm has the outputs that the labels belong to."""

    def in_order(self) -> TextData:
        """Returns the data set for `predict`, whose outputs must have the order of the texts."""
        return self


class _SetEpoch(keras.callbacks.Callback):
    """Sets the epoch of a data set at the beginning of each epoch of `fit`."""

    def __init__(self, data: TextData) -> None:
        super().__init__()
        self.data, self.has_begun = data, False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        data = self.data
        whole = self.params.get("steps") in (None, len(data))
        if whole or not self.has_begun:
            data.epoch = epoch
        elif (
            data._last == len(data) - 1
        ):  # with `steps_per_epoch`, a pass goes on over several epochs of `fit`
            data.epoch += 1
        self.has_begun = True
