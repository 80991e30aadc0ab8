"""Matrix products for PyTorch: on a CPU in float32 by oneDNN, which torch otherwise uses for bfloat16 alone.

MKL, torch's choice for float32, takes one thread for a product of a tall matrix with a few rows, and on AMD an older
kernel for the others: projections to a vocabulary took 1.3 to 2.7 times as long (measured on 2 cores).
"""

import torch

_LINEAR = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
)

# An operator of our own around it, as TorchScript cannot record one that takes a list of scalars.
_library = torch.library.Library("kerasllm", "DEF")
_library.define("product(Tensor left, Tensor right, Tensor? bias) -> Tensor")


def _product(left, right, bias):
    return _LINEAR(left, right, bias, "none", [], "")


_library.impl("product", _product, "CPU")


@torch.library.register_fake("kerasllm::product")
def _shape_of_product(left, right, bias):
    return left.new_empty(left.shape[0], right.shape[0])


def product_with_transpose(left, right, bias=None):
    """(rows, in) @ (out, in).T plus bias (out,); no gradient flows through it.

    Args:
        left: floating, of the type of `right`; either may be a transposed view.
        right: (out, in).
        bias: None for none.
    """
    if _LINEAR is None or left.dtype != torch.float32 or left.device.type != "cpu":
        return torch.nn.functional.linear(left, right, bias)
    return torch.ops.kerasllm.product(left, right, bias)
