"""The recurrent encoder-decoder with attention: config, backbone, task model, weight names, and FLOPs."""

from typing import Any

from kerasllm.models.flops import matrices, matrix_flops
from kerasllm.models.recurrent_seq2seq.backbone import RecurrentSeq2SeqBackbone
from kerasllm.models.recurrent_seq2seq.config import RECURRENT_SEQ2SEQ_SIZES, RecurrentSeq2SeqConfig
from kerasllm.models.recurrent_seq2seq.hugging_face import RECURRENT_SEQ2SEQ
from kerasllm.models.recurrent_seq2seq.language_model import RecurrentSeq2SeqLM
from kerasllm.models.registry import Family, register


def training_flops(model: Any, length: int, predicted: int) -> float:
    """Returns the FLOPs per token of one training step; see `kerasllm.models.flops` for what is counted.

    Source and target count as equally long, and tokens are those of both.

    Args:
        model: a backbone or a task model.
        length: the number of tokens of a source, and of a target.
        predicted: the number of target tokens that are predicted.
    """
    backbone = getattr(model, "backbone", model)
    per_pair = sum(flops for _, _, flops in matrices(model)) + 24 * model.config.hidden_dim * length
    table = matrix_flops(backbone.embeddings.token) if model is not backbone else 0
    return (per_pair + table * predicted / length) / 2


register(
    Family(
        name="recurrent encoder-decoder",
        config_class=RecurrentSeq2SeqConfig,
        sizes=RECURRENT_SEQ2SEQ_SIZES,
        backbone=RecurrentSeq2SeqBackbone,
        tasks=(RecurrentSeq2SeqLM,),
        formats=(RECURRENT_SEQ2SEQ,),
        training_flops=training_flops,
    )
)
