"""Recurrent models: config, backbone, language model, classifier, weight names of `torch.nn`, and FLOPs."""

from kerasllm.models.recurrent.backbone import RecurrentBackbone
from kerasllm.models.recurrent.classifier import RecurrentClassifier
from kerasllm.models.recurrent.config import RECURRENT_SIZES, RecurrentConfig
from kerasllm.models.recurrent.flops import training_flops
from kerasllm.models.recurrent.hugging_face import RECURRENT
from kerasllm.models.recurrent.language_model import RecurrentLM
from kerasllm.models.registry import Family, register

register(
    Family(
        name="recurrent model",
        config_class=RecurrentConfig,
        sizes=RECURRENT_SIZES,
        backbone=RecurrentBackbone,
        tasks=(RecurrentLM, RecurrentClassifier),
        formats=(RECURRENT,),
        training_flops=training_flops,
    )
)
