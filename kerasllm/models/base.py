"""The base class of all models: a frozen config, weights built in the constructor, fixed names, checkpoints."""

from __future__ import annotations

import warnings
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from kerasllm import backend
from kerasllm.backend import memory
from kerasllm.checkpoints import Format, push_model, read_model, write_model
from kerasllm.errors import InputError, InputWarning
from kerasllm.layers.initializers import default_seed
from kerasllm.layers.projections import merged_kernel
from kerasllm.models.inputs import checked_inputs, named_inputs
from kerasllm.models.registry import family_of


class LanguageModel(keras.Model):
    """Base class of every backbone and task model.

    Args:
        config: an instance of the family's frozen config dataclass.
        seed: seed of the initial values and of dropout. By default it is drawn from Python's random generator,
            which `keras.utils.set_random_seed` seeds.

    If the attribute `per_step_metrics` is set before `fit`, the logs hold each batch's own values instead of Keras'
    running means over the epoch. If `catch_non_finite` is set before `fit`, a batch whose loss or gradient is not
    finite does not update the weights; `gradient_norm` is added to the logs and is not finite for such a batch.
    """

    config_class: ClassVar[type]

    def __init__(self, config: Any, *, seed: int | None = None, name: str | None = None) -> None:
        super().__init__(name=name)
        self.config = config
        self.seed = default_seed() if seed is None else seed
        self.per_step_metrics = False
        self._loss_by_default = False
        self.catch_non_finite = False

    def get_config(self) -> dict[str, Any]:
        """Returns the fields of the config; the task models add their own settings."""
        return asdict(self.config)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> LanguageModel:
        """Returns a model from the result of `get_config`, with newly initialized weights."""
        names = {field.name for field in fields(cls.config_class)}
        own = {key: value for key, value in config.items() if key in names}
        settings = {
            key: value for key, value in config.items() if key not in names | {"name", "trainable", "dtype"}
        }
        return cls(cls.config_class(**own), **settings)

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Does nothing, because the constructor creates all weights."""

    def build(self, input_shape: Any = None) -> None:
        """Marks the model as built; the constructor has already created all weights."""
        self.built = True

    def named_variables(self) -> dict[str, keras.Variable]:
        """Returns all weights, without dropout counters, by a name `layer/weight` that is the same on every backend."""
        found: dict[str, keras.Variable] = {}
        for layer in self.layers:
            inner = layer.named_variables() if isinstance(layer, LanguageModel) else None
            for variable in layer.weights if inner is None else ():
                found[f"{layer.name}/{variable.name}"] = variable
            found.update(inner or {})
        return found

    def merged(self, name: str) -> np.ndarray:
        """Returns a variable of `named_variables` as a NumPy array; a kernel has its low-rank adapter added."""
        layer_name, _, weight = name.rpartition("/")
        if weight.endswith("_kernel"):
            for layer in self._flatten_layers(include_self=False):
                if layer.name == layer_name:
                    return merged_kernel(layer, weight.removesuffix("_kernel"))
        return keras.ops.convert_to_numpy(self.named_variables()[name])

    @property
    def accepted_inputs(self) -> tuple[str, ...]:
        """The names of the inputs: those of the backbone; empty if the inputs are the model's own affair."""
        return getattr(getattr(self, "backbone", None), "accepted_inputs", ())

    @property
    def label_counts(self) -> dict[str, int]:
        """The number of classes that labels are taken from, by what the model predicts; empty without such labels."""
        return {}

    def default_loss(self, reduction: str = "mean_with_sample_weight") -> Any:
        """Returns the loss, or a dict of losses, that fits the model; None for a backbone, which has no task.

        Args:
            reduction: that of the losses.
        """
        return None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model with a dict by our names or Hugging Face's, or with token ids alone; see the class."""
        return super().__call__(*self._named(args), **kwargs)

    def stateless_call(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model with the values of its variables, as `__call__` does with its own."""
        return super().stateless_call(*args[:2], *self._named(args[2:]), **kwargs)

    def _named(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns positional arguments with the inputs, which come first, by our names."""
        if not args or not self.accepted_inputs:
            return args
        return (named_inputs(args[0], self.accepted_inputs, type(self).__name__), *args[1:])

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **settings: Any) -> None:
        """Compiles the model as Keras does; without a loss, with the one that fits it (see `default_loss`).

        On PyTorch, where Keras refuses `steps_per_execution`, each step is executed alone.

        Args:
            optimizer: as Keras takes it.
            loss: as Keras takes it; None for the loss that fits the model.
            settings: Keras' other arguments, such as `metrics`.
        """
        self._loss_by_default = loss is None
        loss = self.default_loss() if loss is None else loss
        steps = settings.get("steps_per_execution", 1)
        if keras.backend.backend() == "torch" and isinstance(steps, int) and steps > 1:
            warnings.warn("steps_per_execution has no effect on PyTorch", InputWarning, stacklevel=2)
            settings["steps_per_execution"] = 1
        super().compile(optimizer=optimizer, loss=loss, **settings)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the compiled loss and the losses of layers, as Keras does.

        Raises:
            kerasllm.errors.InputError: there are no labels for the loss that `compile` chose.
        """
        if y is None and self._loss_by_default and self.default_loss() is not None:
            step = next(cls for cls in type(self).__mro__ if "train_step" in vars(cls))
            if step.__module__.startswith("kerasllm."):
                raise InputError(
                    f"{type(self).__name__} was given no labels: give them as y, or (inputs, labels)"
                )
            return keras.ops.zeros(
                ()
            )  # Keras asks before the first step, whatever loss the subclass's own has
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as it was compiled before it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **settings: Any) -> Any:
        """Trains the model as Keras does, after a look at the inputs; see `kerasllm.models.inputs.checked_inputs`.

        Raises:
            kerasllm.errors.InputError: the inputs are texts or have wrong names, an id or a label is out of range, or
                there are class weights for a model that does not predict one class for each row.
        """
        if settings.get("class_weight") and tuple(self.label_counts) != ("classes",):
            raise InputError(
                f"class_weight is for models that predict one class for each row, {type(self).__name__} is none: "
                "give sample_weight instead"
            )
        x = checked_inputs(self, x, y, settings.get("sample_weight"))
        held_out = settings.get("validation_data")
        if isinstance(held_out, tuple):
            settings["validation_data"] = (checked_inputs(self, *held_out), *held_out[1:])
        return super().fit(x, y, *args, **settings)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **settings: Any) -> Any:
        """Evaluates the model as Keras does, after a look at the inputs as in `fit`."""
        x = checked_inputs(self, x, y, settings.get("sample_weight"))
        return super().evaluate(x, y, *args, **settings)

    def predict(self, x: Any, *args: Any, **settings: Any) -> Any:
        """Predicts as Keras does, after a look at the inputs as in `fit`."""
        return super().predict(checked_inputs(self, x), *args, **settings)

    def make_train_function(self, force: bool = False) -> None:
        """Calls Keras' own method; on TensorFlow, `jit_compile` may compile only a part of the step."""
        memory.keep()
        backend.make_train_function(self, partial(super().make_train_function, force))

    def train_step(self, *args: Any) -> Any:
        """Runs Keras' step, compiled as suits the backend, with `per_step_metrics` and `catch_non_finite` applied."""
        step = partial(backend.compiled_step, self, super().train_step)
        if self.per_step_metrics:
            step = partial(backend.per_step_metrics, self, step)
        if self.catch_non_finite:
            step = partial(backend.guarded_step, self, step)
        return step(*args)

    def test_step(self, *args: Any) -> Any:
        """Runs Keras' own step, with the same matrix products as a training step."""
        return backend.evaluation_step(self, super().test_step, *args)

    def _should_torch_compile(self) -> bool:
        """Returns False: `torch.compile` would break the graph of a whole step at every layer; see `train_step`."""
        return False

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, **settings: Any
    ) -> LanguageModel:
        """Reads a model in Hugging Face's format; no tokenizer files are needed.

        Heads that the checkpoint lacks are newly initialized; a warning names them, and the weights of the
        checkpoint that were not used. The weights are read one by one, straight into the model.

        Args:
            source: a model directory, a run directory (whose `model/` is read), or a hub id, OWNER/NAME or
                OWNER/NAME@REVISION, which is downloaded into huggingface-hub's cache.
            revision: the branch, tag or commit of a hub id.
            settings: constructor arguments that the checkpoint does not record (e.g. `num_classes`), `seed` for
                newly initialized heads, and `dropout`, which overrides the checkpoint's.

        Raises:
            kerasllm.errors.InputError: a file is missing or damaged, or the model cannot be represented here.
        """
        return read_model(cls, family_of(cls).formats, source, revision=revision, **settings)

    @property
    def hugging_face_format(self) -> Format:
        """The Hugging Face format in which this model is written.

        Raises:
            kerasllm.errors.InputError: the class is not one that its family registers, a subclass for example.
        """
        cls = type(self)
        if cls not in family_of(cls).classes:
            raise InputError(f"{cls.__name__} has no counterpart in Hugging Face's format")
        return family_of(cls).format_of(self.config)

    def save_pretrained(
        self, directory: str | Path, *, tokenizer: Any = None, max_shard_size: int | str = "5GB"
    ) -> None:
        """Writes config.json and model.safetensors in Hugging Face's format, which `transformers` loads.

        An existing README.md is kept; a model that generates text gets a generation_config.json too.

        Args:
            directory: the directory, which is created if it is missing.
            tokenizer: a tokenizer of the `tokenizers` library, whose files are written too.
            max_shard_size: the largest size of a weights file, in bytes or as in "100MB"; a larger model is divided
                into several files with an index.

        Raises:
            kerasllm.errors.InputError: the directory cannot be written.
        """
        write_model(self, directory, tokenizer=tokenizer, max_shard_size=max_shard_size)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        tokenizer: Any = None,
        private: bool | None = None,
        revision: str | None = None,
        message: str = "Upload a model of kerasllm",
    ) -> str:
        """Uploads what `save_pretrained` writes to the Hugging Face hub, with huggingface-hub and its token.

        Args:
            repo_id: the repository, OWNER/NAME, which is created if it is missing.
            tokenizer: a tokenizer of the `tokenizers` library, which is uploaded too.
            private: whether a new repository is private; None means the owner's default.
            revision: the branch; None means the main branch.
            message: the commit message.

        Returns:
            The URL of the commit.

        Raises:
            kerasllm.errors.InputError: the upload is not permitted, or the hub does not answer.
        """
        settings: dict[str, Any] = {"private": private, "revision": revision, "message": message}
        return push_model(self, repo_id, tokenizer=tokenizer, **settings)

    def training_flops(self, length: int, predicted: int | None = None) -> float:
        """Returns the FLOPs per token of one training step: forward and backward pass, without the optimizer.

        Padding and the logits of positions without a label are not counted; see `kerasllm.models.flops`.

        Args:
            length: the number of tokens in a sequence.
            predicted: the number of positions in a sequence whose next, or masked, token is predicted; None means
                all positions.
        """
        return family_of(type(self)).training_flops(self, length, length if predicted is None else predicted)
