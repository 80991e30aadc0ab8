"""The kernels of our own for PyTorch against float64; run on PyTorch alone."""

import io

import keras
import pytest

from kerasllm import MaskedLanguageModelLoss
from kerasllm.layers.dropout import dropped

if keras.backend.backend() == "torch":
    import torch

    from kerasllm.backend.torch.kernels import attention as torch_attention
    from kerasllm.backend.torch.kernels import rows as kernels
    from kerasllm.backend.torch.kernels.gelu import Gelu

    SIZES = [
        (7, 1),
        (3, 13),
        (2, 32),
        (5, 70),
        (3, 4099),
    ]  # less than a vector, whole ones, blocks, and rests
    LIMITS = {torch.float32: 1e-6, torch.bfloat16: 4e-3}  # half of bfloat16's last digit

    def example(rows, classes, dtype):
        """Logits, labels, weights of which the first is 0; losses and gradient in float64."""
        torch.manual_seed(classes)
        logits = (torch.randn(rows, classes) * 5).to(dtype)
        labels, weights = torch.randint(classes, (rows,)), torch.rand(rows)
        weights[0] = 0
        exact = logits.double().requires_grad_()
        losses = torch.nn.functional.cross_entropy(exact, labels, reduction="none")
        (losses * weights).sum().backward()
        return logits, labels, weights, losses.detach(), exact.grad

    @pytest.mark.parametrize("dtype", LIMITS)
    @pytest.mark.parametrize(("rows", "classes"), SIZES)
    def test_losses_and_slopes_against_float64(rows, classes, dtype):
        logits, labels, weights, losses, expected = example(rows, classes, dtype)
        limits = {"rtol": LIMITS[dtype], "atol": LIMITS[dtype]}
        found, *_, hits = torch.ops.kerasllm.row_losses(logits, labels)
        torch.testing.assert_close(found.double(), losses, rtol=1e-6, atol=2e-6)
        highest = logits == logits.amax(1, keepdim=True)
        chosen = highest.gather(1, labels[:, None])[:, 0]
        torch.testing.assert_close(hits, chosen / highest.sum(1))
        given = logits.clone().requires_grad_()
        (kernels.RowCrossEntropy.apply(given, labels)[0] * weights).sum().backward()
        torch.testing.assert_close(given.grad.double(), expected, **limits)
        total, slopes = kernels.losses_and_slopes(logits, labels, weights)
        torch.testing.assert_close(total.double(), (losses * weights).sum(), rtol=1e-6, atol=2e-6)
        torch.testing.assert_close(slopes.double(), expected, **limits)

    def test_extreme_logits():
        """Beyond what exp can hold, on either side, and minus infinity."""
        logits = torch.tensor([[1e4, -1e4, 0.0], [-3e38, -3e38, -3e38], [-torch.inf, 0.0, 0.0]]).repeat(1, 12)
        labels, exact = torch.tensor([1, 0, 2]), logits.double().requires_grad_()
        losses = torch.nn.functional.cross_entropy(exact, labels, reduction="none")
        losses.sum().backward()
        torch.testing.assert_close(
            torch.ops.kerasllm.row_losses(logits, labels)[0].double(), losses, rtol=1e-6, atol=1e-6
        )
        _, slopes = kernels.losses_and_slopes(logits, labels, torch.ones(3))
        torch.testing.assert_close(slopes.double(), exact.grad, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
    @pytest.mark.parametrize("place", [3, 39])  # in a vector, in the rest
    def test_what_is_not_finite_is_seen_unless_it_weighs_nothing(wrong, place):
        logits = torch.zeros(2, 40)
        logits[0, place] = wrong
        labels = torch.tensor([1, 1])
        total, slopes = kernels.losses_and_slopes(logits.clone(), labels, torch.ones(2))
        assert not total.isfinite()
        assert slopes[0].isnan().any()
        assert slopes[1].isfinite().all()
        total, slopes = kernels.losses_and_slopes(logits.clone(), labels, torch.tensor([0.0, 1.0]))
        assert total.isfinite()
        assert slopes.isfinite().all()
        given = logits.requires_grad_()
        losses, _ = kernels.RowCrossEntropy.apply(given, labels)
        assert not losses[0].isfinite()
        losses[1].backward()
        assert given.grad.isfinite().all()

    @pytest.mark.parametrize("label", [-1, 40])
    def test_a_label_that_is_no_class_is_refused(label):
        logits, labels = torch.zeros(2, 40), torch.tensor([3, label])
        with pytest.raises(IndexError, match=f"{label}.*40 classes"):
            torch.ops.kerasllm.row_losses(logits, labels)
        with pytest.raises(IndexError, match=f"{label}.*40 classes"):
            kernels.losses_and_slopes(logits, labels, torch.ones(2))

    def test_labels_of_another_number_are_refused():
        logits, labels = torch.zeros(4, 40), torch.zeros(3, dtype=torch.int64)
        with pytest.raises(ValueError, match=r"labels \(3,\) do not fit logits \(4, 40\)"):
            torch.ops.kerasllm.row_losses(logits, labels)
        with pytest.raises(ValueError, match=r"labels \(3,\) do not fit logits \(4, 40\)"):
            kernels.losses_and_slopes(logits, labels, torch.ones(3))

    def test_logits_can_be_saved_after_their_loss():
        logits = torch.zeros(2, 3)
        MaskedLanguageModelLoss()(torch.tensor([0, 1]), logits)
        file = io.BytesIO()
        torch.save(logits, file)
        assert file.getvalue()

    def test_the_default_type_changes_nothing():
        logits, labels = torch.randn(3, 40), torch.tensor([1, 2, 3])
        expected = torch.ops.kerasllm.row_losses(logits, labels)
        projected = torch.randn(1, 5, 6)
        attended = torch.ops.kerasllm.attention(projected, 1, None, True, None, 0, 1.0)
        torch.set_default_dtype(torch.bfloat16)
        try:
            torch.testing.assert_close(torch.ops.kerasllm.row_losses(logits, labels), expected)
            torch.testing.assert_close(
                torch.ops.kerasllm.attention(projected, 1, None, True, None, 0, 1.0), attended
            )
        finally:
            torch.set_default_dtype(torch.float32)

    @pytest.mark.parametrize("dtype", LIMITS)
    @pytest.mark.parametrize("count", [5, 32, 12345])
    def test_adding(count, dtype):
        total, values = torch.rand(count), torch.rand(count).to(dtype)
        expected = total + values.float()
        kernels.add(total, values)
        assert torch.equal(total, expected)

    def plain_attention(projected, num_heads, mask, is_causal, seed=None, rate=0.0):
        batch, length, width = projected.shape
        parts = projected.reshape(batch, length, 3, num_heads, width // (3 * num_heads))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        hidden = torch.zeros(length, length, dtype=torch.bool)
        if is_causal:
            hidden = hidden | torch.ones(length, length, dtype=torch.bool).triu(1)
        if mask is not None:
            hidden = hidden | ~mask
        probabilities = torch.softmax(scores.masked_fill(hidden, -1e30), dim=-1)
        if rate:
            probabilities = dropped(probabilities, seed, rate)
        return (probabilities @ value).transpose(1, 2).reshape(batch, length, width // 3)

    # The last two: a head wider than all vectors of a tile, and of odd width; rests of rows, of keys, of both.
    SHAPES = [(3, 2, 64, 32), (1, 1, 1, 1), (2, 3, 37, 20), (2, 1, 130, 100), (1, 2, 18, 7)]

    @pytest.mark.parametrize("dtype", LIMITS)
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("rate", [0.0, 0.3])
    @pytest.mark.parametrize("is_causal", [True, False])
    @pytest.mark.parametrize("kind", ["no mask", "padding", "pairs"])
    def test_attention_against_float64(shape, is_causal, kind, rate, dtype):
        batch, heads, length, width = shape
        if dtype == torch.bfloat16:
            width += width % 2
        torch.manual_seed(length)
        projected = torch.randn(batch, length, 3 * heads * width).to(dtype)
        upstream = torch.randn(batch, length, heads * width).to(dtype)
        mask = None
        if kind == "padding":
            mask = (torch.arange(length) < length - torch.arange(batch)[:, None])[:, None, None]
        elif kind == "pairs":
            mask = (torch.rand(batch, 1, length, length) < 0.6) | torch.eye(length, dtype=torch.bool)
        if not torch_attention.takes(projected, heads, mask):
            assert dtype == torch.bfloat16
            assert not (
                torch.cpu._is_avx512_bf16_supported() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
            )
            return
        seed = torch.tensor([5, -3])
        given, exact = projected.clone().requires_grad_(), projected.double().requires_grad_()
        found = torch_attention.SelfAttention.apply(
            given, heads, mask, is_causal, seed, int(rate * 2**31), 1 - rate
        )
        expected = plain_attention(exact, heads, mask, is_causal, seed, rate)
        found.backward(upstream)
        expected.backward(upstream.double())
        if dtype == torch.float32:
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(given.grad.double(), exact.grad, rtol=1e-5, atol=2e-5)
            return
        # No further from the truth than products and a softmax in turn.
        plain = projected.clone().requires_grad_()
        turns = plain_attention(plain, heads, mask, is_causal, seed, rate)
        turns.backward(upstream)
        for one, other, truth in ((found, turns, expected), (given.grad, plain.grad, exact.grad)):
            assert (one - truth).norm() <= 1.1 * (other - truth).norm() + 1e-9

    def test_a_row_of_which_all_is_masked_attends_to_all_alike():
        """As by the plain path, where each score is then the same."""
        projected = torch.randn(1, 5, 6, requires_grad=True)
        exact = projected.detach().double().requires_grad_()
        mask, upstream = torch.zeros(1, 1, 5, 5, dtype=torch.bool), torch.randn(1, 5, 2)
        found = torch_attention.SelfAttention.apply(projected, 1, mask, False)
        torch.testing.assert_close(found, projected[..., 4:].mean(1, keepdim=True).expand(1, 5, 2))
        found.backward(upstream)
        plain_attention(exact, 1, mask, False).backward(upstream.double())
        torch.testing.assert_close(
            projected.grad[..., 4:].double(), exact.grad[..., 4:], rtol=1e-5, atol=1e-6
        )

    def test_onednn_switched_off_is_an_error_and_no_crash():
        """Which a step does not come to: it asks before."""
        projected = torch.randn(1, 40, 3 * 8).bfloat16()
        torch._C._set_mkldnn_enabled(False)
        try:
            assert not torch_attention.takes(projected, 1, None)
            with pytest.raises(RuntimeError, match="BFloat16"):
                torch.ops.kerasllm.attention(projected, 1, None, True, None, 0, 1.0)
        finally:
            torch._C._set_mkldnn_enabled(True)

    def test_what_the_kernel_of_attention_leaves_to_others():
        for shape, dtype in (
            ((1, 4097, 24), torch.float32),
            ((1, 8, 3 * 257), torch.float32),
            ((1, 8, 21), torch.bfloat16),
            ((1, 8, 24), torch.float16),
        ):
            assert not torch_attention.takes(torch.zeros(shape, dtype=dtype), 1, None)
        for mask in (torch.ones(1, 2, 8, 8, dtype=torch.bool), torch.ones(1, 1, 8, 8)):
            assert not torch_attention.takes(torch.zeros(1, 8, 24), 2, mask)

    @pytest.mark.parametrize("by_tanh", [False, True])
    def test_gelu_far_from_zero(by_tanh):
        """Where the argument of tanh, and what multiplies a derivative of 0, are more than float32 holds."""
        inputs = torch.tensor([-1e15, 1e15], requires_grad=True)
        found = Gelu.apply(inputs, by_tanh)
        assert found.tolist() == [0, inputs[1].item()]
        found.sum().backward()
        assert inputs.grad.tolist() == [0, 1]

    @pytest.mark.parametrize("dtype", LIMITS)
    @pytest.mark.parametrize("approximate", ["none", "tanh"])
    def test_gelu_against_float64(approximate, dtype):
        inputs = torch.cat([torch.linspace(-12, 12, 4801), torch.tensor([-1e4, 1e4, torch.nan])]).to(dtype)
        given, exact = inputs.clone().requires_grad_(), inputs[:-3].double().requires_grad_()
        found = Gelu.apply(given, approximate == "tanh")
        expected = torch.nn.functional.gelu(exact, approximate=approximate)
        limits = {"rtol": LIMITS[dtype], "atol": LIMITS[dtype] if dtype == torch.bfloat16 else 1e-6}
        torch.testing.assert_close(found[:-3].double(), expected, **limits)
        assert found[-3:].tolist()[:2] == [0, inputs[-2].item()]
        assert found[-1].isnan()
        found.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(given.grad[:-3].double(), exact.grad, **limits)
        assert given.grad[-3:].tolist()[:2] == [0, 1]
