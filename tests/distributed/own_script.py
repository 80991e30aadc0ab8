"""A user's own script: `compile` and `fit`, with texts and with arrays, after `kerasllm.distribute`.

It prints a line of JSON: the losses of each model, and what becomes of weights.
"""

import json

import keras
import numpy as np

import kerasllm

SHAPE = {"vocabulary_size": 40, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 16}
TEXTS = ["a b c d", "e f", "g h a b c", "d", "b b b a", "c e g"] * 4
ROWS = np.random.default_rng(0).integers(0, 40, (8, 12))
WEIGHTS = np.random.default_rng(1).random((8, 12)).astype("float32")


def optimizer():
    """Returns an optimizer that clips."""
    return keras.optimizers.AdamW(1e-3, global_clipnorm=0.5)


def classifier():
    """Returns the losses of a classifier of texts, in training and validation."""
    tokenizer = kerasllm.train_wordpiece(TEXTS, vocabulary_size=40)
    model = kerasllm.BertClassifier(kerasllm.BertConfig(**SHAPE), num_classes=2, seed=0)
    model.compile(optimizer(), weighted_metrics=["accuracy"])
    data = kerasllm.TextClassificationData(
        TEXTS,
        [number % 2 for number in range(len(TEXTS))],
        tokenizer=tokenizer,
        batch_size=4,
        sequence_length=16,
    )
    steps = []
    told = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: steps.append(logs["accuracy"])
    )
    history = model.fit(data, epochs=2, validation_data=data, callbacks=[told], verbose=0).history
    history["accuracy of each step"] = [float(value) for value in steps]
    return history | {"evaluated": model.evaluate(data, verbose=0)[0]}


def language_model(place, **settings):
    """Returns the losses of a GPT on arrays, of which a process gives its own rows, and itself."""
    number, count = place
    own = np.arange(8).reshape(2, count, -1)[:, number].reshape(-1)
    model = kerasllm.GPTCausalLM(kerasllm.GPTConfig(**SHAPE), seed=0)
    model.compile(optimizer(), **settings)
    history = model.fit(
        {"token_ids": ROWS[own]},
        ROWS[own],
        sample_weight=WEIGHTS[own],
        batch_size=4 // count,
        epochs=2,
        shuffle=False,
        verbose=0,
    ).history
    return history, model


class Penalized(kerasllm.GPTCausalLM):
    """A model whose own `call` adds a loss."""

    def call(self, inputs, training=False):
        self.add_loss(keras.ops.convert_to_tensor(1.0))
        return super().call(inputs, training=training)


def refused():
    """Returns what is said of losses that each process would add."""
    said = []
    penalized = Penalized(kerasllm.GPTConfig(**SHAPE), seed=0)
    regularized = kerasllm.GPTCausalLM(kerasllm.GPTConfig(**SHAPE), seed=0)
    regularized.trainable_variables[0].regularizer = keras.regularizers.L2(1e-4)
    for model in (penalized, regularized):
        model.compile(optimizer())
        try:
            model.fit({"token_ids": ROWS}, ROWS, batch_size=4, verbose=0)
        except kerasllm.errors.InputError as error:
            said.append(str(error))
    return said


def weights(model, directory):
    """Returns what Keras' own ways to read and write the weights do, where each process has a part of them."""
    found = model.get_weights()
    model.set_weights([values * 0 for values in found])
    zeros = model.get_weights()
    model.set_weights(found)
    same = all(np.array_equal(one, other) for one, other in zip(found, model.get_weights(), strict=True))
    said = []
    for method, path in (("save", "a.keras"), ("save_weights", "a.weights.h5")):
        try:
            getattr(model, method)(f"{directory}/{path}")
        except kerasllm.errors.InputError as error:
            said.append(str(error))
    model.save_pretrained(f"{directory}/model")
    return {
        "total": float(sum(np.abs(values).sum() for values in found)),
        "zeros": float(sum(np.abs(values).sum() for values in zeros)),
        "same": same,
        "said": said,
    }


def recorded(place):
    """Returns the losses of a GPT whose steps are recorded as for the compiler, and how many programs there are."""
    from kerasllm.backend.torch import compiler, training

    compiler.by_inductor = lambda graph, inputs: graph  # which would take g++ half a minute
    history, model = language_model(place, jit_compile=True)
    return history | {"programs": len(training._known[model][1]._programs)}


def train(place):
    """Returns all figures, and the GPT."""
    causal, model = language_model(place)
    return {"classifier": classifier(), "gpt": causal}, model


if __name__ == "__main__":
    import sys

    place = kerasllm.distribute()
    figures, model = train(place)
    if keras.backend.backend() == "torch":
        figures["weights"] = weights(model, f"{sys.argv[1]}/{place[0]}")
        figures["refused"] = refused()
        figures["recorded"] = recorded(place)
    print("figures", json.dumps(figures), flush=True)
