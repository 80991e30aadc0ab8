"""The base class of all models: a frozen config, weights built in the constructor, fixed names, checkpoints."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from kerasllm import backend, processes
from kerasllm.backend import memory
from kerasllm.checkpoints import Format, push_model, read_model, write_model
from kerasllm.checkpoints.adapters import read_adapter, write_adapter
from kerasllm.errors import InputError, InputWarning
from kerasllm.layers.initializers import default_seed
from kerasllm.layers.projections import merged_kernel
from kerasllm.losses import spread_over_labels
from kerasllm.models.export import check_export, export_settings, signature_of, types_of
from kerasllm.models.inputs import checked_inputs, named_inputs
from kerasllm.models.keras_methods import KerasMethods
from kerasllm.models.labels import check_class_weight
from kerasllm.models.registry import family_of


class LanguageModel(KerasMethods):
    """Base class of every backbone and task model.

    Args:
        config: an instance of the family's frozen config dataclass.
        backbone: the backbone that a task model is given; its dtype policy is the model's unless `dtype` is given.
        seed: seed of the initial values and of dropout. By default it is drawn from Python's random generator,
            which `keras.utils.set_random_seed` seeds.
        dtype: the dtype policy of the model and its layers, as Keras' layers take it; by default the global policy.
        kwargs: Keras' `name` and `trainable`.

    If the attribute `per_step_metrics` is set before `fit`, the logs hold each batch's own values instead of Keras'
    running means over the epoch. If `catch_non_finite` is set before `fit`, a batch whose loss or gradient is not
    finite does not update the weights; `gradient_norm` is added to the logs and is not finite for such a batch. If a
    backbone's `recompute` is set before `fit`, its blocks' inner values are computed again in the backward pass: less
    memory, and more time.
    """

    config_class: ClassVar[type]
    reads_any_tokenizer: ClassVar[bool] = False  # whether a classifier needs no special tokens such as [CLS]

    def __init__(
        self, config: Any, *, backbone: Any = None, seed: int | None = None, dtype: Any = None, **kwargs: Any
    ) -> None:
        if dtype is None and backbone is not None:
            dtype = backbone.dtype_policy
        # Keras would cast token ids that come as floats to the type computed in: bfloat16 has no 257.
        super().__init__(dtype=dtype, autocast=False, **kwargs)
        self.config = config
        self.seed = default_seed() if seed is None else seed
        self.per_step_metrics = False
        self._loss_by_default = False
        self.catch_non_finite = self.recompute = False
        self._input_types: tuple[tuple[str, tuple[int, str]], ...] = ()
        self._gathered: dict[str, np.ndarray] = {}

    def get_config(self) -> dict[str, Any]:
        """Returns Keras' own settings, the fields of the config, the seed, the backbone, and which layers are frozen.

        The task models add their own settings.
        """
        frozen = [layer.name for layer in self.layers if not layer.trainable]
        config = super().get_config() | asdict(self.config) | {"seed": self.seed, "frozen_layers": frozen}
        if isinstance(backbone := getattr(self, "backbone", None), LanguageModel):
            config["backbone"] = keras.saving.serialize_keras_object(backbone)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> LanguageModel:
        """Returns a model from the result of `get_config`, with newly initialized weights."""
        names = {field.name for field in fields(cls.config_class)}
        settings = {key: value for key, value in config.items() if key not in names}
        frozen = settings.pop("frozen_layers", None)
        if "backbone" in settings:
            backbone = settings["backbone"]
            settings["backbone"] = keras.saving.deserialize_keras_object(backbone, custom_objects)
        model = cls(cls.config_class(**{key: config[key] for key in names & config.keys()}), **settings)
        for layer in model.layers if frozen is not None else ():
            if layer.trainable == (layer.name in frozen):
                layer.trainable = not layer.trainable
        return model

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Does nothing, because the constructor creates all weights."""

    def build(self, input_shape: Any = None) -> None:
        """Lets Keras record the shapes of the inputs; the constructor has already created all weights."""
        self.built = True

    def _lock_state(self) -> None:
        """Does nothing, where Keras would refuse layers from now on: users replace one by their own before training."""

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the symbolic outputs of a symbolic call, by tracing `call`, which a subclass may have of its own."""
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shapes of the outputs, of those of the inputs by name."""
        inputs = {name: keras.KerasTensor(shape, "int32") for name, shape in input_shape.items()}
        return keras.tree.map_structure(lambda output: output.shape, self.compute_output_spec(inputs))

    def export(
        self,
        filepath: str | Path,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Writes the model for inference, as Keras' own method does, for any number of rows and any length.

        Args:
            filepath: the file or directory.
            format: Keras' formats; which are possible depends on the backend and the packages that are installed.
            verbose: whether a line says where it was written.
            input_signature: the inputs, `[{"token_ids": keras.InputSpec((None, None), "int32", name="token_ids")}]`
                for example. By default they are those that the model was called with last, of any length.
            kwargs: see `keras.Model.export`.

        Raises:
            kerasllm.errors.InputError: the model was not called and no signature is given, or Keras cannot write the
                format on this backend.
        """
        if input_signature is None:
            input_signature = signature_of(dict(self._input_types))
        kwargs = export_settings(format, input_signature, kwargs)
        self.build(input_signature)  # collects the weights of all layers, which PyTorch's exporters look for
        super().export(filepath, format, verbose, input_signature, **kwargs)
        check_export(format, filepath, input_signature)

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
        if name in self._gathered:
            return self._gathered[name]
        layer_name, _, weight = name.rpartition("/")
        if weight.endswith("_kernel"):
            for layer in self._flatten_layers(include_self=False):
                if layer.name == layer_name:
                    return merged_kernel(layer, weight.removesuffix("_kernel"))
        return backend.whole(self.named_variables()[name])

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within, `merged` gives what all processes have gathered together, so that one alone can write the model."""
        if processes.place()[1] > 1:
            for name in self.named_variables():
                value = self.merged(name)
                if processes.is_first():
                    self._gathered[name] = value
        try:
            yield
        finally:
            self._gathered = {}

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
        with backend.reading(self):
            return super().__call__(*self._named(args), **kwargs)

    def stateless_call(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model with the values of its variables, as `__call__` does with its own."""
        return super().stateless_call(*args[:2], *self._named(args[2:]), **kwargs)

    def _named(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns positional arguments with the inputs, which come first, by our names; they are noted for `export`."""
        if not args or not self.accepted_inputs:
            return args
        inputs = named_inputs(args[0], self.accepted_inputs, type(self).__name__)
        if isinstance(inputs, dict):
            self._input_types = tuple(types_of(inputs).items())
        return (inputs, *args[1:])

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **settings: Any) -> None:
        """Compiles the model as Keras does; without a loss, with the one that fits it (see `default_loss`).

        On PyTorch, where Keras refuses `steps_per_execution`, a model with `jit_compile=True` executes as many steps
        between callbacks; without it each step is executed alone.

        Args:
            optimizer: as Keras takes it.
            loss: as Keras takes it; None for the loss that fits the model.
            settings: Keras' other arguments, such as `metrics`.
        """
        self._loss_by_default = loss is None
        loss = self.default_loss() if loss is None else loss
        steps = settings.get("steps_per_execution", 1)
        compiled = settings.get("jit_compile") is True and not settings.get("run_eagerly")
        if keras.backend.backend() == "torch" and isinstance(steps, int) and steps > 1 and not compiled:
            warnings.warn(
                "steps_per_execution has no effect on PyTorch without jit_compile=True",
                InputWarning,
                stacklevel=2,
            )
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
        """Returns the compiled loss and the losses of layers, as Keras does; a row's weight weighs all its labels.

        Raises:
            kerasllm.errors.InputError: there are no labels for the loss that `compile` chose.
        """
        if y is None and self._loss_by_default and self.default_loss() is not None:
            step = next(cls for cls in type(self).__mro__ if "train_step" in vars(cls))
            if step.__module__.startswith("kerasllm."):
                raise InputError(
                    f"{type(self).__name__} was given no labels: give them as y, or (inputs, labels)"
                )
            return keras.ops.zeros(())  # Keras asks before the first step of a subclass, too
        return super().compute_loss(x, y, y_pred, spread_over_labels(sample_weight, y, y_pred), training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns the metrics with this batch, as Keras does; a weight of a row weighs all its labels."""
        return super().compute_metrics(x, y, y_pred, spread_over_labels(sample_weight, y, y_pred))

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as it was compiled before it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **settings: Any) -> Any:
        """Trains the model as Keras does, after a look at the inputs; see `kerasllm.models.inputs.checked_inputs`.

        A data set made from texts, such as `kerasllm.TextClassificationData`, is bound to the model first, and gives
        each epoch its own order, whatever `shuffle` is.

        Raises:
            kerasllm.errors.InputError: a data set of texts does not suit the model, the inputs are texts or have wrong
                names, an id or a label is out of range, or there are class weights for a model that does not predict
                one class for each row.
        """
        check_class_weight(self, settings.get("class_weight"))
        held_out: Any = settings.get("validation_data")
        if held_out is x and hasattr(x, "bind_to"):
            settings["validation_data"] = held_out = copy.copy(x)
        self._bind(x, trains=True)
        self._bind(held_out)
        if hasattr(x, "epoch_callback"):
            settings |= {"shuffle": False, "callbacks": _with(settings.get("callbacks"), x.epoch_callback())}
        x = checked_inputs(self, x, y, settings.get("sample_weight"))
        if isinstance(held_out, tuple):
            settings["validation_data"] = (checked_inputs(self, *held_out), *held_out[1:])
        if settings.get("shuffle") is False and settings.get("class_weight") is None:
            x = backend.loading(x)
        backend.divide(self)
        return super().fit(x, y, *args, **settings)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **settings: Any) -> Any:
        """Evaluates the model as Keras does, after a look at the inputs as in `fit`; of texts, the first epoch."""
        self._bind(x)
        if hasattr(x, "bind_to"):
            x.epoch = 0
        x = checked_inputs(self, x, y, settings.get("sample_weight"))
        return super().evaluate(x, y, *args, **settings)

    def predict(self, x: Any, *args: Any, **settings: Any) -> Any:
        """Predicts as Keras does, after a look at the inputs as in `fit`; labeled texts keep their order."""
        if hasattr(x, "in_order"):
            x = x.in_order()
            x.share = (0, 1, 1)
        return super().predict(checked_inputs(self, x), *args, **settings)

    def _bind(self, data: Any, trains: bool = False) -> None:
        """Checks a data set made from texts, which is to give the rows of this process where not each takes all."""
        if hasattr(data, "bind_to"):
            data.bind_to(self)
            data.share = backend.share() if trains or not backend.sums_gradients else (0, 1, 1)

    def make_train_function(self, force: bool = False) -> None:
        """Calls Keras' own method; on TensorFlow, `jit_compile` may compile only a part of the step."""
        memory.keep()
        backend.make_train_function(self, partial(super().make_train_function, force))

    def make_test_function(self, force: bool = False) -> None:
        """Calls Keras' own method, see `make_train_function`."""
        backend.make_function(self, "test_function", partial(super().make_test_function, force))

    def make_predict_function(self, force: bool = False) -> None:
        """Calls Keras' own method, see `make_train_function`."""
        backend.make_function(self, "predict_function", partial(super().make_predict_function, force))

    def train_step(self, *args: Any) -> Any:
        """Runs Keras' step, compiled as suits the backend, with `per_step_metrics` and `catch_non_finite` applied."""
        step = partial(backend.compiled_step, self, super().train_step)
        step = partial(backend.reduced_step, self, step)
        if self.per_step_metrics:
            step = partial(backend.per_step_metrics, self, step)
        if self.catch_non_finite:
            step = partial(backend.guarded_step, self, step)
        return backend.whole_step(self, step, *args)

    def train_on_batch(self, *args: Any, **settings: Any) -> Any:
        """Trains on a batch as Keras does."""
        backend.divide(self)
        return super().train_on_batch(*args, **settings)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, *args: Any, **settings: Any
    ) -> Any:
        """Evaluates a batch as Keras does; of several processes each is given the whole batch."""
        with backend.whole_batch((x, y, sample_weight)) as data:
            return super().test_on_batch(*data, *args, **settings)

    def predict_on_batch(self, x: Any) -> Any:
        """Predicts a batch as Keras does; of several processes each is given the whole batch, and returns the whole."""
        with backend.whole_batch((x,), is_placed=True) as data:
            return super().predict_on_batch(*data)

    def test_step(self, *args: Any) -> Any:
        """Runs Keras' own step, with the same matrix products as a training step."""
        return backend.evaluation_step(self, super().test_step, *args)

    def predict_step(self, *args: Any) -> Any:
        """Runs Keras' own step, with the same matrix products as a training step."""
        return backend.everywhere(backend.evaluation_step(self, super().predict_step, *args))

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

    @classmethod
    def from_adapter(
        cls, directory: str | Path, base: str | Path | None = None, **settings: Any
    ) -> LanguageModel:
        """Reads a checkpoint and low-rank adapters of the `peft` package, which are trained further or saved merged.

        Args:
            directory: the directory of adapter_config.json and adapter_model.safetensors.
            base: the checkpoint that the adapters change, as `from_pretrained` takes it; by default the one that
                adapter_config.json names.
            settings: constructor arguments that the checkpoint does not record (e.g. `num_classes`).

        Raises:
            kerasllm.errors.InputError: a file is damaged, the two do not belong together, or the adapters are of a
                kind that cannot be represented.
        """
        return read_adapter(cls, family_of(cls).formats, directory, base, **settings)

    def save_adapter(self, directory: str | Path, base: str) -> None:
        """Writes the low-rank adapters of a model with `lora_rank`, and its trained heads, as `peft` loads them.

        Args:
            directory: the directory, which is created if it is missing.
            base: the checkpoint that the adapters change, a directory or a hub id, which adapter_config.json names.

        Raises:
            kerasllm.errors.InputError: the model has no adapters, `transformers` has no such model, or the files
                cannot be written.
        """
        write_adapter(self, directory, base)

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


def _with(callbacks: Any, callback: keras.callbacks.Callback) -> Any:
    """Returns callbacks as `fit` takes them, and one more."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.append(callback)
        return callbacks
    given = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
    return [each for each in given if each is not None] + [callback]
