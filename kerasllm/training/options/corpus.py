"""Settings of the text that a model is pretrained on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar

from kerasllm.cli.ranges import at_least, within
from kerasllm.cli.settings import in_group
from kerasllm.data.sources.corpus import Corpus
from kerasllm.data.token_cache.store import TokenStore
from kerasllm.data.token_cache.stream import TokenStream, tokenize_stream
from kerasllm.errors import InputWarning, counted, naming
from kerasllm.training.options.fine_tuning import FAR


@dataclass(kw_only=True)
class CorpusOptions:
    """Settings for the text that a model is pretrained on."""

    group: ClassVar[str] = "data"
    validation_options: ClassVar[str] = "--validation_corpus or a --validation_fraction above 0"

    corpus: list[str]
    """Text files or directories, .jsonl, .parquet, hub:ID of a data set, or python-docs; several allowed."""

    validation_corpus: list[str] = field(default_factory=list, metadata=in_group("validation"))
    """Validation text, given like --corpus; without it, --validation_fraction sets text aside."""

    validation_fraction: float = field(default=0.05, metadata=within(0, 1) | in_group("validation"))
    """Share of the text set aside for validation if there is no --validation_corpus; 0 for none."""

    text_column: str = "text"
    """Field that holds the text in .jsonl, .parquet and hub data sets."""

    processes: int | None = field(default=None, metadata=at_least(1))
    """Processes that tokenize; one per core if null."""

    @property
    def corpus_names(self) -> str:
        """The `--corpus` option as the user gave it, for messages."""
        return f"--corpus {' '.join(self.corpus)}"

    @property
    def validation_names(self) -> str:
        """The option that provides the validation text, for messages."""
        if self.validation_corpus:
            return f"--validation_corpus {' '.join(self.validation_corpus)}"
        return f"--validation_fraction {self.validation_fraction} of {self.corpus_names}"

    @property
    def has_validation(self) -> bool:
        """True if text is given or set aside for validation."""
        return bool(self.validation_corpus) or self.validation_fraction > 0

    def token_streams(
        self, corpus: Corpus, tokenizer: Any, **splitting: Any
    ) -> tuple[TokenStream, TokenStream | None]:
        """Returns the tokens of a corpus to train on and those to validate with, and prints how many they are.

        Args:
            corpus: what `--corpus` names.
            tokenizer: the model's tokenizer.
            splitting: how validation text is set aside; see `TokenStream.split`.
        """
        training, validation = tokenize_stream(corpus, tokenizer, processes=self.processes), None
        if self.validation_corpus:
            held_out = Corpus(self.validation_corpus, self.text_column)
            validation = tokenize_stream(held_out, tokenizer, processes=self.processes)
        elif self.validation_fraction > 0:
            with naming(self.corpus_names):
                training, validation = training.split(self.validation_fraction, **splitting)
        self.report(training, validation)
        return training, validation

    def report(self, training: TokenStore | TokenStream, validation: TokenStore | TokenStream | None) -> None:
        """Prints how much text there is to train on and to validate with, and what share was set aside.

        Args:
            training: the text to train on.
            validation: the text to validate with; None if there is none.

        Warns:
            InputWarning: the share that was set aside is far from `--validation_fraction`.
        """

        def amount(part: TokenStore | TokenStream) -> str:
            return f"{counted(part.num_documents, 'document')}, {counted(part.num_tokens, 'token')}"

        print(f"to train on: {amount(training)}", flush=True)
        if validation is None:
            return
        if self.validation_corpus:
            print(f"to validate with: {amount(validation)}", flush=True)
            return
        share = validation.num_tokens / (training.num_tokens + validation.num_tokens)
        print(
            f"set aside for validation: {amount(validation)}, {100 * share:.2g} % of the corpus", flush=True
        )
        if not 1 / FAR < share / self.validation_fraction < FAR:
            warnings.warn(
                f"--validation_fraction asks for {100 * self.validation_fraction:.2g} % and {100 * share:.2g} % was "
                "set aside, as the documents cannot be divided better; name a --validation_corpus, or another fraction",
                InputWarning,
                stacklevel=2,
            )
