"""JAX: products by oneDNN, sums by products, and gradients written by hand, against NumPy and JAX' own."""

import keras
import numpy as np
import pytest

if keras.backend.backend() == "jax":
    import jax
    import jax.numpy as jnp
    import ml_dtypes

    from kerasllm.backend.jax import onednn
    from kerasllm.backend.jax import ops as jax_ops
    from kerasllm.backend.jax import products as jax_products

    def normal(*shape, seed=0):
        return np.random.default_rng(seed).normal(size=shape).astype("float32")

    @pytest.mark.skipif(not onednn.available(), reason="no package of oneDNN for this system")
    @pytest.mark.parametrize("kind", ["float32", "bfloat16"])
    @pytest.mark.parametrize("first", [(), (3,), (2, 3)])
    @pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False), (True, True)])
    def test_onednn_multiplies_views(kind, first, transposed):
        if not onednn.multiplies_fast(kind, kind):
            pytest.skip(f"this processor has no instructions for {kind}, and oneDNN no product without them")
        left, right = normal(*first, 5, 7), normal(*first, 7, 4, seed=1)
        expected = left @ right
        if kind == "bfloat16":
            left, right = left.astype(ml_dtypes.bfloat16), right.astype(ml_dtypes.bfloat16)
            expected = left.astype("float32") @ right.astype("float32")
        if transposed[0]:
            left = np.ascontiguousarray(left.swapaxes(-1, -2)).swapaxes(-1, -2)
        if transposed[1]:
            right = np.ascontiguousarray(right.swapaxes(-1, -2)).swapaxes(-1, -2)
        product = np.empty(expected.shape, left.dtype)
        onednn.multiply(left, right, product)
        tolerance = 1e-5 if kind == "float32" else 1e-2
        np.testing.assert_allclose(product.astype("float32"), expected, rtol=tolerance, atol=tolerance)

    @pytest.mark.skipif(not onednn.available(), reason="no package of oneDNN for this system")
    def test_onednn_refuses_shapes_that_do_not_fit():
        with pytest.raises(RuntimeError, match="dnnl_matmul_primitive_desc_create"):
            onednn.multiply(normal(2, 3), normal(4, 5), normal(2, 5))

    @pytest.mark.skipif(not onednn.available(), reason="no package of oneDNN for this system")
    @pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False), (True, True)])
    def test_gradients_of_onednns_products(transposed, monkeypatch):
        monkeypatch.setattr(jax_products, "_LEAST_WORK", {"float32": 0, "bfloat16": 0})
        left = normal(2, 5, 7) if not transposed[0] else normal(2, 7, 5)
        right = normal(2, 7, 4) if not transposed[1] else normal(2, 4, 7)
        weights = normal(2, 5, 4, seed=2)

        def total(left, right):
            return jnp.sum(jnp.sin(jax_products.multiply(left, right, *transposed)) * weights)

        expected = jax.value_and_grad(total, (0, 1))(left, right)
        with jax_products.by_onednn():
            found = jax.jit(jax.value_and_grad(total, (0, 1)))(left, right)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("rows", [1, 2, 5])
    @pytest.mark.parametrize("first", [(), (3,)])
    @pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False), (True, True)])
    def test_products_and_gradients_in_bfloat16(first, rows, transposed):
        """Sums are in float32 and rounded once, forward and backward."""
        left, right, slope = (
            normal(*first, rows, 300),
            normal(*first, 300, 4, seed=1),
            normal(*first, rows, 4),
        )
        left, right, slope = (array.astype(ml_dtypes.bfloat16) for array in (left, right, slope))
        wide, wide_right, wide_slope = (array.astype("float64") for array in (left, right, slope))
        expected = [wide @ wide_right, wide_slope @ wide_right.swapaxes(-1, -2)]
        expected.append(wide.swapaxes(-1, -2) @ wide_slope)
        turned = [
            array.swapaxes(-1, -2) if turn else array
            for array, turn in zip((left, right), transposed, strict=True)
        ]

        def run(*factors):
            product, pull = jax.vjp(lambda *given: jax_products.multiply(*given, *transposed), *factors)
            return product, *pull(jnp.asarray(slope))

        found = [np.asarray(array) for array in jax.jit(run)(*turned)]
        for place, turn in enumerate(transposed, 1):
            found[place] = found[place].swapaxes(-1, -2) if turn else found[place]
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == ml_dtypes.bfloat16
            np.testing.assert_allclose(one.astype("float64"), other, rtol=2**-8, atol=1e-5)

    def test_sums_by_products():
        matrix = normal(6, 9)
        np.testing.assert_allclose(jax_products.column_sums(matrix), matrix.sum(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            jax_products.row_sums(matrix), matrix.sum(1, keepdims=True), rtol=1e-5, atol=1e-6
        )

    def test_the_gradient_of_layer_norm():
        inputs, scale, bias, weights = normal(3, 4, 8), normal(8), normal(8, seed=1), normal(3, 4, 8, seed=2)

        def own(inputs, scale, bias):
            mean = inputs.mean(-1, keepdims=True)
            variance = jnp.square(inputs - mean).mean(-1, keepdims=True)
            return (inputs - mean) / jnp.sqrt(variance + 1e-3) * scale + bias

        def gradients(function):
            return jax.grad(lambda *given: jnp.sum(jnp.sin(function(*given)) * weights), (0, 1, 2))(
                inputs, scale, bias
            )

        found = gradients(lambda *given: jax_ops.layer_norm(*given, 1e-3))
        for one, other in zip(found, gradients(own), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("is_causal", [False, True])
    @pytest.mark.parametrize("kind", ["none", "padding", "documents"])
    def test_what_is_handed_to_a_gpus_kernel_is_attention(kind, is_causal, monkeypatch):
        query, key, value = (jnp.asarray(normal(2, 3, 6, 8, seed=seed)) for seed in range(3))
        places, documents = jnp.arange(6), jnp.asarray([[0, 0, 1, 1, 1, 2], [0] * 6])
        masks = {
            "none": None,
            "padding": (places[None] < jnp.asarray([6, 4])[:, None])[:, None, None],
            "documents": (documents[:, :, None] == documents[:, None])[:, None],
        }
        expected = jax_ops.attention(query, key, value, mask=masks[kind], is_causal=is_causal)
        own, seen = jax.nn.dot_product_attention, []

        def kernel(*heads, mask, implementation, **settings):
            seen.append((implementation, None if mask is None else mask.shape[-2:]))
            return own(*heads, mask=mask, implementation="xla", **settings)

        monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
        monkeypatch.setattr(jax_ops, "_has_fused_attention", lambda shape, dtype: True)
        found = jax_ops.attention(query, key, value, mask=masks[kind], is_causal=is_causal)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert seen == [("cudnn", None if kind == "none" else (6, 6))]

    @pytest.mark.parametrize(
        ("shape", "kind", "fits"),
        [
            ((2, 3, 6, 64), "bfloat16", True),
            ((2, 3, 6, 64), "float16", True),
            ((2, 3, 6, 64), "float32", False),
            ((2, 3, 7, 64), "bfloat16", False),
            ((2, 3, 6, 60), "bfloat16", False),
            ((2, 3, 6, 256), "bfloat16", False),
            ((3, 6, 64), "bfloat16", False),
        ],
    )
    def test_which_heads_a_gpus_kernel_takes(shape, kind, fits, monkeypatch):
        monkeypatch.setattr(jax_ops, "_is_ampere_or_later", lambda: True)
        assert jax_ops._has_fused_attention(shape, jnp.dtype(kind)) is fits
        monkeypatch.setattr(jax_ops, "_is_ampere_or_later", lambda: False)
        assert not jax_ops._has_fused_attention(shape, jnp.dtype(kind))

    def test_float32_is_float32_on_a_gpu(monkeypatch):
        assert jax_products.product_precision(jnp.dtype("float32")) is None  # a CPU knows nothing else
        monkeypatch.setattr(jax_products, "on_cpu", lambda: False)
        assert jax_products.product_precision(jnp.dtype("float32")) == "highest"
        assert jax_products.product_precision(jnp.dtype("bfloat16")) is None
        with jax.default_matmul_precision("tensorfloat32"):
            assert jax_products.product_precision(jnp.dtype("float32")) is None

    @pytest.mark.parametrize("rows", [1, 2, 5, 300])
    @pytest.mark.parametrize("transposed", [False, True])
    def test_products_of_few_rows_in_bfloat16(rows, transposed):
        left, right = (
            array.astype(ml_dtypes.bfloat16) for array in (normal(rows, 70), normal(70, 9, seed=1))
        )
        expected = left.astype("float64") @ right.astype("float64")
        given = np.ascontiguousarray(right.T)

        @jax.jit
        def run(left, given):
            with jax_products.few_rows():
                return jax_products.product(
                    left, given if transposed else given.T, transpose_right=transposed
                )

        np.testing.assert_allclose(run(left, given), expected, rtol=1e-5, atol=1e-5)

    def test_rows_of_a_table_in_bfloat16_and_their_gradient():
        table, ids = normal(7, 4).astype(ml_dtypes.bfloat16), np.array([[3, 3, 0], [6, 3, 1]])
        slope = normal(2, 3, 4, seed=1).astype(ml_dtypes.bfloat16)
        rows, pull = jax.vjp(lambda table: jax_ops.take_rows(table, jnp.asarray(ids)), jnp.asarray(table))
        np.testing.assert_array_equal(rows, table[ids])
        expected = np.zeros((7, 4))
        np.add.at(expected, ids, slope.astype("float64"))
        found = pull(jnp.asarray(slope))[0]
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype("float32"), expected, rtol=1e-2, atol=1e-6)
