"""BERT: config, backbone, task models, weight names in Hugging Face's and KerasHub's formats, and FLOPs."""

from kerasllm.models.bert.backbone import BertBackbone
from kerasllm.models.bert.config import BERT_SIZES, BertConfig
from kerasllm.models.bert.encoder import BertEncoder
from kerasllm.models.bert.flops import training_flops
from kerasllm.models.bert.hugging_face import BERT
from kerasllm.models.bert.keras_hub import KERAS_HUB
from kerasllm.models.bert.question_answering import BertQuestionAnswering
from kerasllm.models.bert.tasks import BertClassifier, BertMaskedLM, BertPretraining, BertRegressor
from kerasllm.models.bert.token_classifier import BertTokenClassifier
from kerasllm.models.registry import Family, register

register(
    Family(
        name="BERT",
        config_class=BertConfig,
        sizes=BERT_SIZES,
        backbone=BertBackbone,
        tasks=(
            *(BertPretraining, BertMaskedLM, BertClassifier, BertRegressor),
            *(BertTokenClassifier, BertQuestionAnswering, BertEncoder),
        ),
        formats=(BERT,),
        training_flops=training_flops,
        keras_hub=KERAS_HUB,
    )
)
