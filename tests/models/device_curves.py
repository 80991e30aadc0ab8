"""Losses on one device and on meshes of four, in one process: prints for each family and mesh what differs.

XLA_FLAGS must give four devices; arguments are families, and "all" for all meshes. Each line is JSON: family, mesh, the
greatest relative difference of the losses, the same of the loss of an evaluation, and the share of the weights and the
optimizer that lies on the first device.
"""

import json
import sys

import keras
import numpy as np

import kerasllm

SHAPE = {"vocabulary_size": 48, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 16}
STEPS = 6


def batches(family):
    """Rows of several lengths, the labels with weights."""
    random = np.random.default_rng(0)
    for _ in range(STEPS + 1):
        tokens = random.integers(1, 47, (8, 13)).astype("int32")
        real = (np.arange(12) < random.integers(5, 13, (8, 1))).astype("int32")
        weights = real.astype("float32")
        inputs = {"token_ids": tokens[:, :-1], "padding_mask": real}
        labels = tokens[:, 1:]
        if family == "encoder-decoder":
            inputs = {
                "encoder_token_ids": tokens[:, :-1],
                "encoder_padding_mask": real,
                "decoder_token_ids": tokens[:, :-1],
            }
        if family == "BERT":
            places = np.sort(random.integers(0, 5, (8, 3))).astype("int32")
            inputs["masked_positions"] = places
            labels = {"masked_lm": tokens[:, :3], "next_sentence": tokens[:, 0] % 2}
            weights = {"masked_lm": np.ones((8, 3), "float32"), "next_sentence": np.ones(8, "float32")}
        yield inputs, labels, weights


def make(family):
    if family == "BERT":
        return kerasllm.BertPretraining(kerasllm.BertConfig(**SHAPE, dropout=0.1), seed=1)
    if family == "GPT":
        return kerasllm.GPTCausalLM(kerasllm.GPTConfig(**SHAPE, dropout=0.1), seed=1)
    return kerasllm.Seq2SeqLM(kerasllm.Seq2SeqConfig(**SHAPE, dropout=0.1, pad_token_id=47), seed=1)


def train(family):
    model = make(family)
    model.compile(keras.optimizers.AdamW(1e-2, global_clipnorm=0.5))
    *training, held_out = batches(family)
    losses = [float(model.train_on_batch(*batch, return_dict=True)["loss"]) for batch in training]
    return losses, float(model.test_on_batch(*held_out, return_dict=True)["loss"]), model


def share_of_first(model):
    """The share of all numbers of a model and its optimizer that the first device holds."""
    values = [variable.value for variable in (*model.variables, *model.optimizer.variables)]
    return sum(value.addressable_shards[0].data.size for value in values) / sum(
        value.size for value in values
    )


MESHES = [(2, 2, 1), (1, 2, 2)]
FURTHER = [(4, 1, 1), (1, 4, 1), (2, 1, 2)]

for family in [name for name in sys.argv[1:] if name != "all"]:
    keras.distribution.set_distribution(None)
    expected, judged, _ = train(family)
    for mesh in MESHES + FURTHER * ("all" in sys.argv):
        assert kerasllm.distribute(*mesh) == (0, 1)
        losses, found, model = train(family)
        difference = max(abs(a - b) / b for a, b in zip(losses, expected, strict=True))
        line = {
            "family": family,
            "mesh": mesh,
            "losses": difference,
            "evaluation": abs(found - judged) / judged,
        }
        print(json.dumps(line | {"share": share_of_first(model)}), flush=True)
