"""GPT as published and as `transformers` computes it: pre-layer-norm, tanh-GELU, learned positions, tied head.

With other options of its config it is a Llama. Reference: Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kerasllm.layers import TransformerDecoderBlock, TransformerEmbeddings
from kerasllm.layers.decoder_block import causal_mask
from kerasllm.layers.feed_forward import dense
from kerasllm.layers.heads import FinalNorm, VocabularyHead
from kerasllm.layers.positions import rotary_tables
from kerasllm.losses import CausalLanguageModelLoss
from kerasllm.models.base import LanguageModel
from kerasllm.models.gpt.config import GPTConfig

_generator: Callable[..., Any] | None = None


def install_generation(generate: Callable[..., Any]) -> None:
    """Sets what `GPTCausalLM.generate` calls; done once by `kerasllm.generation`, which lies above the models."""
    global _generator
    _generator = generate


@keras.saving.register_keras_serializable(package="kerasllm")
class GPTBackbone(LanguageModel):
    """The decoder.

    Args:
        config: the shape.
        lora_rank: above 0, only low-rank adapters beside the blocks' projections are trained.
        lora_alpha: they count alpha / rank; twice the rank where left out.
        seed: of the initial values and of dropout.

    Call with a dict of `token_ids` int (batch, length) and, optionally, `padding_mask` (batch, length), 1 for
    real tokens: needed only where padding stands *before* tokens, as no token sees a later one; `segment_ids`
    (batch, length), where attention is to stay within tokens of the same number; and `position_ids` (batch,
    length), 0, 1, 2 … where left out. Returns a dict of `sequence_output` (batch, length, hidden_dim).
    """

    config_class = GPTConfig

    def __init__(
        self,
        config: GPTConfig,
        *,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        seed: int | None = None,
        name: str | None = None,
    ):
        super().__init__(config, seed=seed, name=name)
        if lora_rank < 0:
            raise ValueError(f"lora_rank is {lora_rank}, it must be at least 0")
        self.lora_rank, self.lora_alpha = lora_rank, lora_alpha
        self.embeddings = TransformerEmbeddings(
            vocabulary_size=config.vocabulary_size,
            max_sequence_length=config.max_sequence_length,
            hidden_dim=config.hidden_dim,
            num_segments=0,
            learned_positions=config.positions == "learned",
            normalize=False,
            truncated=False,
            dropout=config.embedding_dropout or 0.0,
            standard_deviation=config.initializer_range,
            seed=self.seed,
            name="embeddings",
        )
        self.blocks = [
            TransformerDecoderBlock(
                num_heads=config.num_heads,
                num_key_value_heads=config.key_value_heads,
                intermediate_dim=config.intermediate_dim or 4 * config.hidden_dim,
                activation=config.activation,
                feed_forward=config.feed_forward,
                normalization=config.normalization,
                layer_norm_epsilon=config.layer_norm_epsilon,
                use_bias=config.use_bias,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout or 0.0,
                standard_deviation=config.initializer_range,
                residual_deviation=config.initializer_range / math.sqrt(2 * config.num_layers),
                lora_rank=lora_rank,
                lora_alpha=lora_alpha,
                seed=self.seed,
                name=f"block_{index}",
            )
            for index in range(config.num_layers)
        ]
        self.final_norm = FinalNorm(
            normalization=config.normalization,
            layer_norm_epsilon=config.layer_norm_epsilon,
            use_bias=config.use_bias,
            name="final_norm",
        )
        self.embeddings.build()
        for block in self.blocks:
            block.build((None, None, config.hidden_dim))
        self.final_norm.build((None, None, config.hidden_dim))
        if lora_rank:
            self.embeddings.trainable = self.final_norm.trainable = False
        self.built = True

    def call(self, inputs, training=False):
        """See the class."""
        mask = causal_mask(
            inputs["token_ids"].shape[1], inputs.get("padding_mask"), inputs.get("segment_ids")
        )
        hidden, rotary = self.embed(inputs["token_ids"], inputs.get("position_ids"), training=training)
        for block in self.blocks:
            hidden = block(hidden, mask, rotary, training=training)  # (batch, length, hidden_dim)
        return {"sequence_output": self.final_norm(hidden)}

    def embed(self, token_ids, position_ids=None, training=False):
        """The first block's input (batch, length, hidden_dim), and the rotary tables or None."""
        if self.config.positions == "learned":
            return self.embeddings(token_ids, None, position_ids, training=training), None
        if position_ids is None:
            position_ids = ops.arange(token_ids.shape[1])[None]
        tables = rotary_tables(position_ids, self.config.head_dim, self.config.rotary_base)
        return self.embeddings(token_ids, training=training), tables

    def extend(self, token_ids, position_ids, mask, caches, cache_position):
        """Continues sequences whose earlier keys and values are in caches.

        Args:
            token_ids: int (batch, new), one new token, or the whole beginning.
            position_ids: int (batch, new).
            mask: boolean; for one new token (batch, 1, capacity), for the whole beginning broadcastable to
                (batch, heads, new, new), or None for causal attention without padding.
            caches: keys and values of each block, as `TransformerDecoderBlock` takes them.
            cache_position: int scalar, the column of the first new token.

        Returns:
            The hidden states (batch, new, hidden_dim) and the caches.
        """
        hidden, rotary = self.embed(token_ids, position_ids)
        extended = []
        for block, cache in zip(self.blocks, caches, strict=True):
            hidden, cache = block(hidden, mask, rotary, cache=cache, cache_position=cache_position)
            extended.append(cache)
        return self.final_norm(hidden), extended

    def get_config(self):
        """The fields of the config, and the adapters' settings."""
        return super().get_config() | {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha}


@keras.saving.register_keras_serializable(package="kerasllm")
class GPTCausalLM(LanguageModel):
    """Scores of the next token at each position.

    Args:
        config: the shape.
        backbone: an existing one; a new one where left out.
        lora_rank: see `GPTBackbone`; for a new one.
        lora_alpha: see `GPTBackbone`; for a new one.
        seed: of the initial values and of dropout.

    Call with the backbone's dict. Returns logits (batch, length, vocabulary_size); at position i they are those
    of token i + 1. Compiled with a `CausalLanguageModelLoss` and no metrics, `fit` and `evaluate` project to the
    vocabulary within the loss, a chunk of tokens at a time.
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
        name: str | None = None,
    ):
        super().__init__(config, seed=seed, name=name)
        if backbone is None:
            backbone = GPTBackbone(config, lora_rank=lora_rank, lora_alpha=lora_alpha, seed=self.seed)
        elif backbone.config != config:
            raise ValueError(
                f"the backbone was made with another config: {backbone.config} instead of {config}"
            )
        self.backbone = backbone
        self.head = None
        if not config.tie_embeddings:
            self.head = VocabularyHead(
                vocabulary_size=config.vocabulary_size,
                standard_deviation=config.initializer_range,
                seed=self.seed,
                name="head",
            )
            self.head.build((None, None, config.hidden_dim))
            self.head.trainable = not backbone.lora_rank
        self._projects_in_loss = False
        self.built = True

    @property
    def output_table(self) -> Any:
        """The projection to the vocabulary, (vocabulary_size, hidden_dim)."""
        return self.backbone.embeddings.token if self.head is None else self.head.kernel

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.backbone(inputs, training=training)["sequence_output"]
        return hidden if self._projects_in_loss else self.project(hidden)

    def project(self, hidden):
        """(batch, length, hidden_dim) → logits (batch, length, vocabulary_size)."""
        return dense(hidden, self.output_table, transposed=True)

    def train_step(self, *args):
        """Keras' own step; see the class for what the loss does."""
        with _Projecting(self):
            return super().train_step(*args)

    def test_step(self, *args):
        """Keras' own step; see the class for what the loss does."""
        with _Projecting(self):
            return super().test_step(*args)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The compiled loss; of hidden states where `call` left the projection to it."""
        if not self._projects_in_loss:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        return self.loss.project(y, y_pred, self.output_table, sample_weight, differentiable=training)

    def generate(self, prompts: Any, **settings: Any) -> Any:
        """Continues prompts; see `kerasllm.generation.generate` for the settings. Greedy unless told otherwise.

        Args:
            prompts: int (batch, length) or (length,), or a list of lists of different lengths; with a
                `tokenizer` also a text or a list of texts.
            settings: `max_new_tokens` and others.

        Returns:
            Prompt and continuation: an int32 array (batch, length + new) for an array, else lists; texts for
            texts.
        """
        assert _generator is not None
        return _generator(self, prompts, **settings)

    def get_config(self):
        """The fields of the config, and the adapters' settings."""
        own = {"lora_rank": self.backbone.lora_rank, "lora_alpha": self.backbone.lora_alpha}
        return super().get_config() | own


class _Projecting:
    """While a step runs, or is traced, `call` returns hidden states if the loss can project them itself."""

    def __init__(self, model: GPTCausalLM) -> None:
        self.model = model
        metrics = getattr(model, "_compile_metrics", None)
        unmetered = metrics is None or not (metrics._user_metrics or metrics._user_weighted_metrics)
        loss = getattr(model, "loss", None)
        own_call = type(model).call is GPTCausalLM.call
        self.possible = isinstance(loss, CausalLanguageModelLoss) and loss.projects and unmetered and own_call

    def __enter__(self) -> None:
        self.model._projects_in_loss = self.possible

    def __exit__(self, *error: Any) -> None:
        self.model._projects_in_loss = False
