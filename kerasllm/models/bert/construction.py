"""The backbone and the heads of BERT's task models, as their constructors make them."""

from __future__ import annotations

from functools import partial
from typing import Any

from kerasllm.layers import ClassificationHead, MaskedLanguageModelHead
from kerasllm.layers.heads import VocabularyHead
from kerasllm.models.base import LanguageModel
from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.construction import checked_backbone


def make_backbone(
    model: LanguageModel,
    backbone: BertBackbone | None,
    pooler: bool,
    lora_rank: int,
    lora_alpha: float | None,
) -> BertBackbone:
    """Returns the given backbone, which may be trained already, or a new one."""
    make = partial(BertBackbone, pooler=pooler, lora_rank=lora_rank, lora_alpha=lora_alpha)
    found = checked_backbone(model, backbone, make)
    if pooler and found.pooler is None:
        raise ValueError("this task reads the pooled output, and the backbone was made without a pooler")
    return found


def make_masked_lm_head(model: LanguageModel) -> MaskedLanguageModelHead:
    """Returns a new masked-LM head."""
    config = model.config
    head = MaskedLanguageModelHead(
        vocabulary_size=config.vocabulary_size,
        activation=config.activation,
        layer_norm_epsilon=config.layer_norm_epsilon,
        standard_deviation=config.initializer_range,
        seed=model.seed,
        dtype=model.dtype_policy,
        name="masked_lm_head",
    )
    head.build((None, None, config.hidden_dim))
    return head


def make_masked_lm_projection(model: LanguageModel) -> VocabularyHead | None:
    """Returns the projection to the vocabulary, or None if it is tied to the token embedding."""
    config = model.config
    if config.tie_embeddings:
        return None
    head = VocabularyHead(
        vocabulary_size=config.vocabulary_size,
        standard_deviation=config.initializer_range,
        seed=model.seed,
        dtype=model.dtype_policy,
        name="masked_lm_projection",
    )
    head.build((None, None, config.hidden_dim))
    return head


def freeze_masked_lm(model: Any) -> None:
    """Freezes the masked-LM head of a model with adapters, as a GPT's head is."""
    for head in (model.masked_lm_head, model.masked_lm_projection):
        if head is not None:
            head.trainable = not model.backbone.lora_rank


def adapters_of(model: Any) -> dict[str, Any]:
    """Returns `lora_rank` and `lora_alpha`, for `get_config`."""
    return {"lora_rank": model.backbone.lora_rank, "lora_alpha": model.backbone.lora_alpha}


def make_head(model: LanguageModel, name: str, num_outputs: int, dropout: float | None) -> ClassificationHead:
    """Returns a new head of scores, on the pooled output or on each token."""
    config = model.config
    head = ClassificationHead(
        num_outputs=num_outputs,
        dropout=config.dropout if dropout is None else dropout,
        standard_deviation=config.initializer_range,
        seed=model.seed,
        dtype=model.dtype_policy,
        name=name,
    )
    head.build((None, config.hidden_dim))
    return head


def output_table(model: Any) -> Any:
    """Returns the table of the projection to the vocabulary, (vocabulary_size, hidden_dim)."""
    own = model.masked_lm_projection
    return model.backbone.embeddings.token if own is None else own.kernel
