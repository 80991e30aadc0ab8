"""Models of KerasHub and ours, converted both ways under one backend: differences to a JSON file.

Argument: the file.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

import kerasllm
import kerasllm.errors

assert not {"keras_hub", "keras_nlp"} & set(sys.modules), "importing kerasllm brings KerasHub along"
HUB = {name: 2 for name in ("num_layers", "num_heads")} | {"hidden_dim": 16, "intermediate_dim": 24}
SHAPE = HUB | {"vocabulary_size": 40, "max_sequence_length": 12}


def numpy(outputs) -> dict[str, np.ndarray]:
    outputs = outputs if isinstance(outputs, dict) else {"sequence_output": outputs}
    return {name: keras.ops.convert_to_numpy(value) for name, value in outputs.items()}


def make_inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    mask = (np.arange(10) < np.array([[10], [7], [3]])).astype("int32")
    tokens = random.integers(1, 40, (3, 10)).astype("int32") * mask
    return {
        "token_ids": tokens,
        "segment_ids": (np.arange(10) > 4).astype("int32") * mask,
        "padding_mask": mask,
    }


def randomize(variables) -> None:
    """Initial values are so small that much would go unnoticed."""
    random = np.random.default_rng(1)
    for variable in variables:
        mean, deviation = (0, 0.3) if len(variable.shape) > 1 else (0.5, 0.3)
        variable.assign(random.normal(mean, deviation, variable.shape).astype("float32"))


def difference(first, second, inputs) -> float:
    """The largest, over real tokens."""
    mask = inputs["padding_mask"][:, :, None]
    one, other = numpy(first), numpy(second)
    assert one.keys() == other.keys()
    assert min(np.abs(value).max() for value in one.values()) > 0.3
    return max(
        float(np.abs((one[name] - other[name]) * (mask if one[name].ndim == 3 else 1)).max()) for name in one
    )


def bits(model) -> dict[str, bytes]:
    return {name: keras.ops.convert_to_numpy(v).tobytes() for name, v in model.named_variables().items()}


def converted(theirs, inputs) -> dict:
    """Of a model of KerasHub: how far ours is, and ours of theirs of ours."""
    randomize(theirs.weights)
    ours = kerasllm.from_keras_hub(theirs)
    back = kerasllm.to_keras_hub(ours)
    again = kerasllm.from_keras_hub(back)
    own = {name: inputs[name] for name in theirs.input_names} if hasattr(theirs, "input_names") else inputs
    return {
        "in": difference(theirs(own), ours(inputs), inputs),
        "out": difference(back(own), ours(inputs), inputs),
        "bits": bits(ours) == bits(again),
        "their_bits": all(
            np.array_equal(a, b) for a, b in zip(theirs.get_weights(), back.get_weights(), strict=True)
        ),
        "config": again.config == ours.config,
        "activation": ours.config.activation,
    }


def refusal(function, *arguments) -> str:
    try:
        function(*arguments)
    except kerasllm.errors.InputError as error:
        return str(error)
    return "nothing was refused"


def main(path: Path) -> None:
    inputs = make_inputs()
    causal = {name: inputs[name] for name in ("token_ids", "padding_mask")}
    bert = kerasllm.BertClassifier(kerasllm.BertConfig(layer_norm_epsilon=1e-3, **SHAPE), seed=0)
    gpt = kerasllm.GPTCausalLM(kerasllm.GPTConfig(activation="relu", **SHAPE), seed=0)
    found = {}
    for name, model, own in (("exact", bert, inputs), ("relu", gpt, causal)):
        randomize(model.backbone.named_variables().values())
        theirs = kerasllm.to_keras_hub(model)
        found[name] = difference(theirs(own), model.backbone(own), inputs)
        found[f"{name}_bits"] = bits(kerasllm.from_keras_hub(theirs)) == bits(model.backbone)
    import keras_hub  # here at the latest: the functions have imported it

    found["bert"] = converted(keras_hub.models.BertBackbone(num_segments=3, **SHAPE), inputs)
    found["gpt2"] = converted(keras_hub.models.GPT2Backbone(**SHAPE), causal)
    task = keras_hub.models.GPT2CausalLM(keras_hub.models.GPT2Backbone(**SHAPE), preprocessor=None)
    randomize(task.weights)
    ours = kerasllm.from_keras_hub(task)
    whole = kerasllm.GPTCausalLM(ours.config, backbone=ours)
    found["causal"] = difference(task(causal), whole(causal), inputs)
    shape = kerasllm.GPTConfig(positions="rotary", **SHAPE)
    found["refused"] = [
        refusal(kerasllm.to_keras_hub, kerasllm.BertMaskedLM(bert.config, seed=0)),
        refusal(kerasllm.to_keras_hub, kerasllm.GPTBackbone(shape, seed=0)),
        refusal(kerasllm.from_keras_hub, keras.layers.Dense(3)),
    ]
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
