"""Settings of the questions that a reader learns from."""

from __future__ import annotations

from dataclasses import dataclass

from kerasllm.data.sources.splitting import text_key
from kerasllm.data.sources.squad import Questions, read_questions
from kerasllm.training.options.fine_tuning import FineTuningOptions


@dataclass(kw_only=True)
class QuestionOptions(FineTuningOptions):
    """Settings for the questions with answers in a text that a model is fine-tuned on."""

    train: str
    """Questions in SQuAD's .json, or with columns question, context and answers in .jsonl, .parquet or hub:ID."""

    strict: bool = False
    """Refuse answers that do not stand where answer_start says, and ids that occur twice."""

    def read(self, seed: int) -> dict[str, Questions]:
        """Returns the data by part; questions about one context stay together.

        Args:
            seed: seed of the choice of questions that are set aside.

        Raises:
            InputError: a file cannot be read, or is refused because of `strict`.
        """
        parts = {
            name: read_questions(source, strict=self.strict, split=name)
            for name, source in self.sources.items()
        }
        whole = parts["train"]
        groups = [text_key(whole.contexts[index]) for index in whole.context_of]
        aside = {name: whole.select(records) for name, records in self.set_aside(groups, seed).items()}
        return parts | aside
