"""GPT: config, backbone, task model, weight names in Hugging Face's and KerasHub's formats, and FLOPs."""

from kerasllm.models.gpt.backbone import GPTBackbone
from kerasllm.models.gpt.config import GPT_SIZES, GPTConfig
from kerasllm.models.gpt.flops import training_flops
from kerasllm.models.gpt.hugging_face import GPT2, LLAMA, OWN
from kerasllm.models.gpt.keras_hub import KERAS_HUB
from kerasllm.models.gpt.tasks import GPTCausalLM
from kerasllm.models.registry import Family, register

register(
    Family(
        name="GPT",
        config_class=GPTConfig,
        sizes=GPT_SIZES,
        backbone=GPTBackbone,
        tasks=(GPTCausalLM,),
        formats=(GPT2, LLAMA, OWN),
        training_flops=training_flops,
        keras_hub=KERAS_HUB,
    )
)
