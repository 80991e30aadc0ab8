"""Layer normalisation by a kernel of our own for PyTorch, and sums over rows, against float64; PyTorch alone."""

import keras
import pytest

from kerasllm.layers.dropout import dropped

if keras.backend.backend() == "torch":
    import torch

    from kerasllm.backend.torch import ops as torch_engine
    from kerasllm.backend.torch.kernels import attention as torch_attention
    from kerasllm.backend.torch.kernels.layer_norm import LayerNorm, SumAndNorm
    from kerasllm.backend.torch.products import recording

    EPSILON = 1e-5
    # Less than a vector, whole ones, rests; rows that threads share unevenly, and more than are summed at a time.
    SHAPES = [(2, 3, 7), (5, 32), (1, 70), (3, 67, 40), (300, 256)]
    LIMITS = {torch.float32: 1e-5, torch.bfloat16: 4e-3}  # half of bfloat16's last digit

    def leaves(*tensors):
        """As they are, and in float64; both to be differentiated."""
        return (
            [None if one is None else one.clone().requires_grad_() for one in tensors],
            [None if one is None else one.double().requires_grad_() for one in tensors],
        )

    def assert_close(found, expected, dtype):
        """To the last digit of the largest: what is near 0 is a difference of others."""
        limit = LIMITS[dtype]
        torch.testing.assert_close(
            found.double(), expected, rtol=limit, atol=limit * expected.abs().max().item()
        )

    @pytest.mark.parametrize("dtype", LIMITS)
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("has_shift", [True, False])
    def test_layer_norm_against_float64(shape, has_shift, dtype):
        torch.manual_seed(shape[-1])
        hidden = (torch.randn(shape) * 3 + 5).to(dtype)
        scale, shift = torch.randn(shape[-1]), torch.randn(shape[-1]) if has_shift else None
        upstream = torch.randn(shape).to(dtype)
        given, exact = leaves(hidden, scale, shift)
        found = LayerNorm.apply(*given, EPSILON)
        expected = torch.nn.functional.layer_norm(exact[0], shape[-1:], *exact[1:], EPSILON)
        assert found.dtype == dtype
        assert_close(found, expected, dtype)
        found.backward(upstream)
        expected.backward(upstream.double())
        for one, other in zip(given, exact, strict=True):
            if one is not None:
                assert_close(one.grad, other.grad, one.dtype)

    @pytest.mark.parametrize("dtype", LIMITS)
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("rate", [0.0, 0.3])
    @pytest.mark.parametrize("used", ["sum", "norm", "both"])
    def test_sum_and_norm_against_float64(shape, rate, used, dtype):
        torch.manual_seed(shape[-1])
        hidden, branch = (torch.randn(shape).to(dtype) for _ in range(2))
        weights = torch.randn(shape[-1]), torch.randn(shape[-1])
        upstream = [torch.randn(shape).to(dtype) for _ in range(2)]
        seed = torch.tensor([5, -3])
        given, exact = leaves(hidden, branch, *weights)
        dropout = seed if rate else None, int(rate * 2**31), 1 - rate
        found = SumAndNorm.apply(*given[:2], *dropout, *given[2:], EPSILON)
        total = exact[0] + (dropped(exact[1], seed, rate) if rate else exact[1])
        total = total + (found[0].detach().double() - total.detach())  # of what the sum was rounded to
        expected = total, torch.nn.functional.layer_norm(total, shape[-1:], *exact[2:], EPSILON)
        places = {"sum": [0], "norm": [1], "both": [0, 1]}[used]
        whole = hidden.double() + (dropped(branch.double(), seed, rate) if rate else branch.double())
        assert_close(found[0], whole, dtype)
        assert_close(found[1], expected[1], dtype)
        torch.autograd.backward([found[place] for place in places], [upstream[place] for place in places])
        torch.autograd.backward(
            [expected[place] for place in places], [upstream[place].double() for place in places]
        )
        for one, other in zip(given, exact, strict=True):
            if other.grad is not None:
                assert_close(one.grad, other.grad, one.dtype)

    def test_what_is_dropped_has_no_gradient_and_the_rest_all():
        shape, seed, least = (6, 50), torch.tensor([1, 2]), 2**30
        hidden, branch = torch.randn(shape), torch.randn(shape, requires_grad=True)
        kept = dropped(torch.ones(shape), seed, 0.5)
        total, _ = SumAndNorm.apply(
            hidden, branch, seed, least, 0.5, torch.ones(50), torch.zeros(50), EPSILON
        )
        torch.testing.assert_close(total, hidden + branch * kept)
        total.sum().backward()
        assert torch.equal(branch.grad, kept)

    @pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
    def test_what_is_not_finite_is_seen_in_its_row_alone(wrong):
        hidden = torch.randn(3, 40)
        hidden[1, 39] = wrong
        found = LayerNorm.apply(hidden.requires_grad_(), torch.ones(40), None, EPSILON)
        assert found[1].isnan().any()
        assert found[[0, 2]].isfinite().all()

    def test_parts_of_wider_tensors():
        wide, scale = torch.randn(4, 30), torch.randn(20)
        found = LayerNorm.apply(wide[:, 5:25], scale, None, EPSILON)
        torch.testing.assert_close(found, torch.nn.functional.layer_norm(wide[:, 5:25], (20,), scale))
        turned = LayerNorm.apply(wide[:20].t(), torch.ones(4), None, EPSILON)
        torch.testing.assert_close(turned, torch.nn.functional.layer_norm(wide[:20].t(), (4,)))

    def test_what_the_kernel_leaves_to_others():
        """Summands of two types or shapes; a scale of another width is an error."""
        scale, hidden, weights = (
            torch.ones(40),
            torch.randn(3, 40),
            [torch.ones(40), None, EPSILON, 0.0, None],
        )
        with recording():
            for branch in (hidden.bfloat16(), hidden[:1]):
                assert torch_engine.sum_and_norm(hidden, branch.requires_grad_(), *weights) is None
            assert torch_engine.sum_and_norm(hidden, hidden.clone().requires_grad_(), *weights) is not None
        with pytest.raises(ValueError, match="does not fit"):
            LayerNorm.apply(hidden, scale[:30], None, EPSILON)

    @pytest.mark.parametrize("dtype", LIMITS)
    @pytest.mark.parametrize("rate", [0.0, 0.3])
    def test_sums_over_rows_are_those_of_the_gradients(rate, dtype):
        """Of thousands of rows; in bfloat16 of what has not been rounded yet."""
        ours, seed = torch.ops.kerasllm, torch.tensor([3, 4])
        least, kept = int(rate * 2**31), 1 - rate
        torch.manual_seed(0)
        hidden, branch, upstream = (torch.randn(5000, 36).to(dtype) for _ in range(3))
        settings = seed if rate else None, least, kept, torch.ones(36), None, EPSILON
        sums, stays, _, statistics = ours.layer_norm(hidden, branch, *settings)
        of_sums, of_branch, of_weights = ours.layer_norm_slopes(
            upstream, upstream, sums, stays if rate else None, kept, statistics, torch.ones(36)
        )
        check_sums(of_branch if rate else of_sums, of_weights[2])
        check_sums(*ours.gelu_slopes(upstream, hidden))
        projected = torch.randn(40, 100, 3 * 12).to(dtype)
        if torch_attention.takes(projected, 2, None):
            attention = 2, None, True, seed if rate else None, least, kept
            found = ours.attention(projected, *attention)
            upstream = torch.randn(40, 100, 12).to(dtype)
            check_sums(*ours.attention_slopes(projected, *attention, *found, upstream))

    def check_sums(rows, sums):
        """As far off as rounding thousands of numbers may come to."""
        assert sums.dtype == torch.float32
        exact = rows.double().reshape(-1, len(sums))
        digits = 16 if rows.dtype == torch.float32 else 1  # a product's own, in float32
        limit = digits * torch.finfo(rows.dtype).eps * exact.square().sum(0).sqrt()
        assert ((sums - exact.sum(0)).abs() <= limit).all()
