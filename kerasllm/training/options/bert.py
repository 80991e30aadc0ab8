"""Settings of the BERT that a run starts from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from kerasllm.cli.ranges import at_least
from kerasllm.cli.settings import only_without
from kerasllm.errors import InputError
from kerasllm.models import BERT_SIZES, BertConfig
from kerasllm.tokenizers.encoding import vocabulary_size
from kerasllm.tokenizers.loading import load_wordpiece
from kerasllm.tokenizers.wordpiece import train_wordpiece
from kerasllm.training.options.start import ShapeOptions, StartOptions, say_that_a_tokenizer_is_trained

BertSize: Any = Literal[tuple(BERT_SIZES)]


@dataclass
class BertOptions(ShapeOptions):
    """Changes to a named size of BERT; null keeps the size's own value."""

    config_class = BertConfig
    length_option = "--sequence_length"


@dataclass(kw_only=True)
class BertStartOptions(StartOptions):
    """Settings for the BERT that a run starts from: a checkpoint with its tokenizer, or a new model."""

    group: ClassVar[str] = "model"

    tokenizer: str | None = None
    """A tokenizer.json or vocab.txt, or a directory or run with one; if null, WordPiece is trained on the data."""

    vocabulary_size: int = field(default=30522, metadata=only_without("init", "tokenizer") | at_least(1))
    """Size of the WordPiece vocabulary to train."""

    lowercase: bool = field(default=True, metadata=only_without("init", "tokenizer"))
    """Whether the trained tokenizer lowercases text."""

    strip_accents: bool | None = field(default=None, metadata=only_without("init", "tokenizer"))
    """Whether it strips accents, and with them vowel signs of Hindi, Thai and others; like --lowercase if null."""

    size: BertSize = field(default="mini", metadata=only_without("init"))
    """Named size of a new model; --model.* options override it."""

    model: BertOptions = field(default_factory=BertOptions)

    sequence_length: int = 128
    """Maximum tokens per example, special tokens included."""

    positions: ClassVar[int] = 512
    """Learned positions of a new model, unless --model.max_sequence_length is given."""

    shortest: ClassVar[int] = 4
    """Smallest `sequence_length` that is allowed."""

    def check_start(self) -> None:
        """Refuses an impossible length or shape of a new model, before anything is read.

        Raises:
            InputError: an option is out of range; the message names it.
        """
        if self.sequence_length < self.shortest:
            raise InputError(
                f"--sequence_length is {self.sequence_length}, it must be at least {self.shortest}"
            )
        if not self.init:
            self._shape(self.vocabulary_size)

    def find_tokenizer(self, texts: Iterable[str]) -> Any:
        """Returns the tokenizer that `--tokenizer` names, that of `--init`, or one trained on texts.

        Args:
            texts: the texts to train on, read only if they are needed.

        Raises:
            InputError: there is no tokenizer, or it does not fit the checkpoint.
        """
        if self.init:
            tokenizer = self.tokenizer_of_init(self.tokenizer, load_wordpiece)
            size = vocabulary_size(tokenizer)
            self.model.check_with(self.init, vocabulary_size=size, sequence_length=self.sequence_length)
            return tokenizer
        if self.tokenizer:
            return load_wordpiece(self.tokenizer)
        say_that_a_tokenizer_is_trained("WordPiece", self.vocabulary_size)
        return train_wordpiece(
            texts, self.vocabulary_size, lowercase=self.lowercase, strip_accents=self.strip_accents
        )

    def make_bert(self, model_class: Any, num_tokens: int, **settings: Any) -> Any:
        """Returns a model from the checkpoint, or a new one.

        Args:
            model_class: the class of a BERT with heads.
            num_tokens: vocabulary size of the tokenizer.
            settings: further arguments of the class, such as `seed`.
        """
        return self.make_model(model_class, None if self.init else self._shape(num_tokens), **settings)

    def _shape(self, num_tokens: int) -> Any:
        return self.model.shape(
            self.size,
            vocabulary_size=num_tokens,
            sequence_length=self.sequence_length,
            positions=self.positions,
        )
