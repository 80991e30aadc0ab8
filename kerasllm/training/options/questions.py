"""Settings of the questions that a reader learns from."""

from __future__ import annotations

from dataclasses import dataclass

from kerasllm.data.sources.cloze import is_plain_text, read_cloze_questions
from kerasllm.data.sources.splitting import text_key
from kerasllm.data.sources.squad import Questions, read_questions
from kerasllm.errors import InputError
from kerasllm.training.options.fine_tuning import FineTuningOptions


@dataclass(kw_only=True)
class QuestionOptions(FineTuningOptions):
    """Settings for the questions with answers in a text that a model is fine-tuned on."""

    train: str
    """Questions in SQuAD's .json, or with columns question, context and answers in .jsonl, .parquet or hub:ID; with
    --cloze also plain text."""

    strict: bool = False
    """Refuse answers that do not stand where answer_start says, and ids that occur twice."""

    cloze: bool = False
    """Make questions from the text of --train (its contexts, or plain text) in place of reading them: pretraining."""

    def read(self, seed: int) -> dict[str, Questions]:
        """Returns the data by part; questions about one context stay together.

        Args:
            seed: seed of the choice of questions that are set aside.

        Raises:
            InputError: a file cannot be read, or is refused because of `strict`.
        """
        parts = {}
        for name, source in self.sources.items():
            if self.cloze and name == "train":
                parts[name] = read_cloze_questions(source, seed)
                continue
            if is_plain_text(source):
                mend = "; --cloze true makes some from plain text" if name == "train" else ""
                raise InputError(f"--{name} {source}: questions are .json, .jsonl, .parquet or hub:ID{mend}")
            parts[name] = read_questions(source, strict=self.strict, split=name)
        whole = parts["train"]
        groups = [text_key(whole.contexts[index]) for index in whole.context_of]
        aside = {name: whole.select(records) for name, records in self.set_aside(groups, seed).items()}
        return parts | aside
