"""TensorFlow: a step that is compiled in parts, whose sums are products and whose gradients are written by hand."""

import gc
import weakref

import keras
import numpy as np
import pytest

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from scipy.special import log_softmax

    from kerasllm import BertConfig, BertMaskedLM, backend
    from kerasllm.backend.tensorflow.fusion import fusing
    from kerasllm.backend.tensorflow.gradients import custom_gradient
    from kerasllm.layers.dropout import dropout
    from kerasllm.metrics import MaskedLanguageModelAccuracy

    def normal(*shape, seed=0):
        return np.random.default_rng(seed).normal(size=shape)

    def compiled(function, *arguments):
        """In a graph, with what is fused compiled apart."""

        @tf.function(autograph=False)
        def run(*arguments):
            with fusing():
                return function(*arguments)

        return run(*map(tf.convert_to_tensor, arguments))

    def test_layer_norm_and_its_gradient():
        inputs, scale, bias, weights = (
            normal(3, 5, 8),
            1 + normal(8, seed=1),
            normal(8, seed=2),
            normal(3, 5, 8),
        )

        def total(kind):
            def run(inputs, scale, bias):
                with tf.GradientTape() as tape:
                    tape.watch([inputs, scale, bias])
                    out = kind(inputs, scale, bias)
                    value = tf.reduce_sum(tf.sin(out) * tf.cast(weights, out.dtype))
                return out, tape.gradient(value, [inputs, scale, bias])

            return run

        def plain(inputs, scale, bias):
            mean, variance = tf.nn.moments(inputs, -1, keepdims=True)
            return (inputs - mean) / tf.sqrt(variance + 1e-5) * scale + bias

        expected = total(plain)(*map(tf.convert_to_tensor, (inputs, scale, bias)))  # in float64
        narrow = [array.astype("float32") for array in (inputs, scale, bias)]
        found = compiled(total(lambda *tensors: backend.layer_norm(*tensors, 1e-5)), *narrow)
        for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)

    def test_losses_and_hits_in_parts():
        logits = np.float32([[[1, 3, 3, 0], [4, 1, 0, 0]], [[2, 2, 2, 2], [0, 9, 1, 5]]])
        labels = np.int32([[1, 0], [3, 3]])
        metric = MaskedLanguageModelAccuracy()

        def run(labels, logits):
            return backend.cross_entropy(labels, logits), metric.values(labels, logits)

        losses, hits = compiled(run, labels, logits)
        picked = np.take_along_axis(log_softmax(logits.astype("float64"), -1), labels[..., None], -1)[..., 0]
        np.testing.assert_allclose(losses, -picked, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(hits, np.float32([[0.5, 1], [0.25, 0]]))

    def test_tables_gradient_counts_in_float32():
        table = keras.Variable(np.ones((4, 2), "float32"))

        def run(ids):
            with keras.src.backend.common.variables.AutocastScope("bfloat16"), tf.GradientTape() as tape:
                rows = backend.take_rows(table, ids)
                total = tf.reduce_sum(rows)
            return rows, tape.gradient(total, table.value)

        rows, gradient = compiled(run, np.repeat(np.int32([0, 2]), [300, 1]))
        assert rows.dtype == tf.bfloat16 and gradient.dtype == tf.float32
        np.testing.assert_array_equal(gradient, [[300, 300], [0, 0], [1, 1], [0, 0]])

    @pytest.mark.parametrize("guarded", [False, True])
    def test_a_step_is_traced_once_and_leaves_no_graph_behind(guarded, without_xla):
        config = BertConfig(
            vocabulary_size=20, num_layers=1, num_heads=2, hidden_dim=8, max_sequence_length=8
        )
        traced = []

        class Watched(BertMaskedLM):
            def train_step(self, *arguments):
                traced.append(weakref.ref(tf.compat.v1.get_default_graph()))
                return super().train_step(*arguments)

        model = Watched(config, seed=0)
        model.catch_non_finite = guarded
        model.compile(keras.optimizers.AdamW(1e-3, global_clipnorm=1.0), keras.losses.MeanSquaredError())
        ids = np.ones((2, 8), "int32")
        slots = {"token_ids": ids, "masked_positions": ids[:, :2]}
        model.fit(slots, np.zeros((2, 2, 20), "float32"), verbose=0)
        (graph,) = traced  # once: a step that made the optimizer's variables itself would be traced twice
        assert graph() is not None
        del model
        gc.collect()
        assert graph() is None

    def test_a_custom_gradient_holds_while_its_graph_does():
        @custom_gradient
        def tripled(inputs):
            return inputs * 1.0, lambda upstream: 3.0 * upstream

        @tf.function(autograph=False)
        def of_function(
            inputs,
        ):  # asked for outside of the function: TensorFlow looks its gradient up by name
            return tf.while_loop(lambda i, _: i < 2, lambda i, x: (i + 1, tripled(x)), (0, inputs))[1]

        for _ in range(2):
            gc.collect()
            inputs = tf.constant([1.0, 2.0])
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                result = of_function(inputs)
            np.testing.assert_array_equal(tape.gradient(result, inputs), [9.0, 9.0])

    def test_a_dropouts_draws_are_one_operation_of_a_graph(caplog):
        """Recorded once a shape, of which there may be many: TensorFlow warns of nothing, and the mask is the same."""
        seeds = keras.random.SeedGenerator(7)
        logger = tf.get_logger()
        logger.addHandler(caplog.handler)
        try:
            for length in range(1, 13):
                eager = dropout(tf.ones((2, length)), 0.5, seeds)
                assert eager.shape == (2, length)
        finally:
            logger.removeHandler(caplog.handler)
        assert not caplog.records
        inputs, seed = tf.ones((3, 40)), tf.constant([7, 3])
        program = tf.function(lambda: backend.dropout(inputs, 0.5, seed)).get_concrete_function()
        assert len(program.graph.get_operations()) < 20
        np.testing.assert_array_equal(program(), backend.dropout(inputs, 0.5, seed))
        assert 0 < np.count_nonzero(program()) < 120
