"""Settings of sentences whose words have tags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kerasllm.data.sources.splitting import text_key
from kerasllm.data.sources.tagged import Splitter, TaggedSentences, TagScheme, read_tagged
from kerasllm.training.options.fine_tuning import FineTuningOptions


@dataclass(kw_only=True)
class TaggedOptions(FineTuningOptions):
    """Settings for the sentences with tags that a model is fine-tuned on."""

    train: str
    """Sentences with tags: CoNLL columns, .jsonl, .parquet, or hub:ID."""

    token_column: str | None = None
    """Column of the words: its number from 0 in CoNLL files (0 if null), its name elsewhere."""

    label_column: str | None = None
    """Column of the tags, likewise; the last one in CoNLL files if null."""

    tag_scheme: TagScheme = "auto"
    """Scheme of the tags to train on; auto keeps IOB2 and BIOES, and converts IOB1; none takes tags as they are."""

    def read(self, seed: int, split_words: Splitter | None) -> dict[str, TaggedSentences]:
        """Returns the data by part; validation and test data have the tags of the training data.

        Args:
            seed: seed of the choice of sentences that are set aside.
            split_words: function that divides texts with character spans into words; None if there is no tokenizer.

        Raises:
            InputError: a file cannot be read, or a tag of one part does not occur in training.
        """
        columns = self.token_column, self.label_column
        reading: dict[str, Any] = {"scheme": self.tag_scheme, "split_words": split_words}
        whole = read_tagged(self.train, *columns, split="train", **reading)
        groups = [text_key(*words) for words in whole.words]
        parts = {name: whole.select(records) for name, records in self.set_aside(groups, seed).items()}
        for name, source in self.sources.items():
            if name != "train":
                parts[name] = read_tagged(
                    source, *columns, split=name, label_names=whole.label_names, **reading
                )
        return parts
