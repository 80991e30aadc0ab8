"""Models whose loss projects to the vocabulary itself, a chunk of tokens at a time."""

from __future__ import annotations

from typing import Any

from kerasllm.losses import CausalLanguageModelLoss
from kerasllm.models.base import LanguageModel

_OWN = ("call", "project", "compute_loss", "compute_metrics")


class ProjectsInLoss(LanguageModel):
    """A language model that leaves the projection to the vocabulary to its loss, where nothing else needs the logits.

    A subclass has `output_table`, (vocabulary_size, hidden_dim), and its `call` returns hidden states instead of logits
    while `projects_in_loss` is set. It is set in the steps of `fit` and `evaluate` if the model is compiled with a
    `CausalLanguageModelLoss` that projects, and without metrics.
    """

    projects_in_loss = False

    @property
    def output_table(self) -> Any:
        """The table of the output projection, (vocabulary_size, hidden_dim)."""
        raise NotImplementedError

    @property
    def can_project_in_loss(self) -> bool:
        """Whether the logits are the product of hidden states and the table, and nothing else."""
        return True

    def train_step(self, *args: Any) -> Any:
        """Runs a training step, in which the loss may project to the vocabulary; see the class."""
        with _Projecting(self):
            return super().train_step(*args)

    def test_step(self, *args: Any) -> Any:
        """Runs an evaluation step, in which the loss may project to the vocabulary; see the class."""
        with _Projecting(self):
            return super().test_step(*args)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the compiled loss, from hidden states if `call` left the projection to the loss."""
        if not self.projects_in_loss:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        with self.loss.projecting(self.output_table, differentiable=training):
            return super().compute_loss(x, y, y_pred, sample_weight, training)


class _Projecting:
    """A context in which `call` returns hidden states, if the loss can project them to the vocabulary itself."""

    def __init__(self, model: ProjectsInLoss) -> None:
        self.model = model
        metrics = getattr(model, "_compile_metrics", None)
        unmetered = metrics is None or not (metrics._user_metrics or metrics._user_weighted_metrics)
        loss = getattr(model, "loss", None)
        # What a subclass computes from the outputs, it is to compute from logits.
        family = next(cls for cls in type(model).__mro__ if cls.__module__.startswith("kerasllm."))
        plain = all(getattr(type(model), name) is getattr(family, name) for name in _OWN)
        possible = isinstance(loss, CausalLanguageModelLoss) and loss.projects and unmetered and plain
        self.possible = possible and model.can_project_in_loss

    def __enter__(self) -> None:
        self.model.__dict__["projects_in_loss"] = (
            self.possible
        )  # twice a step, and nothing that Keras is to track

    def __exit__(self, *error: Any) -> None:
        self.model.__dict__["projects_in_loss"] = False
