"""The encoder-decoder: config, backbone, task model, weight names in Hugging Face's formats, and FLOPs."""

from kerasllm.models.registry import Family, register
from kerasllm.models.seq2seq.backbone import Seq2SeqBackbone
from kerasllm.models.seq2seq.config import SEQ2SEQ_SIZES, Seq2SeqConfig
from kerasllm.models.seq2seq.flops import training_flops
from kerasllm.models.seq2seq.hugging_face import MARIAN, OWN
from kerasllm.models.seq2seq.tasks import Seq2SeqLM

register(
    Family(
        name="encoder-decoder",
        config_class=Seq2SeqConfig,
        sizes=SEQ2SEQ_SIZES,
        backbone=Seq2SeqBackbone,
        tasks=(Seq2SeqLM,),
        formats=(MARIAN, OWN),
        training_flops=training_flops,
    )
)
