"""Losses of tiny models, one JSON line a family: alone, or in each of several processes that are started together.

Arguments: the number of steps, the mesh "replica,fsdp,tensor" (empty for one device), "compiled" or "plain", families.
Dropout, clipping, accumulation of two batches, packed rows (GPT) and the loss in chunks are on; the lengths of the
rows differ. With one process, the line holds the losses that several must give.
"""

import json
import sys

import keras
import numpy as np

import kerasllm
from kerasllm import backend
from kerasllm.data.batches.base import MicroBatches
from kerasllm.tasks import CausalLanguageModeling, MaskedLanguageModeling, Translation
from kerasllm.tasks.embedding import Embedding
from kerasllm.training.callbacks.step import StepCallback
from kerasllm.training.fit import own_share
from kerasllm.training.optimization.optimizers import adamw

SHAPE = {"vocabulary_size": 48, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 16}
ROWS, LENGTH, ACCUMULATION = 8, 12, 2
FAMILIES = ("GPT", "BERT", "encoder-decoder", "recurrent", "embeddings", "embeddings in parts")


class RandomBatches(MicroBatches):
    """Rows of several lengths, of a family's inputs."""

    def __init__(self, family, steps, accumulation):
        super().__init__(batch_size=ROWS, gradient_accumulation=accumulation)
        self.family = family
        self.set_steps(steps)

    def batch(self, step):
        random = np.random.default_rng(step)
        rows = self.examples_per_step
        tokens = random.integers(1, 47, (rows, LENGTH + 1)).astype("int32")
        real = (np.arange(LENGTH) < random.integers(5, LENGTH + 1, (rows, 1))).astype("int32")
        inputs, labels, weights = {"token_ids": tokens[:, :-1]}, tokens[:, 1:], real.astype("float32")
        if self.family == "GPT":
            inputs["sequence_ids"] = np.cumsum(inputs["token_ids"] % 5 == 0, axis=1, dtype="int32")
        elif self.family == "BERT":
            inputs |= {"padding_mask": real, "masked_positions": np.sort(random.integers(0, 5, (rows, 3)))}
            inputs["masked_positions"] = inputs["masked_positions"].astype("int32")
            labels = {"masked_lm": tokens[:, :3], "next_sentence": tokens[:, 0] % 2}
            weights = {"masked_lm": random.integers(0, 2, (rows, 3)).astype("float32")}
            weights["next_sentence"] = np.ones(rows, "float32")
        elif self.family == "encoder-decoder":
            names = ("encoder_token_ids", "encoder_padding_mask", "decoder_token_ids")
            inputs = dict(zip(names, (tokens[:, :-1], real, tokens[:, :-1]), strict=True))
        elif self.family.startswith("embeddings"):  # the texts of a pair are in different processes
            inputs["padding_mask"] = real
            row = np.arange(rows) % ROWS
            is_positive = row // (ROWS // 2)
            labels = np.stack([row % (ROWS // 2), is_positive, row, row], axis=1).astype("float32")
            weights = 1 - is_positive.astype("float32")
        else:
            inputs["continues"] = np.full(rows, step % 7 > 0, "int32")
        if isinstance(weights, dict):
            return inputs, labels, {name: self.normalized(weight) for name, weight in weights.items()}
        return inputs, labels, self.normalized(weights)


def make(family, accumulation):
    """Returns a model and its task."""
    if family == "GPT":
        return kerasllm.GPTCausalLM(
            kerasllm.GPTConfig(**SHAPE, dropout=0.1), seed=1
        ), CausalLanguageModeling()
    if family == "BERT":
        return kerasllm.BertPretraining(
            kerasllm.BertConfig(**SHAPE, dropout=0.1), seed=1
        ), MaskedLanguageModeling()
    if family == "encoder-decoder":
        config = kerasllm.Seq2SeqConfig(**SHAPE, dropout=0.1, pad_token_id=47)
        return kerasllm.Seq2SeqLM(config, seed=1), Translation(label_smoothing=0.1)
    if family.startswith("embeddings"):
        model = kerasllm.BertEncoder(kerasllm.BertConfig(**SHAPE, dropout=0.1), seed=1)
        model.training_parts = 4 if family.endswith("parts") else 1
        return model, Embedding(scale=5.0)
    config = kerasllm.RecurrentConfig(
        vocabulary_size=48, num_layers=2, hidden_dim=16, dropout=0.1, weight_drop=0.1
    )
    model = kerasllm.RecurrentLM(config, seed=1)
    model.carry_state(training_rows=ROWS, parts=accumulation)
    return model, CausalLanguageModeling()


class Losses(StepCallback):
    """Notes the figures of each step."""

    def __init__(self, accumulation):
        super().__init__(gradient_accumulation=accumulation)
        self.figures = []

    def on_step_end(self, step, values):
        self.figures.append(values)


def train(family, steps, compiled=False, accumulation=ACCUMULATION):
    """Returns the figures of each step by name, and the bytes of the training's state in this process."""
    model, task = make(family, accumulation)
    optimizer = adamw(1e-2, clip_norm=0.5, gradient_accumulation=accumulation)
    batches = RandomBatches(family, steps, accumulation)
    share = own_share(accumulation)
    batches.set_share(share)
    summed = accumulation > 1 or share.normalize
    settings = {"jit_compile": True} if compiled else {}
    task.compile(model, optimizer, normalized_weights=summed, **settings)
    loss = model.loss
    if hasattr(loss, "chunk_size"):
        loss.chunk_size = 20
    model.catch_non_finite = True
    losses = Losses(accumulation)
    model.fit(batches, shuffle=False, verbose=0, callbacks=[losses])
    figures = {name: [values[name] for values in losses.figures] for name in losses.figures[0]}
    return figures | {"bytes": held(model)}


def held(model):
    """Returns the bytes of the weights, other states and the optimizer that lie in this process."""
    values = [variable.value for variable in (*model.variables, *model.optimizer.variables)]
    parts = [
        [shard.data for shard in getattr(value, "addressable_shards", ())] or [value] for value in values
    ]
    return sum(part.nbytes for some in parts for part in some)


def main(steps, mesh, how, *families):
    if mesh:
        place = kerasllm.distribute(*map(int, mesh.split(",")))
        assert place == (backend.join()), place
    for family in families or FAMILIES:
        found = train(family, int(steps), how == "compiled")
        print(json.dumps({"family": family} | found), flush=True)


if __name__ == "__main__":
    keras.config.disable_traceback_filtering()
    main(*sys.argv[1:])
