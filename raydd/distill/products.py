"""Products of rows with weights, computed by the fastest library that torch offers on the processor.

Weights that require no gradient: on a CPU torch multiplies with MKL, which uses half the width of an AMD core's vector
units. oneDNN uses all of it, also in float32: 128 rows and a weight of 2304 x 2304 take 6.5 ms instead of 13.9 on one
core of an EPYC of 2024. On an Intel core, oneDNN is faster if no matrix is transposed, by a sixth at 99 rows and
1280 x 1280; otherwise it is slower, by a third.

Weights of experts and of scored students are multiplied in bfloat16 (see `reduced`). A core with bfloat16 in hardware
takes half the time: 0.53 ms instead of 1.0 for 20 rows and 1280 x 1280. Rows and results are rounded too. On a GPU,
experts and scored students multiply in TF32 (`raydd.device.in_tf32`). The students of distillation steps are not
rounded: their gradient is a small difference of large terms, and with bfloat16, sets lost half a point of val r_mean.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _processor_description() -> str:
    """Return Linux's description of the processor; an empty text on other systems."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


_PROCESSOR = _processor_description()
_MKL_AT_FULL_WIDTH = torch.backends.mkl.is_available() and "GenuineIntel" in _PROCESSOR
_ONEDNN_TRANSPOSED = _ONEDNN and not _MKL_AT_FULL_WIDTH
_BFLOAT16 = _ONEDNN and any(flag in _PROCESSOR for flag in ("avx512_bf16", "amx_bf16"))
_WORTH_BFLOAT16 = 250_000  # numbers in a weight; with fewer, the layers' other work takes longer
_LARGE = 1_000_000  # numbers in a weight; on Intel, batching a step saves 12 % of its time at 0.7 million, none at 1.6
StudentWeights = Float[Tensor, "*K D d"] | tuple[Float[Tensor, "D d"], ...]


def linear(
    rows: Float[Tensor, "*K B d"], weight: StudentWeights, bias: Float[Tensor, "*K D"] | None = None
) -> Float[Tensor, "*K B D"]:
    """Return X Wᵀ + b, differentiable any number of times at the rows; for students side by side, see `stacked`."""
    if not isinstance(weight, Tensor) or weight.ndim > 2:
        product = rows @ weight.mT if isinstance(weight, Tensor) else _LinearEach.apply(rows, weight)
        return product if bias is None else product + bias.unsqueeze(-2)  # type: ignore[no-any-return]
    if not _onednn_is_faster(rows, weight):
        return F.linear(rows, weight, bias)
    return _Linear.apply(rows, weight, bias)  # type: ignore[no-any-return]


def reduced(weight: Float[Tensor, "*S D d"]) -> Float[Tensor, "*S D d"]:
    """Return a weight for products that may be rounded: in bfloat16 if it is large and the CPU multiplies bfloat16."""
    return weight.bfloat16() if _bfloat16_is_faster(weight) else weight


def stacked(weights: Sequence[Float[Tensor, "D d"]]) -> StudentWeights:
    """Return the constant weights of several students in the form that `linear` multiplies fastest.

    The weights are stacked for one batched product. But on a CPU large weights stay separate, and are multiplied one
    after the other: a batch would be no faster, and the copies would take memory.
    """
    separate = weights[0].device.type == "cpu" and weights[0].numel() > _LARGE
    return tuple(weights) if separate else torch.stack(tuple(weights))


def linear_of_students(features: Float[Tensor, "*S B d"], weight: Float[Tensor, "S D d"]) -> Float[Tensor, "S B D"]:
    """Return X Wᵀ for several students."""
    traced = features.requires_grad and torch.is_grad_enabled()
    if traced or features.ndim < weight.ndim or not _onednn_is_faster(features[0], weight[0]):
        return features @ weight.mT
    return torch.stack(
        [_multiply_with_onednn(rows, student_weight) for rows, student_weight in zip(features, weight, strict=True)]
    )


def add_products_of_students_(
    sums: Float[Tensor, "S D d"], left: Float[Tensor, "S B D"], right: Float[Tensor, "S B d"], *, decay: float
) -> None:
    """Compute A <- decay · A + leftᵀ right for several students, in place and without a graph."""
    if not _onednn_is_faster(left[0], right[0].T):
        sums.baddbmm_(left.mT, right, beta=decay)
        return
    for student_sum, rows, columns in zip(sums, left, right, strict=True):
        torch.add(_weight_update(student_sum, rows, columns), student_sum, alpha=decay, out=student_sum)


def add_product_(
    weight: Float[Tensor, "*S D d"], left: Float[Tensor, "*S B D"], right: Float[Tensor, "*S B d"], scale: float
) -> None:
    """Compute W <- W + scale · leftᵀ right, in place and without a graph."""
    if weight.ndim > 2:
        weight.baddbmm_(left.mT, right, alpha=scale)
    elif _onednn_is_faster(left, right.T):
        weight.add_(_weight_update(weight, left, right), alpha=scale)
    else:
        weight.addmm_(left.T, right, alpha=scale)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _multiply_with_onednn(rows, weight, bias)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return linear(gradients[0], weight.T), None, None


class _LinearEach(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        ctx.weights = weights
        pairs = zip(rows.unbind(), weights, strict=True)
        if not _onednn_is_faster(rows[0], weights[0]):
            return torch.stack([student_rows @ weight.T for student_rows, weight in pairs])
        return torch.stack([_multiply_with_onednn(student_rows, weight) for student_rows, weight in pairs])

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        transposed = tuple(weight.T for weight in ctx.weights)
        return _LinearEach.apply(gradients[0], transposed), None  # type: ignore[return-value]


def _weight_update(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return leftᵀ right, by which a weight is changed; rounded if `reduced` rounds that weight."""
    return _multiply_with_onednn(left.T, right.T.bfloat16() if _bfloat16_is_faster(weight) else right.T)


def _bfloat16_is_faster(weight: Tensor) -> bool:
    large = weight.shape[-2] * weight.shape[-1] >= _WORTH_BFLOAT16
    return _BFLOAT16 and large and weight.dtype == torch.float32 and weight.device.type == "cpu"


def _onednn_is_faster(rows: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling():  # also while exporting: ONNX has no such operator
        return False
    frozen = not (weight.requires_grad and torch.is_grad_enabled())
    faster = _ONEDNN if weight.is_contiguous() or weight.dtype == torch.bfloat16 else _ONEDNN_TRANSPOSED
    return faster and frozen and rows.ndim == 2 and rows.dtype == torch.float32 and rows.device.type == "cpu"


def _multiply_with_onednn(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if weight.dtype == torch.bfloat16:
        product = torch.ops.mkldnn._linear_pointwise(rows.bfloat16(), weight, None, "none", [], "").float()
        return product if bias is None else product + bias
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
