"""Settings of the texts that an encoder learns from, and of its loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from kerasllm.cli.ranges import above, at_least
from kerasllm.data.sources.pairs import TextGroups, read_groups
from kerasllm.data.sources.splitting import text_key
from kerasllm.errors import InputError
from kerasllm.tasks.embedding import Embedding, LossName
from kerasllm.training.options.fine_tuning import FineTuningOptions


@dataclass(kw_only=True)
class PairOptions(FineTuningOptions):
    """Settings for the texts that belong together, and for the loss that brings their vectors together."""

    train: str
    """Pairs: .tsv, .csv, .jsonl, .parquet or hub:ID; or plain text, .txt, whose lines are their own pairs (SimCSE)."""

    text_columns: str | None = None
    """Columns of anchor, positive and hard negatives, as in 0,1 or anchor,positive; one column for plain text."""

    label_column: str | None = None
    """Column of the scores of graded pairs."""

    held_out_columns: str | None = None
    """Columns of --validation and --test, if they differ from --text_columns."""

    loss: Literal["auto", "ranking", "cosent", "cosine", "triplet", "distillation"] = "auto"
    """auto is cosent for graded pairs and ranking otherwise; distillation needs --teacher."""

    scale: float = field(default=20.0, metadata=above(0))
    """Factor of the cosines in ranking and cosent."""

    symmetric: bool = False
    """In ranking, a positive must find its anchor, too."""

    margin: float = field(default=0.5, metadata=above(0))
    """How much nearer than the negative the positive must be in triplet, in cosines."""

    matryoshka_dims: list[int] = field(default_factory=list)
    """Sizes to which vectors may be cut later, such as 384 128 64; the loss is summed over them."""

    mini_batch_size: int | None = field(default=None, metadata=at_least(1))
    """Pairs computed at a time: a --batch_size of 1024 then fits, for about a third more time; all if null."""

    teacher: str | None = None
    """An encoder whose vectors of the first texts are the targets of all texts of their pairs (distillation)."""

    def parts_of(self, batch_size: int) -> int:
        """Returns the number of parts in which a batch is computed; see `BertEncoder.training_parts`."""
        return -(-batch_size // (self.mini_batch_size or batch_size))

    def check_loss(self) -> None:
        """Refuses settings of the loss that contradict each other.

        Raises:
            InputError: `--loss distillation` is given without `--teacher`, or the other way round.
        """
        if (self.loss == "distillation") != bool(self.teacher):
            raise InputError("--loss distillation and --teacher belong together: give both or none")

    def read(self, seed: int) -> dict[str, TextGroups]:
        """Returns the data by part.

        Args:
            seed: seed of the choice of pairs that are set aside.

        Raises:
            InputError: a file cannot be read, or held-out data has single texts.
        """
        whole = read_groups(self.train, self.text_columns, self.label_column, split="train")
        groups = [text_key(texts[0]) for texts in whole.texts]
        parts = {name: whole.select(records) for name, records in self.set_aside(groups, seed).items()}
        for name, source in self.sources.items():
            if name != "train":
                columns = self.held_out_columns or self.text_columns
                parts[name] = read_groups(source, columns, self.label_column, split=name)
        for name, part in parts.items():
            if name != "train" and part.width == 1:
                source = self.sources.get(name, self.train)
                raise InputError(
                    f"{source}: single texts measure nothing: give pairs, and --held_out_columns"
                )
        return parts

    def make_task(self, training: TextGroups, monitor: str) -> Embedding:
        """Returns the task with the loss that suits the training data.

        Args:
            training: the training data.
            monitor: the figure that is to be monitored.

        Raises:
            InputError: the loss does not suit the data, or `monitor` is none of the task's figures.
        """
        graded = training.scores is not None
        loss: LossName = ("cosent" if graded else "ranking") if self.loss == "auto" else self.loss
        if loss in ("cosent", "cosine") and not graded:
            raise InputError(f"--loss {loss} is for graded pairs: give --label_column")
        if loss == "cosine" and training.scores is not None and np.abs(training.scores).max() > 1:
            raise InputError(
                f"--loss cosine draws cosines towards the scores, and those of {training.source} go up to "
                f"{np.abs(training.scores).max():g}: scale them to [-1, 1], or take --loss cosent"
            )
        if loss == "triplet" and training.width < 3:
            raise InputError("--loss triplet needs three --text_columns: anchor, positive and negative")
        if monitor != "loss" and graded != (monitor in ("spearman", "pearson")):
            raise InputError(f"--monitor {monitor} is no figure of {'' if graded else 'un'}graded pairs")
        settings: dict[str, Any] = {"matryoshka_dims": self.matryoshka_dims or None}
        settings |= {"scale": self.scale} if loss in ("ranking", "cosent") else {}
        settings |= {"symmetric": self.symmetric} if loss == "ranking" else {}
        settings |= {"margin": self.margin} if loss == "triplet" else {}
        return Embedding(loss, **settings)
