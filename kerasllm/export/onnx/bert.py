"""BERT as ONNX graphs: the encoder with each of its heads, under the names that `transformers` and its kin expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from kerasllm.export.onnx.graph import Dimension, Graph
from kerasllm.export.onnx.layers import (
    LOWEST,
    BlockShape,
    activation,
    dense,
    encoder_block,
    norm,
    real_tokens,
    scores,
)
from kerasllm.export.onnx.sessions import Sessions
from kerasllm.models import (
    BertBackbone,
    BertClassifier,
    BertConfig,
    BertEncoder,
    BertQuestionAnswering,
    BertRegressor,
    BertTokenClassifier,
)

ROWS, LENGTH = "batch_size", "sequence_length"


def graphs(model: Any) -> dict[str, Graph]:
    """Returns the graph of a BERT with its head, by the name of its file.

    Args:
        model: a `BertBackbone` or a task model of BERT.
    """
    graph = Graph(model, "bert")
    hidden, mask = _encoder(graph, model.config)
    for name, (value, shape) in _outputs(graph, model, hidden, mask).items():
        graph.output(name, value, shape)
    return {"model": graph}


def run(sessions: Sessions, model: Any, inputs: Mapping[str, np.ndarray]) -> Any:
    """Returns what the model returns for padded batches, computed by the exported file.

    Args:
        sessions: the exported file.
        model: the model, whose class tells the form of the result.
        inputs: `token_ids`, and optionally `segment_ids` and `padding_mask`, each int (batch, length).
    """
    token_ids = inputs["token_ids"]
    found = sessions.run(
        "model",
        {
            "input_ids": token_ids,
            "attention_mask": inputs.get("padding_mask", np.ones_like(token_ids)),
            "token_type_ids": inputs.get("segment_ids", np.zeros_like(token_ids)),
        },
    )
    if isinstance(model, BertBackbone):
        names = {"last_hidden_state": "sequence_output", "pooler_output": "pooled_output"}
        return {ours: found[theirs] for theirs, ours in names.items() if theirs in found}
    if isinstance(model, BertEncoder):
        return found["sentence_embedding"]
    if isinstance(model, BertQuestionAnswering):
        return np.stack([found["start_logits"], found["end_logits"]], axis=-1)
    if isinstance(model, BertRegressor):
        return found["logits"][:, 0]
    if isinstance(model, BertClassifier | BertTokenClassifier):
        return found["logits"]
    return {ours: found[theirs] for ours, theirs in _pretraining_names(model).items()}


def _pretraining_names(model: Any) -> dict[str, str]:
    """Returns the output's name for each objective, as the classes of `transformers` have them."""
    objectives = getattr(model, "objectives", ("masked_lm",))
    if len(objectives) == 1:
        return {objectives[0]: "logits"}
    return {"masked_lm": "prediction_logits", "next_sentence": "seq_relationship_logits"}


def _encoder(graph: Graph, config: BertConfig) -> tuple[str, str]:
    """Returns the encoder's output (batch, length, hidden_dim), and the mask as boolean (batch, 1, 1, length)."""
    ids, given, segments = (
        graph.input(name, np.int64, (ROWS, LENGTH))
        for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    mask = real_tokens(graph, given)
    hidden = graph.add("Gather", graph.weight("embeddings/token"), ids)
    positions = graph.rows(graph.weight("embeddings/position"), graph.constant([0]), graph.size(ids, 1))
    hidden = graph.add("Add", hidden, positions)
    hidden = graph.add("Add", hidden, graph.add("Gather", graph.weight("embeddings/segment"), segments))
    hidden = norm(graph, hidden, "embeddings/norm_", "layer_norm", config.layer_norm_epsilon)
    shape = BlockShape(
        num_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        head_dim=config.hidden_dim // config.num_heads,
        activation=config.activation,
        epsilon=config.layer_norm_epsilon,
    )
    for index in range(config.num_layers):
        hidden = encoder_block(graph, hidden, f"block_{index}/", mask, shape)
    return hidden, mask


Outputs = dict[str, tuple[str, tuple[Dimension, ...]]]


def _outputs(graph: Graph, model: Any, hidden: str, mask: str) -> Outputs:
    """Returns the values and shapes of the outputs by name."""
    width, every = model.config.hidden_dim, (ROWS, LENGTH)
    if isinstance(model, BertBackbone):
        found: Outputs = {"last_hidden_state": (hidden, (*every, width))}
        if model.pooler is not None:
            found["pooler_output"] = (_pooled(graph, hidden), (ROWS, width))
        return found
    if isinstance(model, BertEncoder):
        vectors = _sentence_embedding(graph, model, hidden, mask)
        return {
            "last_hidden_state": (hidden, (*every, width)),
            "sentence_embedding": (vectors, (ROWS, model.dim)),
        }
    if isinstance(model, BertQuestionAnswering):
        both = graph.add_several(
            "Split", dense(graph, hidden, "answer_head/"), outputs=2, axis=-1, num_outputs=2
        )
        squeezed = (graph.add("Squeeze", each, graph.constant([-1])) for each in both)
        return {
            name: (each, every) for name, each in zip(("start_logits", "end_logits"), squeezed, strict=True)
        }
    if isinstance(model, BertTokenClassifier):
        return {"logits": (dense(graph, hidden, "classifier/"), (*every, model.num_classes))}
    if isinstance(model, BertClassifier | BertRegressor):
        count = getattr(model, "num_classes", 1)
        return {"logits": (dense(graph, _pooled(graph, hidden), "classifier/"), (ROWS, count))}
    names = _pretraining_names(model)
    found = {}
    if "masked_lm" in names:
        shape = (*every, model.config.vocabulary_size)
        found[names["masked_lm"]] = (_masked_lm(graph, model.config, hidden), shape)
    if "next_sentence" in names:
        pooled = _pooled(graph, hidden)
        found[names["next_sentence"]] = (dense(graph, pooled, "next_sentence_head/"), (ROWS, 2))
    return found


def _pooled(graph: Graph, hidden: str) -> str:
    """Returns the pooled output (batch, hidden_dim)."""
    first = graph.add("Gather", hidden, graph.constant(0), axis=1)
    return graph.add("Tanh", dense(graph, first, "pooler/"))


def _masked_lm(graph: Graph, config: BertConfig, hidden: str) -> str:
    """Returns the scores of all tokens at all positions."""
    hidden = activation(graph, dense(graph, hidden, "masked_lm_head/"), config.activation)
    hidden = norm(graph, hidden, "masked_lm_head/norm_", "layer_norm", config.layer_norm_epsilon)
    table = graph.weight("embeddings/token" if config.tie_embeddings else "masked_lm_projection/kernel")
    bias = graph.weight("masked_lm_head/vocabulary_bias")
    return scores(graph, hidden, table, bias, config.hidden_dim, config.vocabulary_size)


def _sentence_embedding(graph: Graph, model: BertEncoder, hidden: str, mask: str) -> str:
    """Returns the vectors of texts (batch, dim)."""
    if model.pooling == "cls":
        pooled = graph.add("Gather", hidden, graph.constant(0), axis=1)
    else:
        tokens = graph.add("Squeeze", mask, graph.constant([1, 2]))  # (batch, length)
        real = graph.axes(tokens, 2)
        if model.pooling == "max":
            kept = graph.add("Where", real, hidden, graph.number(LOWEST))
            pooled = graph.add("ReduceMax", kept, graph.constant([1]), keepdims=0)
        else:
            kept = graph.add("Where", real, hidden, graph.number(0))
            total = graph.add("ReduceSum", kept, graph.constant([1]), keepdims=0)
            count = graph.add(
                "ReduceSum", graph.add("Cast", real, to=TensorProto.FLOAT), graph.constant([1]), keepdims=0
            )
            pooled = graph.add("Div", total, graph.add("Max", count, graph.number(1)))
    if model.projection is not None:
        pooled = activation(graph, dense(graph, pooled, "projection/"), model.projection_activation)
    if not model.normalize:
        return pooled
    squares = graph.add("ReduceSum", graph.add("Mul", pooled, pooled), graph.constant([-1]), keepdims=1)
    length = graph.add("Sqrt", graph.add("Max", squares, graph.number(1e-24)))
    return graph.add("Div", pooled, length)
