"""Products of rows with weights that ask for no gradient, by the faster of the two libraries that torch brings.

On a CPU torch multiplies by MKL, which uses half the width of an AMD core's vector units; oneDNN uses all of it, in
float32 as well. 128 rows and a weight of 2304 x 2304 take 6.5 ms in place of 13.9 on one core of an EPYC of 2024.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(
    rows: Float[Tensor, "B d"], weight: Float[Tensor, "D d"], bias: Float[Tensor, "D"] | None = None
) -> Float[Tensor, "B D"]:
    """X Wᵀ + b, differentiable at the rows as often as one likes."""
    if not _by_onednn(rows, weight):
        return F.linear(rows, weight, bias)
    return _Linear.apply(rows, weight, bias)  # type: ignore[no-any-return]


def add_product_(
    weight: Float[Tensor, "D d"], left: Float[Tensor, "B D"], right: Float[Tensor, "B d"], scale: float
) -> None:
    """W <- W + scale · leftᵀ right, in place and without a graph."""
    if _by_onednn(left, right):
        weight.add_(_onednn(left.T, right.T), alpha=scale)
    else:
        weight.addmm_(left.T, right, alpha=scale)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(rows, weight, bias)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return linear(gradients[0], weight.T), None, None


def _by_onednn(rows: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling():  # also while exporting: ONNX has no such operator
        return False
    frozen = not (weight.requires_grad and torch.is_grad_enabled())
    return _ONEDNN and frozen and rows.ndim == 2 and rows.dtype == torch.float32 and rows.device.type == "cpu"


def _onednn(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
