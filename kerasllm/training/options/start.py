"""Settings of the model that a run starts from: a checkpoint, or a named size with `--model.*` changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from tokenizers import Tokenizer

from kerasllm.checkpoints import resolve_directory
from kerasllm.cli.ranges import within
from kerasllm.errors import InputError, short
from kerasllm.models.registry import check_checkpoint
from kerasllm.tokenizers.encoding import differing_token

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]

BYTE_LEVEL_BPE = ("byte_level_bpe", "bpe")
"""The names by which `--tokenizer` asks for byte-level BPE, trained on the corpus."""


@dataclass
class ShapeOptions:
    """The options that BERT and GPT share."""

    config_class: ClassVar[Any]
    length_option: ClassVar[str]
    checkpoint_classes: ClassVar[tuple[Any, ...]] = ()

    num_layers: int | None = None
    """Number of blocks."""

    num_heads: int | None = None
    """Attention heads per block."""

    hidden_dim: int | None = None
    """Width of the model."""

    intermediate_dim: int | None = None
    """Width inside the feed-forward network; 4 * hidden_dim if null."""

    dropout: float | None = field(default=None, metadata=within(0, 1))
    """Dropout of embeddings, residuals and attention."""

    max_sequence_length: int | None = None
    """Number of learned positions."""

    activation: Activation | None = None
    """Activation of the feed-forward network; gelu is the exact one."""

    def chosen(self) -> dict[str, Any]:
        """Returns the options that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def shape(self, size: str, *, vocabulary_size: int, sequence_length: int, positions: int) -> Any:
        """Returns the config of a new model.

        Args:
            size: the named size that the options change.
            vocabulary_size: number of tokens.
            sequence_length: tokens per example of the data.
            positions: learned positions unless the options name a number; raised to `sequence_length` if below it.

        Raises:
            InputError: an option is out of range, or the data is longer than the positions.
        """
        changes = {"max_sequence_length": max(positions, sequence_length)} | self.chosen()
        try:
            config = self.config_class.from_size(size, vocabulary_size=vocabulary_size, **changes)
        except ValueError as error:
            raise InputError(f"--model.{error}") from error
        if sequence_length > config.max_sequence_length:
            raise InputError(
                f"{self.length_option} {sequence_length} is above --model.max_sequence_length "
                f"{config.max_sequence_length}: lower the one or raise the other"
            )
        return config

    def check_with(self, init: str, *, vocabulary_size: int, sequence_length: int | None) -> Any:
        """Refuses a checkpoint that does not fit, before anything slow is done or much memory is taken.

        Args:
            init: a run, a model directory or a hub id.
            vocabulary_size: one more than the tokenizer's greatest id.
            sequence_length: tokens per example of the data; None for all of the checkpoint's positions.

        Returns:
            The checkpoint's config.

        Raises:
            InputError: the checkpoint is damaged, does not fit the tokenizer or the data, or an option
                would change its shape.
        """
        changed = [name for name in self.chosen() if name != "dropout"]
        if changed:
            raise InputError(
                f"--model.{changed[0]} cannot change a checkpoint: leave it out, or leave --init out"
            )
        shape = check_checkpoint(init, self.checkpoint_classes or self.config_class)
        if vocabulary_size > shape.vocabulary_size:
            raise InputError(
                f"the tokenizer has {vocabulary_size} tokens, the model of {init} {shape.vocabulary_size}: they "
                "do not belong together; take the tokenizer that the checkpoint came with"
            )
        if sequence_length is not None and sequence_length > shape.max_sequence_length:
            raise InputError(
                f"{self.length_option} {sequence_length} is above the {shape.max_sequence_length} positions of {init}"
            )
        return shape


@dataclass(kw_only=True)
class StartOptions:
    """The checkpoint that a run starts from, if it does."""

    group: ClassVar[str] = "model"

    init: str | None = None
    """A run, model directory or hub id to start from, with its tokenizer; from scratch if null."""

    def tokenizer_of_init(self, tokenizer: str | None, load: Callable[[str | Path], Tokenizer]) -> Tokenizer:
        """Returns the tokenizer of `--init`, or the one that `--tokenizer` names, which must have its tokens.

        Args:
            tokenizer: the value of `--tokenizer`.
            load: reads a tokenizer from a file or a directory.

        Raises:
            InputError: there is no tokenizer, or it gives other ids to the same tokens.
        """
        assert self.init is not None
        directory = resolve_directory(self.init)
        if not tokenizer:
            return load(directory)
        given = load(tokenizer)
        try:
            own = load(directory).get_vocab()
        except InputError:  # a checkpoint without one
            return given
        token = differing_token(given.get_vocab(), own)
        if token is not None:
            raise InputError(
                f"--tokenizer {tokenizer}: does not belong to the model of {self.init}, whose tokenizer has other ids, "
                f"of {short(token)} for instance; leave it out, --init brings its own"
            )
        return given

    def make_model(self, model_class: Any, shape: Any, **settings: Any) -> Any:
        """Returns a model from the checkpoint, or a new one.

        Args:
            model_class: the class of the task model.
            shape: config of a new model.
            settings: further arguments of the class, such as `seed`.
        """
        if self.init:
            dropout = self.model.dropout  # type: ignore[attr-defined]
            changes = {} if dropout is None else {"dropout": dropout}
            return model_class.from_pretrained(self.init, **settings, **changes)
        return model_class(shape, **settings)


def say_that_a_tokenizer_is_trained(kind: str, size: int) -> None:
    """Prints that a tokenizer is trained, which may take a while."""
    print(f"training a {kind} tokenizer of at most {size:,} tokens …", flush=True)
