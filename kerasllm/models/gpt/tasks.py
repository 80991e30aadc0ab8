"""GPT's task model: a causal language model whose output projection is tied to the embedding or separate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.attention import combined_mask
from kerasllm.layers.heads import VocabularyHead
from kerasllm.layers.projections import dense
from kerasllm.losses import CausalLanguageModelLoss
from kerasllm.models.construction import checked_backbone
from kerasllm.models.gpt.backbone import GPTBackbone
from kerasllm.models.gpt.config import GPTConfig
from kerasllm.models.projecting import ProjectsInLoss


@keras.saving.register_keras_serializable(package="kerasllm")
class GPTCausalLM(ProjectsInLoss):
    """A causal language model, which predicts the next token at each position.

    Args:
        config: the architecture.
        backbone: an existing backbone; the default is a new one.
        lora_rank: as in `GPTBackbone`; used only for a new backbone.
        lora_alpha: as in `GPTBackbone`; used only for a new backbone.
        seed: seed of the initial values and of dropout.
        kwargs: Keras' own: `name`, `trainable` and `dtype`, which is a given backbone's unless something else is said.

    Call it with the dict that the backbone takes. It returns logits (batch, length, vocabulary_size); those at position
    i predict token i + 1. If it is compiled with a `CausalLanguageModelLoss` and no metrics, `fit` and `evaluate`
    project to the vocabulary inside the loss, a chunk of tokens at a time.
    """

    config_class = GPTConfig

    def __init__(
        self,
        config: GPTConfig,
        *,
        backbone: GPTBackbone | None = None,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(config, backbone=backbone, seed=seed, **kwargs)
        make = partial(GPTBackbone, lora_rank=lora_rank, lora_alpha=lora_alpha)
        self.backbone = checked_backbone(self, backbone, make)
        self.head = None
        if not config.tie_embeddings:
            self.head = VocabularyHead(
                vocabulary_size=config.vocabulary_size,
                standard_deviation=config.initializer_range,
                seed=self.seed,
                dtype=self.dtype_policy,
                name="head",
            )
            self.head.build((None, None, config.hidden_dim))
            self.head.trainable = not self.backbone.lora_rank
        self.generation_settings: dict[str, Any] | None = (
            None  # what generation_config.json held beside a checkpoint
        )
        self.built = True

    @property
    def output_table(self) -> Any:
        """The table of the output projection, (vocabulary_size, hidden_dim)."""
        return self.backbone.embeddings.token if self.head is None else self.head.kernel

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.backbone(inputs, training=training)["sequence_output"]
        return hidden if self.projects_in_loss else self.project(hidden)

    @property
    def label_counts(self):
        """The tokens."""
        return {"tokens": self.config.vocabulary_size}

    def default_loss(self, reduction="mean_with_sample_weight"):
        """Returns a `CausalLanguageModelLoss`."""
        return CausalLanguageModelLoss(reduction=reduction)

    def project(self, hidden):
        """Returns the logits (batch, length, vocabulary_size) of hidden states (batch, length, hidden_dim)."""
        return dense(hidden, self.output_table, transposed=True)

    def generate(
        self,
        prompts: Any,
        *,
        tokenizer: Any = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        stop_token_ids: Sequence[int] | None = None,
        stop: str | Sequence[str] = (),
        seed: int = 0,
        first_row: int = 0,
        pad_token_id: int | None = None,
        on_tokens: Callable[[int, list[int]], None] | None = None,
    ) -> Any:
        """Continues prompts, greedily unless a setting of sampling is given.

        A text begins as the tokenizer begins one: with the token that its post-processor puts there, if any. The end
        tokens of a generation_config.json beside the model count. Its settings of sampling are kept when the model is
        saved, but are not used: without settings, a text is the same wherever it is generated.

        Args:
            prompts: int (batch, length) or (length,), or a list of lists of different lengths; with a
                `tokenizer` also a text or a list of texts.
            tokenizer: a tokenizer of the `tokenizers` library, which text prompts and stop texts need.
            max_new_tokens: the most new tokens; by default 128, or fewer if the model has fewer positions left.
            temperature: number that the logits are divided by; 0 is greedy. A token is sampled if this or one of
                the next three is given.
            top_k: sample from the k most likely tokens.
            top_p: sample from the most likely tokens that together have probability p, in (0, 1].
            min_p: sample from tokens with at least min_p times the highest probability, in (0, 1].
            repetition_penalty: a number above 1 lowers the scores of tokens that have occurred.
            num_beams: above 1, beam search with so many beams, which excludes sampling.
            length_penalty: in beam search, the power of the length by which log probabilities are divided.
            stop_token_ids: tokens that end a row; the default is the model's end tokens.
            stop: a text, or texts, at which a continuation is cut off.
            seed: seed of the sampling; it gives the same draws on every backend.
            first_row: number of the first prompt, if prompts are split over several calls.
            pad_token_id: the token that fills rows of an array that ended early; the default is the model's padding
                token, or if it has none each row's last token.
            on_tokens: a function that is called with a row's number and its new tokens, token by token.

        Returns:
            The prompts with their continuations, in the form of the prompts: an int32 array (batch, length + new),
            lists, or texts. A row that met a stop token ends with it.

        Raises:
            kerasllm.errors.InputError: a prompt is empty, too long or holds an unknown token or character, or a
                setting is out of range.
        """
        from kerasllm.generation import generate  # imported here, as training does not need it

        return generate(
            self,
            prompts,
            tokenizer=tokenizer,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            num_beams=num_beams,
            length_penalty=length_penalty,
            stop_token_ids=stop_token_ids,
            stop=stop,
            seed=seed,
            first_row=first_row,
            pad_token_id=pad_token_id,
            on_tokens=on_tokens,
        )

    def prefill(self, token_ids, starts, capacity):
        """See `kerasllm.generation.protocol.GenerativeModel`; the caches are the keys and values of each block."""
        rows, width = token_ids.shape
        config = self.config
        columns = ops.arange(width, dtype="int32")[None]
        positions = ops.maximum(columns - starts[:, None], 0)
        shape = (rows * config.key_value_heads, capacity, config.head_dim)
        cache_type = backend.decoding.cache_type(self.compute_dtype)
        caches = [
            (ops.zeros(shape, cache_type), ops.zeros(shape, cache_type)) for _ in range(config.num_layers)
        ]
        mask = combined_mask(columns >= starts[:, None], is_causal=True)
        hidden, caches = self.backbone.extend(token_ids, positions, mask, caches, 0)
        return self._next_logits(hidden[:, -1]), caches

    def step(self, token_ids, column, starts, caches):
        """See `kerasllm.generation.protocol.GenerativeModel`."""
        starts = starts[:, None]
        last = ops.reshape(column, (-1, 1))  # (1 or rows, 1)
        columns = ops.arange(caches[0][0].shape[1], dtype="int32")[None]
        mask = ops.logical_and(columns >= starts, columns <= last)[:, None]  # (rows, 1, capacity)
        # A row that has used up its positions may run on beside others; its results are ignored.
        positions = ops.minimum(last - starts, self.config.max_sequence_length - 1)
        hidden, caches = self.backbone.extend(token_ids[:, None], positions, mask, caches, column)
        return self._next_logits(hidden[:, 0]), caches

    def reorder(self, caches, rows):
        """See `kerasllm.generation.protocol.GenerativeModel`."""

        def taken(cache):  # (rows * heads, capacity, head_dim): the heads of a row stay together
            whole = ops.reshape(cache, (cache.shape[0] // self.config.key_value_heads, -1))
            return ops.reshape(ops.take(whole, rows, axis=0), (-1, *cache.shape[1:]))

        return [tuple(map(taken, cache)) for cache in caches]

    def _next_logits(self, hidden):
        """Returns the logits (rows, vocabulary_size) of hidden states (rows, hidden_dim), by a product for few rows."""
        return backend.decoding.scores(hidden, ops.convert_to_tensor(self.output_table))
