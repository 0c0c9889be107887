"""Losses of a logit matrix Z (rows images, columns texts) and a similarity matrix S of the same shape.

Formulas as published with LoRS and RepBlend. Each loss returns one number per student.

Letters: S students (an optional leading axis), B minibatch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from raydd.distill.loss_names import own_loss
from raydd.outside import attributed

_EPSILON = 1e-6  # inside the published logarithms and counts


@dataclass(frozen=True)
class Loss:
    """A loss that students train on, with parameters of its own, which are learned along with the synthetic pairs."""

    function: Callable[..., Tensor]
    """Maps logits Z [B B] and similarity S [B B] to one number, twice differentiable in both. The parameters are passed
    as keywords, each a tensor without axes. raydd's own losses also take several students side by side, [S B B]."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Start values of the function's own parameters, by name."""

    def __call__(
        self,
        logits: Float[Tensor, "*S B B"],
        similarity: Float[Tensor, "*#S B B"],
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "*S"]:
        """Return the loss of each student. Without `parameters`, the loss's own parameters have their start values.

        Raises:
            ConfigError: a user's own function failed, or returned a wrong shape or NaN.
        """
        if parameters is None:
            parameters = self.tensors({}, logits)
        return self.function(logits, similarity, **parameters)

    def tensors(self, values: Mapping[str, float], like: Tensor) -> dict[str, Float[Tensor, ""]]:
        """Return the parameters as tensors; those that are missing from `values` have their start values.

        Args:
            values: learned values by name.
            like: tensor whose device and precision to use.
        """
        return {
            name: torch.tensor(values.get(name, start), dtype=like.dtype, device=like.device)
            for name, start in self.parameters.items()
        }


def weighted_bce(logits: Float[Tensor, "*S B B"], similarity: Float[Tensor, "*#S B B"]) -> Float[Tensor, "*S"]:
    """Return half the mean element loss of the positives plus half that of the negatives (LoRS).

    Positives are the entries with S above 0.5. The element loss is -S log(σ(Z) + ε) - (1 - S) log(1 - σ(Z) + ε), with
    ε = 1e-6. S may lie outside [0, 1].
    """
    probability = torch.sigmoid(logits)
    element = -similarity * torch.log(probability + _EPSILON)
    element = element - (1 - similarity) * torch.log(1 - probability + _EPSILON)
    positive = (similarity > 0.5).to(element.dtype)
    negative = 1 - positive
    over_positives = (element * positive).sum((-2, -1)) / (positive.sum((-2, -1)) + _EPSILON)
    over_negatives = (element * negative).sum((-2, -1)) / (negative.sum((-2, -1)) + _EPSILON)
    return (over_positives + over_negatives) / 2


def bce(logits: Float[Tensor, "*S B B"], similarity: Float[Tensor, "*#S B B"]) -> Float[Tensor, "*S"]:
    """Return the mean of -S log σ(Z) - (1 - S) log(1 - σ(Z)); linear in S, so S may lie outside [0, 1]."""
    return (F.softplus(logits) - similarity * logits).mean((-2, -1))


def info_nce(logits: Float[Tensor, "*S B B"], similarity: Float[Tensor, "*#S B B"]) -> Float[Tensor, "*S"]:
    """Return half the sum of the cross-entropies of rows and columns; the rows and columns of S are not normalised."""
    rows = -(similarity * logits.log_softmax(-1)).sum(-1).mean(-1)
    columns = -(similarity * logits.log_softmax(-2)).sum(-2).mean(-1)
    return (rows + columns) / 2


LOSSES: dict[str, Loss] = {"infonce": Loss(info_nce), "wbce": Loss(weighted_bce), "bce": Loss(bce)}


def find_loss(name: str, setting: str = "distill.loss") -> Loss:
    """Return one of raydd's losses, or a user's own as `FILE.py:NAME` or `module:NAME`, which is run as code.

    A user's own loss is a `Loss`, or a plain function of logits and similarity. It is tried once on a small example. It
    always gets the matrices of one student.

    Args:
        name: name of the loss.
        setting: the setting that names it, for error messages.

    Raises:
        ConfigError: there is no such loss, or it fails on a small example.
    """
    user_loss = own_loss(name, setting)
    if user_loss is None:
        return LOSSES[name]
    loss = user_loss if isinstance(user_loss, Loss) else Loss(user_loss)
    wrapped = replace(loss, function=_UserFunction(loss.function, name, setting))
    with attributed(name, setting):
        _check_on_example(wrapped)
    return wrapped


def _check_on_example(loss: Loss) -> None:
    """Compute the loss on a small example and differentiate it twice, as a distillation step does."""
    logits = torch.linspace(-2, 2, 9).view(3, 3).requires_grad_()
    similarity = torch.eye(3).requires_grad_()
    parameters = {name: tensor.requires_grad_() for name, tensor in loss.tensors({}, logits).items()}
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        value = loss(logits, similarity, parameters)
        # Only here: in a step it would wait for the device, and a NaN there ends that distillation with its step.
        if not bool(value.isfinite()):
            raise ArithmeticError(f"it returned {float(value.detach())} on finite logits")
        (first_gradient,) = torch.autograd.grad(value, logits, create_graph=True)
        gradients = [first_gradient]
        if first_gradient.requires_grad:
            inputs = [logits, similarity, *parameters.values()]
            gradients += torch.autograd.grad(first_gradient.sum(), inputs, materialize_grads=True)
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            raise ArithmeticError("its gradient is NaN or infinite on finite logits")


class _UserFunction:
    """A user's own function. Its errors are reported as the function's, not as raydd's."""

    def __init__(self, function: Callable[..., Any], name: str, setting: str) -> None:
        self._function, self._name, self._setting = function, name, setting

    def __call__(self, logits: Tensor, similarity: Tensor, **parameters: Tensor) -> Tensor:
        if logits.ndim > 2:
            pairs = zip(logits, similarity.expand_as(logits), strict=True)
            return torch.stack(
                [self(student_logits, student_similarity, **parameters) for student_logits, student_similarity in pairs]
            )
        with attributed(self._name, self._setting):
            value = self._function(logits, similarity, **parameters)
            if not isinstance(value, Tensor) or value.numel() != 1 or value.ndim:
                description = f"shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise TypeError(f"it returned {description}, not a tensor with one number and no axes")
            if torch.is_grad_enabled() and logits.requires_grad and not value.requires_grad:
                raise TypeError("its value does not depend on the logits")
            return value
