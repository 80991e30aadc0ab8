"""Settings of the pairs of texts that an encoder-decoder learns from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from kerasllm.cli.ranges import at_least
from kerasllm.cli.settings import in_group
from kerasllm.data.examples.parallel import EncodedPairs, PairFilter, encode_pairs
from kerasllm.data.sources.parallel import ParallelTexts, read_parallel
from kerasllm.errors import InputError


@dataclass(kw_only=True)
class ParallelOptions:
    """Settings for the pairs of a source and a target text that a model is trained on."""

    group: ClassVar[str] = "data"
    validation_options: ClassVar[str] = "--validation"

    train: list[str]
    """Source and target: two text files whose lines belong together, or one table (.tsv, .jsonl, hub:ID …)."""

    validation: list[str] = field(default_factory=list, metadata=in_group("validation"))
    """Validation pairs, given like --train."""

    test: list[str] = field(default_factory=list, metadata=in_group("validation"))
    """Test pairs, given like --train; translated once, at the end."""

    text_columns: str | None = None
    """Source and target column of a table: names, as in en,de, or numbers, as in 0,1, if it has no header."""

    source_language: str | None = None
    """Language of the sources, which is only recorded."""

    target_language: str | None = None
    """Language of the targets; a model of several is told by a tag before each source: >>de<< A man sleeps."""

    target_tag: bool = False
    """Begin each source with the tag >>LANGUAGE<< of --target_language, a token of its own, as tags in --train are."""

    max_ratio: float = field(default=3.0, metadata=at_least(0))
    """Leave out training pairs one side of which is so many times as long as the other; 0 (summaries) for none."""

    strict: bool = False
    """Refuse a held-out text that is longer than the positions, instead of cutting it."""

    @property
    def has_validation(self) -> bool:
        """True if validation data is given."""
        return bool(self.validation)

    @property
    def tags(self) -> list[str]:
        """The tag of the target language, if sources begin with it.

        Raises:
            InputError: there is to be a tag, and no target language is named.
        """
        if not self.target_tag:
            return []
        if not self.target_language:
            raise InputError("--target_tag needs --target_language, which the tag names")
        return [f">>{self.target_language}<<"]

    def read(self) -> dict[str, ParallelTexts]:
        """Returns the pairs by part; the held-out ones keep their empty sides.

        Raises:
            InputError: a file cannot be read, or two files have different numbers of lines.
        """
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            name: read_parallel(
                files, self.text_columns, split=name, keep_empty=name != "train"
            ).beginning_with(*self.tags)
            for name, files in given.items()
            if files
        }

    def encode(self, name: str, part: ParallelTexts, tokenizer: Any, shape: Any) -> EncodedPairs:
        """Returns a part as token ids; long training pairs are left out, held-out ones are cut.

        Args:
            name: the part's name.
            part: its pairs.
            tokenizer: the tokenizer of both sides.
            shape: the model's config.

        Raises:
            InputError: the vocabulary lacks a tag, no pair is left, or a held-out text is too long and `strict` is set.
        """
        for tag in sorted(part.tags | set(self.tags)):
            if tokenizer.token_to_id(tag) is None:
                raise InputError(
                    f"{part.place}: sources begin with the tag {tag}, which the vocabulary lacks"
                )
        training = name == "train"
        rule = PairFilter(
            shape.max_sequence_length,
            max_ratio=self.max_ratio if training else 0.0,
            cut=not training,
            strict=self.strict and not training,
        )
        return encode_pairs(part, tokenizer, end_id=shape.end_token_id, pad_id=shape.pad_token_id, rule=rule)
