"""A compiled training step against Keras' own, uncompiled: what is faster must not be different."""

import dataclasses
import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import keras
import numpy as np
import pytest

from kerasllm import (
    BertClassifier,
    BertConfig,
    BertPretraining,
    GPTCausalLM,
    GPTConfig,
)
from kerasllm.tasks import CausalLanguageModeling, MaskedLanguageModeling
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import LinearWarmupDecay

STEPS = 10


def causal_data():
    tokens = np.random.default_rng(0).integers(0, 50, (STEPS, 4, 17)).astype("int32")
    return [({"token_ids": t[:, :-1]}, t[:, 1:], (t[:, 1:] > 5).astype("float32")) for t in tokens]


def pretraining_data():
    random = np.random.default_rng(1)
    batches = []
    for _ in range(STEPS):
        inputs = {
            "token_ids": random.integers(0, 50, (4, 16)).astype("int32"),
            "segment_ids": random.integers(0, 2, (4, 16)).astype("int32"),
            "padding_mask": (np.arange(16) < random.integers(8, 17, (4, 1))).astype("int32"),
            "masked_positions": np.sort(random.integers(0, 8, (4, 3))).astype("int32"),
        }
        labels = {"masked_lm": random.integers(0, 50, (4, 3)), "next_sentence": random.integers(0, 2, 4)}
        weights = {"masked_lm": np.ones((4, 3), "float32"), "next_sentence": np.ones(4, "float32")}
        batches.append((inputs, labels, weights))
    return batches


def packed_data():
    """Two sequences a row and some padding, a text's class each."""
    batches = []
    for inputs, labels, _ in pretraining_data():
        first = np.array([7, 4, 9, 6])[:, None]
        columns = np.arange(16)
        second = columns >= first
        places = {
            "sequence_ids": np.where(columns < 15, second, -1),
            "position_ids": np.where(second, columns - first, columns),
            "first_positions": np.concatenate([np.zeros_like(first), first], axis=1),
        }
        inputs = {name: inputs[name] for name in ("token_ids", "segment_ids")}
        inputs |= {name: array.astype("int32") for name, array in places.items()}
        classes = np.stack([labels["next_sentence"], 1 - labels["next_sentence"]], axis=1)
        weights = np.ones((4, 2), "float32")
        weights[3, 1] = 0
        batches.append((inputs, classes, weights))
    return batches


def compile_classifier(model, optimizer, jit_compile):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(optimizer=optimizer, loss=loss, weighted_metrics=[accuracy], jit_compile=jit_compile)
    model.per_step_metrics = True


if keras.backend.backend() == "tensorflow":
    from kerasllm.backend.tensorflow import fusion as tensorflow_fusion

SHAPE = {"vocabulary_size": 50, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 16}
LLAMA = {
    "normalization": "rms_norm",
    "positions": "rotary",
    "feed_forward": "gated",
    "activation": "silu",
    "use_bias": False,
    "num_key_value_heads": 1,
}
CASES = {
    "gpt": (GPTCausalLM, GPTConfig(dropout=0.1, **SHAPE), CausalLanguageModeling().compile, causal_data),
    "llama": (
        GPTCausalLM,
        GPTConfig(dropout=0.1, **SHAPE, **LLAMA),
        CausalLanguageModeling().compile,
        causal_data,
    ),
    "bert": (
        BertPretraining,
        BertConfig(dropout=0.1, **SHAPE),
        MaskedLanguageModeling().compile,
        pretraining_data,
    ),
    # Nothing dropped, and the first block's input has no gradient.
    "adapters": (
        partial(GPTCausalLM, lora_rank=2),
        GPTConfig(dropout=0.0, **SHAPE),
        CausalLanguageModeling().compile,
        causal_data,
    ),
    "packed texts": (BertClassifier, BertConfig(dropout=0.1, **SHAPE), compile_classifier, packed_data),
}


def optimizer():
    return adamw(LinearWarmupDecay(1e-2, steps=STEPS, warmup=3), weight_decay=0.1, clip_norm=0.5)


@cache
def plain(kind):
    """Keras' own, uncompiled."""
    return train(kind, False)


def train(kind, jit_compile):
    """Logs of each step, and the weights and the optimizer's state after the last."""
    model_class, config, compile_model, data = CASES[kind]
    model = model_class(config, seed=3)
    compile_model(model, optimizer(), jit_compile=jit_compile)
    logs = [model.train_on_batch(*batch, return_dict=True) for batch in data()]
    logs = [{name: float(value) for name, value in step.items()} for step in logs]
    state = [*model.trainable_variables, *model.optimizer.variables]
    return logs, [keras.ops.convert_to_numpy(variable) for variable in state]


class PlainPretraining(BertPretraining):
    """Computes every position in every block, and picks what is read afterwards."""

    def call(self, inputs, training=False):
        encoded = self.backbone(inputs, training=training)
        table, masked = self.backbone.embeddings.token, inputs["masked_positions"]
        pooled = encoded["pooled_output"]
        return {
            "masked_lm": self.masked_lm_head(encoded["sequence_output"], table, masked),
            "next_sentence": self.next_sentence_head(pooled, training=training),
        }


class PlainClassifier(BertClassifier):
    def call(self, inputs, training=False):
        return self.classifier(self.backbone(inputs, training=training)["pooled_output"], training=training)


@pytest.mark.parametrize("kind", ["bert", "packed texts"])
def test_a_last_block_of_what_is_read_alone_trains_the_same(kind):
    """Ten steps, without dropout, whose draws are fewer then: losses, weights, the optimizer's state."""
    model_class, config, compile_model, data = CASES[kind]
    results = []
    for made in (model_class, {"bert": PlainPretraining, "packed texts": PlainClassifier}[kind]):
        model = made(dataclasses.replace(config, dropout=0.0, attention_dropout=0.0), seed=3)
        compile_model(model, optimizer(), jit_compile=keras.backend.backend() == "jax")
        losses = [model.train_on_batch(*batch, return_dict=True)["loss"] for batch in data()]
        state = [*model.trainable_variables, *model.optimizer.variables]
        results.append([np.array(losses, "float32"), *map(keras.ops.convert_to_numpy, state)])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


TWICE = """
import hashlib
import keras
import numpy as np
from kerasllm import BertConfig, BertPretraining
from kerasllm.tasks import MaskedLanguageModeling
from kerasllm.training.optimization.optimizers import adamw
from kerasllm.training.optimization.schedules import LinearWarmupDecay

shape = {"vocabulary_size": 40, "num_layers": 1, "num_heads": 2, "hidden_dim": 64, "max_sequence_length": 64}
random = np.random.default_rng(0)
inputs = {
    "token_ids": random.integers(0, 40, (64, 64)).astype("int32"),  # a token stands in many places
    "position_ids": random.integers(0, 64, (64, 64)).astype("int32"),
    "masked_positions": random.integers(0, 64, (64, 8)).astype("int32"),
}
labels = {"masked_lm": random.integers(0, 40, (64, 8)), "next_sentence": random.integers(0, 2, 64)}
model = BertPretraining(BertConfig(**shape), seed=0)
MaskedLanguageModeling().compile(model, adamw(LinearWarmupDecay(1e-2, steps=8, warmup=1)), jit_compile=True)
model.optimizer.build(model.trainable_variables)
variables = [*model.variables, *model.optimizer.variables]
start = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
for _ in range(2):
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    for _ in range(4):
        model.train_on_batch(inputs, labels)
    values = [keras.ops.convert_to_numpy(variable).tobytes() for variable in variables]
    print(hashlib.sha256(b"".join(values)).hexdigest())
"""


def test_several_threads_give_the_same_bits_twice():
    """Sums must not be taken in the order in which the threads come by."""
    done = subprocess.run(
        [sys.executable, "-c", TWICE],
        # XLA as users have it, not as conftest.py sets it.
        env=os.environ
        | {"OMP_NUM_THREADS": "4", "XLA_FLAGS": "", "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.split()
    assert first == second


def losses_in_bfloat16():
    """Of ten steps, uncompiled and compiled: dropout draws the same; the rest is off by what bfloat16 rounds."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return [[step["loss"] for step in train("bert", compiled)[0]] for compiled in (False, True)]
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("kind", CASES)
def test_ten_steps_are_those_of_the_plain_path(kind, capsys):
    plain_logs, plain_state = plain(kind)
    logs, state = train(kind, True)
    assert [step.keys() for step in logs] == [step.keys() for step in plain_logs]
    for found, expected in zip(logs, plain_logs, strict=True):
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    for found, expected in zip(state, plain_state, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)
    assert plain_logs[-1]["loss"] != plain_logs[0]["loss"]
    assert "without compilation" not in capsys.readouterr().err


if keras.backend.backend() == "tensorflow":

    @pytest.fixture
    def in_parts(monkeypatch):
        """Compiled in parts whatever the machine and the precision."""
        monkeypatch.setattr(tensorflow_fusion, "in_parts", lambda model: bool(model.jit_compile))

    @pytest.mark.parametrize("kind", ["gpt", "bert"])
    def test_ten_steps_in_parts_are_those_of_the_plain_path(kind, in_parts):
        plain_logs, plain_state = plain(kind)
        logs, state = train(kind, True)
        for found, expected in zip(logs, plain_logs, strict=True):
            np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
        for found, expected in zip(state, plain_state, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)

    def test_parts_in_bfloat16(in_parts):
        losses = losses_in_bfloat16()
        np.testing.assert_allclose(*losses, rtol=1e-2)
        assert losses[0] != losses[1]  # two paths indeed

    def test_a_bad_batch_in_parts_leaves_no_trace(in_parts):
        results = []
        for batches in ((0, 1, 2), (0, 2)):
            model = GPTCausalLM(GPTConfig(**SHAPE), seed=3)
            CausalLanguageModeling().compile(model, keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=True)
            model.catch_non_finite = True
            data = causal_data()
            data[1][2][0, 0] = np.nan
            norms = [
                float(model.train_on_batch(*data[i], return_dict=True)["gradient_norm"]) for i in batches
            ]
            assert [np.isfinite(norm) for norm in norms] == [i != 1 for i in batches]
            results.append([keras.ops.convert_to_numpy(v) for v in model.trainable_variables])
        for with_bad, without in zip(*results, strict=True):
            np.testing.assert_array_equal(with_bad, without)

    def test_in_bfloat16_jit_compile_stays_as_asked():
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = GPTCausalLM(GPTConfig(**SHAPE), seed=3)
        finally:
            keras.config.set_dtype_policy("float32")
        CausalLanguageModeling().compile(model, optimizer(), jit_compile=True)
        model.make_train_function()
        assert model.jit_compile is True
        CausalLanguageModeling().compile(model, optimizer(), jit_compile=False)
        assert not tensorflow_fusion.in_parts(model)


if keras.backend.backend() == "jax":
    from kerasllm.backend.jax import onednn
    from kerasllm.backend.jax import products as jax_products

    @pytest.fixture
    def calls(monkeypatch):
        """oneDNN's products, however small and whatever the processor; the count of them."""
        found = []
        plain_multiply = onednn.multiply

        def counted(*arrays):
            found.append(arrays[0].dtype.name)
            plain_multiply(*arrays)

        monkeypatch.setattr(jax_products, "_LEAST_WORK", {"float32": 0, "bfloat16": 0})
        monkeypatch.setattr(onednn, "multiplies_bfloat16", lambda: True)
        monkeypatch.setattr(onednn, "multiply", counted)
        return found

    needs_onednn = pytest.mark.skipif(not onednn.available(), reason="no package of oneDNN for this system")

    @needs_onednn
    @pytest.mark.parametrize("kind", CASES)
    def test_ten_steps_by_onednn_are_those_of_the_plain_path(kind, calls):
        plain_logs, plain_state = plain(kind)
        logs, state = train(kind, True)
        products = 38 if kind == "llama" else 50  # the gradients of biases, of which it has none, are some
        assert len(calls) > products * STEPS
        for found, expected in zip(logs, plain_logs, strict=True):
            np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
        for found, expected in zip(state, plain_state, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)

    @needs_onednn
    @pytest.mark.skipif(
        not onednn.multiplies_fast("bfloat16", "bfloat16"),
        reason="a processor without bfloat16's instructions",
    )
    def test_onednn_in_bfloat16(calls):
        losses = losses_in_bfloat16()
        assert "bfloat16" in calls
        np.testing.assert_allclose(*losses, rtol=1e-2)

    @needs_onednn
    def test_evaluation_by_onednn_is_that_of_the_plain_path(calls):
        results = []
        for jit_compile in (False, True):
            model = GPTCausalLM(GPTConfig(**SHAPE), seed=3)
            CausalLanguageModeling().compile(model, optimizer(), jit_compile=jit_compile)
            results.append(model.test_on_batch(*causal_data()[0]))
            assert bool(calls) == jit_compile
        np.testing.assert_allclose(*results, rtol=1e-5)

    @needs_onednn
    @pytest.mark.parametrize("setting", [{"run_eagerly": True}, {"jit_compile": False}])
    def test_an_uncompiled_step_is_keras_own(setting, calls):
        model = GPTCausalLM(GPTConfig(**SHAPE), seed=3)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss=loss, **setting)
        model.train_on_batch(*causal_data()[0][:2])
        assert not calls

    def test_without_the_package_the_step_is_keras_own(calls, monkeypatch):
        monkeypatch.setattr(onednn, "_library", lambda: None)
        assert not onednn.available()
        model = GPTCausalLM(GPTConfig(**SHAPE), seed=3)
        CausalLanguageModeling().compile(model, optimizer(), jit_compile=True)
        model.train_on_batch(*causal_data()[0])
        assert not calls


if keras.backend.backend() == "torch":  # the others compile by themselves
    import torch

    from kerasllm.backend.torch import compiler as torch_compiler
    from kerasllm.backend.torch import parts as torch_parts
    from kerasllm.backend.torch import products as torch_products
    from kerasllm.backend.torch.products import TakeRows

    @pytest.fixture
    def nothing_compiled(monkeypatch):
        """As if the process had compiled nothing yet."""
        monkeypatch.setattr(torch_parts, "_functions", {})

    def test_compiled_in_bfloat16():
        losses = losses_in_bfloat16()
        np.testing.assert_allclose(*losses, rtol=1e-2)
        assert losses[0] != losses[1]  # two paths indeed

    def test_rows_in_bfloat16_are_summed_in_float32():
        """Summed in bfloat16, 4,096 ones are 256."""
        table = torch.zeros((5, 3), dtype=torch.bfloat16, requires_grad=True)
        TakeRows.apply(table, torch.full((4096,), 2)).sum().backward()
        assert table.grad.tolist() == [[0] * 3, [0] * 3, [4096] * 3, [0] * 3, [0] * 3]

    @pytest.mark.usefixtures("nothing_compiled")
    def test_the_compiler_is_told_how_wide_vectors_are(monkeypatch):
        """By which its cache on disk tells apart what was made for one processor and another."""
        compile_one, widths = torch_compiler._after_recording, set()

        def after_recording(*given):
            widths.add(torch._inductor.config.cpp.simdlen)
            return compile_one(*given)

        monkeypatch.setattr(torch_compiler, "_after_recording", after_recording)
        train("gpt", True)
        assert widths == {torch._inductor.cpu_vec_isa.pick_vec_isa().bit_width()}
        assert torch._inductor.config.cpp.simdlen is None

    @pytest.mark.usefixtures("nothing_compiled")
    @pytest.mark.parametrize("kind", ["bert", "gpt"])
    def test_what_is_compiled_does_not_grow_with_the_layers(kind, monkeypatch):
        """Parts that are alike are compiled once; run as recorded, the parts are the step."""
        model_class, config, compile_model, data = CASES[kind]
        compiled = []
        monkeypatch.setattr(
            torch_compiler, "by_inductor", lambda graph, inputs: compiled.append(graph) or graph
        )
        counts = []
        for layers in (3, 6):
            compiled.clear()
            results = []
            torch_parts._functions.clear()
            for jit_compile in (True, False):
                model = model_class(dataclasses.replace(config, num_layers=layers), seed=3)
                compile_model(model, optimizer(), jit_compile=jit_compile)
                losses = [model.train_on_batch(*batch, return_dict=True)["loss"] for batch in data()[:3]]
                results.append([float(loss) for loss in losses])
            np.testing.assert_allclose(*results, rtol=1e-5)
            counts.append(len(compiled))
        assert counts[0] == counts[1] > 2

    @pytest.mark.usefixtures("nothing_compiled")
    def test_a_last_batch_of_fewer_rows_is_not_compiled(monkeypatch):
        compiled = []
        monkeypatch.setattr(
            torch_compiler, "by_inductor", lambda graph, inputs: compiled.append(graph) or graph
        )
        tokens = np.random.default_rng(0).integers(0, 50, (10, 17)).astype("int32")
        losses = []
        for jit_compile in (True, False):
            model = GPTCausalLM(GPTConfig(**SHAPE), seed=3)
            CausalLanguageModeling().compile(model, optimizer(), jit_compile=jit_compile)
            history = model.fit(
                {"token_ids": tokens[:, :-1]}, tokens[:, 1:], batch_size=4, epochs=2, shuffle=False, verbose=0
            )
            losses.append(history.history["loss"])
        np.testing.assert_allclose(*losses, rtol=1e-5)
        first = len(compiled)
        assert first
        torch_parts._functions.clear()
        model = GPTCausalLM(GPTConfig(**SHAPE), seed=3)
        CausalLanguageModeling().compile(model, optimizer(), jit_compile=True)
        model.fit({"token_ids": tokens[:8, :-1]}, tokens[:8, 1:], batch_size=4, verbose=0)
        assert len(compiled) == 2 * first

    @pytest.mark.usefixtures("nothing_compiled")
    def test_kernels_are_built_one_by_one_where_not_together(monkeypatch, tmp_path):
        """Of a step that has two, about a product: g++ takes seconds for each, and a model has thirty."""
        refused = []

        def refuse(kernels):
            refused.extend(kernels)
            raise RuntimeError("of another version")

        def step(left, right):
            return [(left.exp() @ right).sigmoid() + 1]

        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        monkeypatch.setattr(torch_compiler, "_build", refuse)
        values = torch.randn(7, 5), torch.randn(5, 3)
        record = torch.fx.experimental.proxy_tensor.make_fx
        graph = record(step, torch_compiler.decompositions(), "fake")(*values)
        with torch_compiler.short_cuts():
            run = torch_parts.compiled_in_parts(graph, torch_parts.whole(graph), torch_compiler.by_inductor)
        assert len(refused) == 2
        torch.testing.assert_close(run(*values), step(*values))

    def test_onednn_gets_no_part_of_a_wider_matrix():
        """It would take a thousand times as long."""
        left, wide = torch.randn(5, 6), torch.randn(6, 9)
        part = wide[:, 2:6]
        assert not part.is_contiguous() and not part.t().is_contiguous()
        assert torch_products._compact(part).is_contiguous()
        assert (
            torch_products._compact(wide.t()) is not None
            and not torch_products._compact(wide.t()).is_contiguous()
        )
        with torch.no_grad():
            found = torch_products.product_with_transpose(left, part.t())
        torch.testing.assert_close(found, left @ part)

    def test_a_model_that_looks_at_values_is_trained_without_compilation(capsys):
        class Looking(GPTCausalLM):
            def call(self, inputs, training=False):
                logits = super().call(inputs, training=training)
                return logits * 2 if float(keras.ops.sum(logits)) > 0 else logits

        model = Looking(GPTConfig(**SHAPE), seed=3)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss=loss, jit_compile=True)
        inputs, labels, _ = causal_data()[0]
        losses = [model.train_on_batch(inputs, labels) for _ in range(3)]
        assert losses[2] < losses[0]
        assert capsys.readouterr().err.count("without compilation") == 1

    def test_labels_need_no_weights(capsys):
        def train(jit_compile):
            model = GPTCausalLM(GPTConfig(**SHAPE), seed=3)
            CausalLanguageModeling().compile(model, optimizer(), jit_compile=jit_compile)
            return [float(model.train_on_batch(*batch[:2])) for batch in causal_data()[:3]]

        np.testing.assert_allclose(train(True), train(False), rtol=1e-5)
        assert "without compilation" not in capsys.readouterr().err
