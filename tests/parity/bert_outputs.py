"""Loads what transformers saved, under one backend: outputs and losses to a file, every model saved again.

Arguments: the directory that `test_bert_transformers.py` has prepared, a directory for the results, and,
where MiniLM is there, its model directory and its reference file.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import kerasllm

CLASSES = {
    "backbone": kerasllm.BertBackbone,
    "pretraining": kerasllm.BertPretraining,
    "masked_lm": kerasllm.BertMaskedLM,
    "untied": kerasllm.BertMaskedLM,
    "two_classes": kerasllm.BertClassifier,
    "three_classes": kerasllm.BertClassifier,
    "multi_label": kerasllm.BertClassifier,
    "regression": kerasllm.BertRegressor,
    "tags": kerasllm.BertTokenClassifier,
    "answers": kerasllm.BertQuestionAnswering,
}


def numpy(tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def hidden_states(backbone, inputs) -> np.ndarray:
    """Of the embeddings and of each block: (layers + 1, batch, length, hidden_dim)."""
    hidden = backbone.embeddings(inputs["token_ids"], inputs["segment_ids"])
    states = [hidden]
    for block in backbone.blocks:
        hidden = block(hidden, inputs["padding_mask"])
        states.append(hidden)
    return np.stack([numpy(state) for state in states])


def losses(name, model, inputs, data) -> dict[str, np.ndarray]:
    """Ours, from positions and weights where theirs have labels of -100."""
    if name in ("pretraining", "masked_lm", "untied"):
        outputs = model({**inputs, "masked_positions": data["masked_positions"]})
        gathered = outputs["masked_lm"]
        loss = kerasllm.MaskedLanguageModelLoss()(data["masked_labels"], gathered, data["weights"])
        if name == "pretraining":
            loss = loss + kerasllm.NextSentenceLoss()(data["next_sentence"], outputs["next_sentence"])
        return {"loss": numpy(loss), "gathered": numpy(gathered)}
    if name == "regression":
        return {"loss": numpy(keras.losses.MeanSquaredError()(data["numbers"], model(inputs)))}
    if name == "tags":
        loss = kerasllm.ClassificationLoss()
        return {"loss": numpy(loss(data[name], model(inputs), data["tag_weights"]))}
    if name == "answers":
        return {"loss": numpy(kerasllm.AnswerSpanLoss()(data[name], model(inputs)))}
    if name == "multi_label":
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        return {"loss": numpy(loss(data[name], model(inputs)))}
    if name.endswith("classes"):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": numpy(loss(data[name], model(inputs)))}
    return {}


def main(prepared: Path, results: Path, minilm: str = "", reference: str = "") -> None:
    data = dict(np.load(prepared / "data.npz"))
    inputs = {name: data[name] for name in ("token_ids", "segment_ids", "padding_mask")}
    for name, cls in CLASSES.items():
        model = cls.from_pretrained(prepared / name)
        outputs = model(inputs)
        if not isinstance(outputs, dict):
            outputs = {"logits": outputs}
        found = {key: numpy(value) for key, value in outputs.items()} | losses(name, model, inputs, data)
        found["hidden_states"] = hidden_states(getattr(model, "backbone", model), inputs)
        np.savez(results / f"{name}.npz", **found)
        model.save_pretrained(results / name)
        if name == "pretraining":
            model.save_pretrained(results / "shards", max_shard_size="20KB")
    if minilm:
        theirs = np.load(reference)
        model = kerasllm.BertBackbone.from_pretrained(minilm)
        names = {"token_ids": "input_ids", "segment_ids": "token_type_ids", "padding_mask": "attention_mask"}
        inputs = {name: theirs[key] for name, key in names.items()}
        outputs = {key: numpy(value) for key, value in model(inputs).items()}
        np.savez(results / "minilm.npz", hidden_states=hidden_states(model, inputs), **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
