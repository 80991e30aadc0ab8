"""A projection and its cross-entropy in one, for PyTorch, against float64; run on PyTorch alone."""

import keras
import pytest

if keras.backend.backend() == "torch":
    import torch

    from kerasllm.backend.torch.kernels import projected_losses as projected

    TYPES = [
        dtype
        for dtype in (torch.float32, torch.bfloat16)
        if projected.takes(torch.zeros(2, 4, dtype=dtype), torch.zeros(1024, 4, dtype=dtype))
    ]
    # Rows, width, classes: one of all, rests of rows and of blocks, several blocks, a width of smaller blocks.
    SIZES = [(1, 2, 1), (5, 8, 70), (130, 34, 1300), (67, 600, 259)]

    def example(rows, width, classes, dtype):
        """Hidden, table, bias, labels, of which the first is the likeliest, and weights, every third of them 0."""
        torch.manual_seed(rows)
        hidden, table = torch.randn(rows, width) * 2, torch.randn(classes, width) / width**0.5
        hidden, table, bias = hidden.to(dtype), table.to(dtype), torch.randn(classes).to(dtype)
        labels, weights = torch.randint(classes, (rows,)), torch.rand(rows)
        labels[0] = (hidden[0].float() @ table.float().t() + bias).argmax()
        weights[1::3] = 0
        return hidden, table, bias, labels, weights

    def exactly(hidden, table, bias, labels, weights):
        """The losses, and the gradients of their weighted sum, in float64."""
        leaves = [tensor.detach().double().requires_grad_() for tensor in (hidden, table, bias)]
        logits = leaves[0] @ leaves[1].t() + leaves[2]
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        (losses * weights).sum().backward()
        return losses.detach(), [leaf.grad for leaf in leaves]

    def assert_near(found, exact, dtype):
        """All together: a slope in bfloat16 is rounded twice, by half of the last digit at most, 2^-9."""
        limit = 2**-8 if dtype == torch.bfloat16 else 2e-6
        assert (found.double() - exact).norm() <= limit * exact.norm() + 1e-9

    def leaves(*tensors):
        return [tensor.clone().requires_grad_() for tensor in tensors]

    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("has_bias", [True, False])
    @pytest.mark.parametrize("size", SIZES)
    def test_losses_and_gradients_against_float64(size, has_bias, dtype):
        hidden, table, bias, labels, weights = example(*size, dtype)
        bias = bias if has_bias else torch.zeros_like(bias)
        expected, gradients = exactly(hidden, table, bias, labels, weights)
        given = leaves(hidden, table, bias)
        losses, hits = projected.ProjectedCrossEntropy.apply(
            *given[:2], given[2] if has_bias else None, labels, None
        )
        torch.testing.assert_close(losses.double(), expected, rtol=3e-6, atol=3e-6)
        likeliest = (hidden.double() @ table.double().t() + bias).argmax(1)
        torch.testing.assert_close(hits, (likeliest == labels).float())
        (losses * weights).sum().backward()
        for leaf, gradient in zip(given if has_bias else given[:2], gradients, strict=False):
            assert leaf.grad.dtype == dtype
            assert_near(leaf.grad, gradient, dtype)
        assert not given[0].grad[1::3].any()

    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("size", SIZES)
    def test_a_chunk_against_float64(size, dtype):
        """Its table's gradient is added to what is there, in float32."""
        hidden, table, bias, labels, weights = example(*size, dtype)
        bias.zero_()
        labels[0] = 0
        expected, (of_hidden, of_table, _) = exactly(hidden, table, bias, labels, weights)
        limit = 2**-8 if dtype == torch.bfloat16 else 2e-6
        for before in (None, torch.randn(size[2], size[1])):
            gradients = torch.empty_like(hidden), torch.full(table.shape, torch.nan)
            if before is not None:
                gradients[1].copy_(before)
            total = projected.loss_and_gradients(
                hidden, table, labels, weights, gradients, before is not None
            )
            torch.testing.assert_close(total.double(), (expected * weights).sum(), rtol=3e-6, atol=3e-6)
            assert_near(gradients[0], of_hidden, dtype)
            added = gradients[1].double() - (0 if before is None else before)
            assert (added - of_table).norm() <= limit * of_table.norm() + 1e-5
        torch.testing.assert_close(
            projected.loss_and_gradients(hidden, table, labels, weights), total, rtol=1e-6, atol=0
        )

    @pytest.mark.parametrize("dtype", TYPES)
    def test_logits_that_are_there_are_read(dtype):
        hidden, table, bias, labels, weights = example(130, 34, 1300, dtype)
        logits = (hidden.float() @ table.float().t() + bias).to(dtype)
        losses, _, *rooms = torch.ops.kerasllm.projected_losses(
            torch.full_like(hidden, torch.nan), torch.full_like(table, torch.nan), bias, labels, logits
        )
        expected = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
        torch.testing.assert_close(losses.double(), expected, rtol=3e-6, atol=3e-6)
        slopes = torch.ops.kerasllm.projected_slopes(hidden, table, bias, labels, weights, *rooms)
        _, gradients = exactly(hidden, table, bias, labels, weights)
        for some, gradient in zip(slopes, gradients, strict=True):
            limit = 3e-2 if dtype == torch.bfloat16 else 3e-6  # by as much as rounded logits are wrong
            assert (some.double() - gradient).norm() <= limit * gradient.norm()

    @pytest.mark.parametrize("dtype", TYPES)
    def test_the_highest_logit_that_others_share_is_a_part_of_a_hit(dtype):
        table = torch.zeros(1100, 2, dtype=dtype)
        table[[3, 40, 1099]] = 1
        hidden, labels = torch.ones(3, 2, dtype=dtype), torch.tensor([40, 1099, 5])
        _, hits, *_ = torch.ops.kerasllm.projected_losses(hidden, table, None, labels, None)
        torch.testing.assert_close(hits, torch.tensor([1 / 3, 1 / 3, 0]))
        _, hits, *_ = torch.ops.kerasllm.projected_losses(0 * hidden, table, None, labels, None)
        torch.testing.assert_close(hits, torch.full((3,), 1 / 1100))

    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
    def test_what_is_not_finite_is_seen_unless_it_weighs_nothing(wrong, dtype):
        hidden, table, _, labels, weights = example(130, 34, 1300, dtype)
        hidden[1, 3] = wrong  # a row without weight
        gradients = torch.empty_like(hidden), torch.empty(table.shape)
        assert projected.loss_and_gradients(hidden, table, labels, weights, gradients).isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)
        given = leaves(hidden, table)
        losses, _ = projected.ProjectedCrossEntropy.apply(*given, None, labels, None)
        assert not losses[1].isfinite()
        assert losses[[0, *range(2, 130)]].isfinite().all()
        losses[2].backward()
        assert all(leaf.grad.isfinite().all() for leaf in given)
        weights[1] = 1
        assert not projected.loss_and_gradients(hidden, table, labels, weights, gradients).isfinite()
        assert gradients[0][1].isnan().all()
        assert gradients[0][[0, *range(2, 130)]].isfinite().all()

    @pytest.mark.parametrize("dtype", TYPES)
    def test_logits_far_apart(dtype):
        """Beyond what exp can hold, on either side, each block's another."""
        hidden, table = torch.ones(2, 2, dtype=dtype), torch.zeros(1100, 2, dtype=dtype)
        table[0], table[300], table[600], table[1000] = -1e4, 1e4, -3e37, 2e4
        labels, weights = torch.tensor([1000, 300]), torch.ones(2)
        expected, gradients = exactly(hidden, table, torch.zeros(1100), labels, weights)
        given = leaves(hidden, table)
        losses, _ = projected.ProjectedCrossEntropy.apply(*given, None, labels, None)
        losses.sum().backward()
        torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)
        assert_near(given[1].grad, gradients[1], dtype)

    def test_no_weights_at_all():
        hidden, table, bias, labels, _ = example(5, 8, 70, torch.float32)
        given = leaves(hidden, table, bias)
        losses, _ = projected.ProjectedCrossEntropy.apply(*given, labels, None)
        (losses * 0).sum().backward()
        assert not any(leaf.grad.any() for leaf in given)
        gradients = torch.full_like(hidden, torch.nan), torch.full(table.shape, torch.nan)
        assert projected.loss_and_gradients(hidden, table, labels, torch.zeros(5), gradients) == 0
        assert not any(gradient.any() for gradient in gradients)

    @pytest.mark.parametrize("label", [-1, 70])
    def test_a_label_that_is_no_class_is_refused(label):
        hidden, table, _, labels, weights = example(5, 8, 70, torch.float32)
        labels[2] = label
        with pytest.raises(IndexError, match=f"{label}.*70 classes"):
            torch.ops.kerasllm.projected_losses(hidden, table, None, labels, None)
        with pytest.raises(IndexError, match=f"{label}.*70 classes"):
            projected.loss_and_gradients(hidden, table, labels, weights)
        with pytest.raises(ValueError, match=r"labels \(4,\) do not fit logits \(5, 70\)"):
            projected.loss_and_gradients(hidden, table, labels[:4], weights)

    def test_what_is_left_to_others():
        hidden, table = torch.zeros(2, 4), torch.zeros(1024, 4)
        assert projected.takes(hidden, table)
        assert not projected.takes(hidden, table[:1023])
        assert not projected.takes(hidden, torch.zeros(4, 1024).t())
        assert not projected.takes(hidden.half(), table.half())
        assert not projected.takes(torch.zeros(2, 3).bfloat16(), torch.zeros(1024, 3).bfloat16())

    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("width", [3, 32, 70])
    def test_rows_added_to_a_matrix(width, dtype):
        """In their order, by however many threads."""
        torch.manual_seed(width)
        total, rows = torch.randn(50, width).to(dtype), torch.randn(400, width)
        ids, factor = torch.randint(50, (20, 20)), torch.tensor(0.5)
        expected = (total.float() * factor).index_add(0, ids.reshape(-1), rows)
        found = torch.ops.kerasllm.with_rows_added(total, rows.reshape(20, 20, width), ids, factor)
        assert torch.equal(found, expected)
        without = torch.ops.kerasllm.with_rows_added(total, rows, ids, None)
        torch.testing.assert_close(without - found, total.float() * 0.5, rtol=1e-4, atol=1e-4)
        with pytest.raises(IndexError, match="0 to 50 of a table of 50"):
            torch.ops.kerasllm.with_rows_added(total, rows[:2], torch.tensor([0, 50]), None)
