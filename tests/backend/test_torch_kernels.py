"""The kernels of our own for PyTorch against float64; run on PyTorch alone."""

import keras
import pytest

if keras.backend.backend() == "torch":
    import torch

    from kerasllm.backend import torch_row_kernels as kernels
    from kerasllm.backend.torch_gelu import Gelu

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

    @pytest.mark.parametrize("dtype", LIMITS)
    @pytest.mark.parametrize("count", [5, 32, 12345])
    def test_adding(count, dtype):
        total, values = torch.rand(count), torch.rand(count).to(dtype)
        expected = total + values.float()
        kernels.add(total, values)
        assert torch.equal(total, expected)

    @pytest.mark.parametrize("approximate", ["none", "tanh"])
    def test_gelu_against_float64(approximate):
        inputs = torch.linspace(-12, 12, 4801)
        given, exact = inputs.clone().requires_grad_(), inputs.double().requires_grad_()
        found = Gelu.apply(given, approximate == "tanh")
        expected = torch.nn.functional.gelu(exact, approximate=approximate)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
        found.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(given.grad.double(), exact.grad, rtol=1e-6, atol=1e-6)
