"""What all models share: a frozen config, weights that exist from construction, fixed names, checkpoints."""

from __future__ import annotations

from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from kerasllm import backend
from kerasllm.backend import memory as kept_memory
from kerasllm.checkpoints import Format, push_model, read_model, write_model
from kerasllm.errors import InputError
from kerasllm.layers.initializers import default_seed
from kerasllm.layers.projections import merged_kernel
from kerasllm.models.registry import family_of


class LanguageModel(keras.Model):
    """Base class of every backbone and task model.

    Args:
        config: the family's frozen dataclass.
        seed: of the initial values and of dropout; drawn from Python's generator, which
            `keras.utils.set_random_seed` sets, where left out.

    The attribute `per_step_metrics`, set before `fit`, makes the logs of each batch that batch's own values
    instead of Keras' running means over the epoch. `catch_non_finite`, set before `fit`, leaves out the update of
    a batch whose loss or gradient is not finite, and adds `gradient_norm` to the logs, which then is not finite.
    """

    config_class: ClassVar[type]

    def __init__(self, config: Any, *, seed: int | None = None, name: str | None = None) -> None:
        super().__init__(name=name)
        self.config = config
        self.seed = default_seed() if seed is None else seed
        self.per_step_metrics = False
        self.catch_non_finite = False

    def get_config(self) -> dict[str, Any]:
        """The fields of the config; the task models add their own settings."""
        return asdict(self.config)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> LanguageModel:
        """The inverse of `get_config`; the weights are initial ones."""
        names = {field.name for field in fields(cls.config_class)}
        own = {key: value for key, value in config.items() if key in names}
        settings = {
            key: value for key, value in config.items() if key not in names | {"name", "trainable", "dtype"}
        }
        return cls(cls.config_class(**own), **settings)

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Nothing is left to build: a model has its weights from construction."""

    def build(self, input_shape: Any = None) -> None:
        """Nothing is left to build: a model has its weights from construction."""
        self.built = True

    def named_variables(self) -> dict[str, keras.Variable]:
        """Every weight by a name that is the same on all backends: `layer/weight`, without the dropouts' counters."""
        found: dict[str, keras.Variable] = {}
        for layer in self.layers:
            inner = layer.named_variables() if isinstance(layer, LanguageModel) else None
            for variable in layer.weights if inner is None else ():
                found[f"{layer.name}/{variable.name}"] = variable
            found.update(inner or {})
        return found

    def merged(self, name: str) -> np.ndarray:
        """A variable of `named_variables` as NumPy; of a kernel with a low-rank adapter, their sum."""
        layer_name, _, weight = name.rpartition("/")
        if weight.endswith("_kernel"):
            for layer in self._flatten_layers(include_self=False):
                if layer.name == layer_name:
                    return merged_kernel(layer, weight.removesuffix("_kernel"))
        return keras.ops.convert_to_numpy(self.named_variables()[name])

    def make_train_function(self, force: bool = False) -> None:
        """Keras' own; on TensorFlow what `jit_compile` compiles may be less than the whole step."""
        kept_memory.keep()
        backend.make_train_function(self, partial(super().make_train_function, force))

    def train_step(self, *args: Any) -> Any:
        """Keras' own step, compiled as is best, with what `per_step_metrics` and `catch_non_finite` add."""
        step = partial(backend.compiled_step, self, super().train_step)
        if self.per_step_metrics:
            step = partial(backend.per_step_metrics, self, step)
        if self.catch_non_finite:
            step = partial(backend.guarded_step, self, step)
        return step(*args)

    def test_step(self, *args: Any) -> Any:
        """Keras' own step, with the matrix products of a training step."""
        return backend.evaluation_step(self, super().test_step, *args)

    def _should_torch_compile(self) -> bool:
        """No: Keras would hand the whole step to `torch.compile`, which stops at every layer; see `train_step`."""
        return False

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, **settings: Any
    ) -> LanguageModel:
        """Reads a model in Hugging Face's format; no tokenizer files are needed.

        Heads that the checkpoint lacks get initial values; a warning names them, and what of the checkpoint
        was not used. The weights are read one by one, straight into the model.

        Args:
            source: a directory, a run directory (its `model/` is taken), or a hub id, OWNER/NAME or
                OWNER/NAME@REVISION, which is fetched into huggingface-hub's cache.
            revision: of a hub id: branch, tag or commit.
            settings: of the task, where the checkpoint has none (e.g. `num_classes`), and `seed` for the
                heads that the checkpoint lacks; `dropout` overrides the checkpoint's.

        Raises:
            kerasllm.errors.InputError: what is missing, damaged or cannot be represented.
        """
        return read_model(cls, family_of(cls).formats, source, revision=revision, **settings)

    @property
    def hugging_face_format(self) -> Format:
        """The format in which this model is written.

        Raises:
            kerasllm.errors.InputError: the class is none of its family's own.
        """
        cls = type(self)
        if cls not in family_of(cls).classes:
            raise InputError(f"{cls.__name__} has no counterpart in Hugging Face's format")
        return family_of(cls).format_of(self.config)

    def save_pretrained(
        self, directory: str | Path, *, tokenizer: Any = None, max_shard_size: int | str = "5GB"
    ) -> None:
        """Writes config.json and model.safetensors in Hugging Face's format, which `transformers` loads.

        A README.md that is there already stays; a model that generates gets a generation_config.json too.

        Args:
            directory: made if it is missing.
            tokenizer: of the `tokenizers` library; its files are written too.
            max_shard_size: larger weights are divided into files of that many bytes, and an index; "100MB" will do.

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
        """Sends what `save_pretrained` writes to the Hugging Face hub, by huggingface-hub and its token.

        Args:
            repo_id: OWNER/NAME; made if it is missing.
            tokenizer: of the `tokenizers` library, sent along.
            private: of a new repository; the owner's default where None.
            revision: branch; the main one where None.
            message: of the commit.

        Returns:
            The address of the commit.

        Raises:
            kerasllm.errors.InputError: no permission, or the hub does not answer.
        """
        settings: dict[str, Any] = {"private": private, "revision": revision, "message": message}
        return push_model(self, repo_id, tokenizer=tokenizer, **settings)

    def training_flops(self, length: int, predicted: int | None = None) -> float:
        """Returns the arithmetic of one training step for each token: forward and backward pass, not the optimizer.

        Padding, and scores of positions that nobody predicts, do not count; see `kerasllm.models.flops`.

        Args:
            length: tokens of a sequence.
            predicted: positions of a sequence whose next, or masked, token is predicted; all where None.

        Returns:
            FLOPs a token.
        """
        return family_of(type(self)).training_flops(self, length, length if predicted is None else predicted)
