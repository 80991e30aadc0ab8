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
    MaskedLanguageModelLoss,
    NextSentenceLoss,
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
for _ in range(2):
    model = BertPretraining(BertConfig(**shape), seed=0)
    MaskedLanguageModeling().compile(model, adamw(LinearWarmupDecay(1e-2, steps=8, warmup=1)), jit_compile=True)
    for _ in range(4):
        model.train_on_batch(inputs, labels)
    values = [keras.ops.convert_to_numpy(variable).tobytes() for variable in model.variables]
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
    from torch.fx.experimental.proxy_tensor import make_fx

    from kerasllm import metrics
    from kerasllm.backend.torch import inductor as torch_inductor
    from kerasllm.backend.torch import losses as torch_cross_entropy
    from kerasllm.backend.torch import products as torch_products
    from kerasllm.backend.torch import training as torch_training
    from kerasllm.backend.torch.kernels import attention as torch_attention
    from kerasllm.backend.torch.kernels import building as torch_kernels
    from kerasllm.backend.torch.kernels import built as torch_built
    from kerasllm.backend.torch.kernels import projected_losses as torch_projected_losses
    from kerasllm.backend.torch.kernels import simplification as torch_simplification
    from kerasllm.backend.torch.kernels.gelu import Gelu
    from kerasllm.backend.torch.products import TakeRows, recorded_product, recording

    def operators_recorded(monkeypatch):
        """The names of those in the last step that was recorded, once there was one."""
        names, divide = [], torch_training.compiled_in_parts

        def compiled(graph, *given):
            names[:] = [str(node.target) for node in graph.graph.nodes]
            # Whether its last argument, logits that are there, is left out.
            losses = graph.graph.find_nodes(
                op="call_function", target=torch.ops.kerasllm.projected_losses.default
            )
            names.extend("logits read" for node in losses if node.args[4] is not None)
            return divide(graph, *given)

        monkeypatch.setattr(torch_training, "compiled_in_parts", compiled)
        return names

    def test_compiled_in_bfloat16():
        losses = losses_in_bfloat16()
        np.testing.assert_allclose(*losses, rtol=1e-2)
        assert losses[0] != losses[1]  # two paths indeed

    def assert_same(found, expected):
        """Logs and state after ten steps."""
        (logs, state), (plain_logs, plain_state) = found, expected
        for one, other in zip(logs, plain_logs, strict=True):
            np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-4)
        for one, other in zip(state, plain_state, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=3e-5)

    @pytest.mark.parametrize("kernel", ["projected_losses", "row_losses"])
    def test_ten_steps_by_a_kernel_of_many_classes_are_those_of_the_plain_path(kernel, monkeypatch, capsys):
        """The accuracy is the kernel's, too."""
        monkeypatch.setattr(torch_projected_losses, "MANY", 3)  # fewer than the vocabulary, more than two
        if kernel == "row_losses":  # as where the logits are not a projection's
            monkeypatch.setattr(torch_cross_entropy, "projection_of", lambda logits: None)
        expected = plain("bert")
        operators = operators_recorded(monkeypatch)
        hits, asked = metrics._hits, []
        monkeypatch.setattr(
            metrics, "_hits", lambda labels, logits: asked.append(logits) or hits(labels, logits)
        )
        assert_same(train("bert", True), expected)
        recorded = [logits for logits in asked if isinstance(logits, torch._subclasses.FakeTensor)]
        assert {logits.shape[-1] for logits in recorded} == {2}  # of the next sentence, not of 50 tokens
        assert operators.count(f"kerasllm.{kernel}.default") == 1
        assert "without compilation" not in capsys.readouterr().err

    @pytest.mark.parametrize("kind", ["gpt", "llama"])
    def test_ten_steps_by_the_kernel_of_chunks_are_those_of_the_plain_path(kind, monkeypatch):
        """Rows without weight among them; the table is tied, or not."""
        monkeypatch.setattr(torch_projected_losses, "MANY", 3)
        expected, calls = plain(kind), []
        run = torch_projected_losses.loss_and_gradients
        monkeypatch.setattr(
            torch_projected_losses, "loss_and_gradients", lambda *given: calls.append(given) or run(*given)
        )
        assert_same(train(kind, True), expected)
        assert len(calls) == STEPS

    def test_logits_are_made_where_something_else_reads_them(monkeypatch):
        """And not where nothing does."""
        monkeypatch.setattr(torch_projected_losses, "MANY", 3)
        operators, products = operators_recorded(monkeypatch), []

        def compile_with(metrics):
            def compile_model(model, optimizer, jit_compile):
                losses = {"masked_lm": MaskedLanguageModelLoss(), "next_sentence": NextSentenceLoss()}
                model.compile(
                    optimizer=optimizer, loss=losses, weighted_metrics=metrics, jit_compile=jit_compile
                )
                model.per_step_metrics = True

            return compile_model

        model_class, config, _, data = CASES["bert"]
        for metrics_of_logits in ({}, {"masked_lm": [keras.metrics.SparseTopKCategoricalAccuracy(k=9)]}):
            case = model_class, config, compile_with(metrics_of_logits), data
            monkeypatch.setitem(CASES, "bert", case)
            assert_same(train("bert", True), train("bert", False))
            assert operators.count("kerasllm.projected_losses.default") == 1
            products.append(operators.count("kerasllm.product.default"))
            assert ("logits read" in operators) == bool(metrics_of_logits)
        assert products[1] == products[0] + 1

    @pytest.mark.parametrize(("kind", "rate"), [("gpt", 0.0), ("gpt", 0.2), ("bert", 0.2)])
    def test_ten_steps_by_the_kernel_of_attention_are_those_of_the_plain_path(
        kind, rate, monkeypatch, capsys
    ):
        """With dropout, too, whose draws are the same."""
        model_class, config, compile_model, data = CASES[kind]
        whole = dataclasses.replace(config, attention_dropout=rate)
        monkeypatch.setitem(CASES, kind, (model_class, whole, compile_model, data))
        attend, calls = torch_attention.SelfAttention.apply, []
        monkeypatch.setattr(
            torch_attention.SelfAttention, "apply", lambda *given: calls.append(given) or attend(*given)
        )
        plain_logs, plain_state = train(kind, False)
        assert not calls
        logs, state = train(kind, True)
        assert len(calls) == (1 if kind == "bert" else 2)  # BERT's last block computes what is read alone
        for found, expected in zip(logs, plain_logs, strict=True):
            np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
        for found, expected in zip(state, plain_state, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)
        assert "without compilation" not in capsys.readouterr().err

    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
    @pytest.mark.parametrize(("kind", "rate"), [("gpt", 0.1), ("gpt", 0.0), ("bert", 0.1)])
    def test_sums_over_rows_come_with_the_rows(kind, rate, policy, monkeypatch):
        """But the last bias' of a GPT's blocks, two in BERT's last block, which computes some columns, its pooler's."""
        operators = operators_recorded(monkeypatch)
        model_class, config, compile_model, data = CASES[kind]

        def gradients():
            """What a step of plain descent takes off the weights."""
            model = model_class(dataclasses.replace(config, dropout=rate), seed=3)
            compile_model(model, keras.optimizers.SGD(1.0), jit_compile=True)
            before = [variable.numpy() for variable in model.trainable_variables]
            model.train_on_batch(*data()[0])
            variables = zip(model.trainable_variables, before, strict=True)
            return {variable.path: old - variable.numpy() for variable, old in variables}

        keras.config.set_dtype_policy(policy)
        try:
            found = gradients()
            assert operators.count("kerasllm.sum_over_rows.default") == {"gpt": 2, "bert": 3}[kind]
            norms = "kerasllm.layer_norm.default", "kerasllm.layer_norm_slopes.default"
            assert [operators.count(name) for name in norms] == [6 if kind == "bert" else 5] * 2
            monkeypatch.setattr(torch_simplification, "_sum_rows_as_they_are_made", lambda graph: None)
            expected = gradients()
            assert operators.count("kerasllm.sum_over_rows.default") == {"gpt": 8, "bert": 11}[kind]
        finally:
            keras.config.set_dtype_policy("float32")
        limit = 1e-2 if policy == "mixed_bfloat16" else 1e-5
        for (path, one), other in zip(found.items(), expected.values(), strict=True):
            atol = limit * np.abs(other).max() if path.endswith("bias") else 0
            np.testing.assert_allclose(one, other, rtol=0, atol=atol, err_msg=path)

    def test_two_biases_of_one_sum_have_gradients_of_their_own():
        """Not one memory, which clipping would scale twice."""

        def gradients(inputs, *weights):
            one, other, *biases = (weight.requires_grad_() for weight in weights)
            with torch.enable_grad():
                total = sum(
                    recorded_product(inputs, kernel, bias)
                    for kernel, bias in zip((one, other), biases, strict=True)
                )
                return torch.autograd.grad(Gelu.apply(total, False).square().sum(), [one, other, *biases])

        given = [torch.randn(shape) for shape in ((6, 5), (5, 40), (5, 40), (40,), (40,))]
        with recording():
            graph = make_fx(gradients, tracing_mode="fake", _allow_non_fake_inputs=True)(*given)
        torch_simplification.simplify(graph.graph)
        graph.recompile()
        targets = [str(node.target) for node in graph.graph.nodes]
        assert targets.count("kerasllm.sum_over_rows.default") == 1
        exact = [tensor.double().requires_grad_() for tensor in given]
        total = exact[0] @ (exact[1] + exact[2]) + exact[3] + exact[4]
        torch.nn.functional.gelu(total).square().sum().backward()
        found = graph(*given)
        for one, other in zip(found, exact[1:], strict=True):
            torch.testing.assert_close(one.double(), other.grad, rtol=1e-5, atol=1e-5)
        assert found[2].data_ptr() != found[3].data_ptr()

    @pytest.fixture
    def unbuilt(monkeypatch):
        """As before any kernel was built."""
        for kernels in (torch_built.pairs, torch_attention._KERNELS, torch_projected_losses.KERNELS):
            monkeypatch.setattr(kernels, "_kernels", {})
        monkeypatch.setattr(torch_built, "_begun", [])

    @pytest.mark.parametrize("kind", ["gpt", "llama"])
    def test_kernels_that_cannot_be_built_are_done_without(kind, monkeypatch, capsys, unbuilt):
        """The step is compiled all the same, with one line about it, and the next model's, too."""

        def build(kernels, shared):
            raise RuntimeError("unknown function\nin line 3")

        monkeypatch.setattr(torch_kernels, "build", build)
        recorded = []
        make = torch_training._program
        monkeypatch.setattr(torch_training, "_program", lambda *given: recorded.append(given) or make(*given))
        model_class, config, compile_model, data = CASES[kind]
        if kind == "llama":  # none of whose kernels but the loss's is of the kind that all share
            config = dataclasses.replace(config, tie_embeddings=False)
            monkeypatch.setitem(CASES, kind, (model_class, config, compile_model, data))
        plain_logs, _ = train(kind, False)
        for times in (2, 3):
            logs, _ = train(kind, True)
            assert len(recorded) == times
            found, expected = ([step["loss"] for step in steps] for steps in (logs, plain_logs))
            np.testing.assert_allclose(found, expected, rtol=1e-4)
        said = capsys.readouterr().err
        assert said.count("ours were not built (RuntimeError: unknown function)") == 1
        assert "without compilation" not in said

    def test_those_that_can_be_built_are_used(monkeypatch, capsys, unbuilt):
        """Where a version of PyTorch has no products for them, say."""
        build = torch_kernels.build

        def some(kernels, shared):
            if "brgemm" in shared:
                raise RuntimeError("no such product")
            return build(kernels, shared)

        monkeypatch.setattr(torch_kernels, "build", some)
        operators = operators_recorded(monkeypatch)
        train("gpt", True)
        assert "ours were not built (RuntimeError: no such product)" in capsys.readouterr().err
        assert "kerasllm.gelu.default" in operators
        assert "kerasllm.attention.default" not in operators

    def test_rows_in_bfloat16_are_summed_in_float32():
        """Summed in bfloat16, 4,096 ones are 256."""
        table = torch.zeros((5, 3), dtype=torch.bfloat16, requires_grad=True)
        TakeRows.apply(table, torch.full((4096,), 2)).sum().backward()
        assert table.grad.tolist() == [[0] * 3, [0] * 3, [4096] * 3, [0] * 3, [0] * 3]

    def test_the_compiler_is_told_how_wide_vectors_are(monkeypatch):
        """By which its cache on disk tells apart what was made for one processor and another."""
        compile_one, widths = torch_inductor._after_recording, set()

        def after_recording(*given):
            widths.add(torch._inductor.config.cpp.simdlen)
            return compile_one(*given)

        monkeypatch.setattr(torch_inductor, "_after_recording", after_recording)
        train("gpt", True)
        assert widths == {torch._inductor.cpu_vec_isa.pick_vec_isa().bit_width()}
        assert torch._inductor.config.cpp.simdlen is None

    @pytest.mark.parametrize("kind", ["bert", "gpt"])
    def test_what_is_compiled_does_not_grow_with_the_layers(kind, monkeypatch):
        """Parts that are alike are compiled once; run as recorded, the parts are the step."""
        model_class, config, compile_model, data = CASES[kind]
        compiled = []
        monkeypatch.setattr(
            torch_inductor, "by_inductor", lambda graph, inputs: compiled.append(graph) or graph
        )
        counts = []
        for layers in (3, 6):
            compiled.clear()
            results = []
            for jit_compile in (True, False):
                model = model_class(dataclasses.replace(config, num_layers=layers), seed=3)
                compile_model(model, optimizer(), jit_compile=jit_compile)
                losses = [model.train_on_batch(*batch, return_dict=True)["loss"] for batch in data()[:3]]
                results.append([float(loss) for loss in losses])
            np.testing.assert_allclose(*results, rtol=1e-5)
            counts.append(len(compiled))
        assert counts[0] == counts[1] > 2

    def test_a_last_batch_of_fewer_rows_is_not_compiled(monkeypatch):
        compiled = []
        monkeypatch.setattr(
            torch_inductor, "by_inductor", lambda graph, inputs: compiled.append(graph) or graph
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
        model = GPTCausalLM(GPTConfig(**SHAPE), seed=3)
        CausalLanguageModeling().compile(model, optimizer(), jit_compile=True)
        model.fit({"token_ids": tokens[:8, :-1]}, tokens[:8, 1:], batch_size=4, verbose=0)
        assert len(compiled) == 2 * first

    def test_kernels_are_built_one_by_one_where_not_together(monkeypatch, capsys, tmp_path):
        def refuse(kernels):
            raise RuntimeError("of another version")

        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        monkeypatch.setattr(torch_kernels, "_build", refuse)
        model = GPTCausalLM(GPTConfig(**SHAPE | {"num_layers": 1}), seed=3)
        CausalLanguageModeling().compile(model, optimizer(), jit_compile=True)
        losses = [model.train_on_batch(*batch, return_dict=True)["loss"] for batch in causal_data()[:3]]
        assert np.isfinite([float(loss) for loss in losses]).all()
        assert "without compilation" not in capsys.readouterr().err

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

    def test_the_fused_update_is_keras_own():
        """Clipping, decay on some variables only, a schedule, and gradients whose strides are not the variable's."""
        from kerasllm.backend.torch.optimizer import fuse

        random = np.random.default_rng(0)
        start = [random.normal(size=shape).astype("float32") for shape in ((5, 3), (3,), (4, 6))]
        results = []
        for fused in (False, True):
            variables = [
                keras.Variable(value, name=name)
                for value, name in zip(start, ("kernel", "bias", "table"), strict=True)
            ]
            own = optimizer()
            own.build(variables)
            if fused:
                fuse(own)
            draw = np.random.default_rng(5)
            for _ in range(6):
                gradients = [
                    keras.ops.convert_to_tensor(draw.normal(size=v.shape).astype("float32"))
                    for v in variables
                ]
                gradients[2] = keras.ops.transpose(keras.ops.transpose(gradients[2]) * 1.0)
                own.apply(gradients, variables)
            results.append([keras.ops.convert_to_numpy(v) for v in (*variables, *own.variables)])
        for found, expected in zip(*results, strict=True):
            np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)
