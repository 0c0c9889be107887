"""Covariance matching: give the synthetic pairs the cross-covariance of images and texts that real pairs have.

The gradient of a contrastive loss at a linear student is, to first order, the cross-covariance of its inputs. So pairs
with the same cross-covariance start the student in the same direction. Neither experts nor students are trained.

    L = |rho C - C_syn|^2 + lambda (|mean_syn image|^2 + |mean_syn text|^2)

with C = X^T Y / n for the centred features of the real pairs, computed once, and C_syn for those of the synthetic
pairs. Features are standardised by the mean and deviation of the real ones, so the real means are zero.

Letters: N synthetic pairs, d and e widths of the image and the text encoder.
"""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.distill.matching import LearnedPairs, StepLoss
from raydd.distill.objectives.objective import AllPairsObjective, LossOfPairs
from raydd.distill.objectives.real_pairs import RealPairs, squared_means


class CovarianceMatching(AllPairsObjective):
    """The squared distance of both cross-covariances, and of both means."""

    @cached_property
    def _target(self) -> Float[Tensor, "d e"]:
        """The scaled cross-covariance of the real pairs, which the first step reads all of."""
        return self.config.covariance_scale * cross_covariance_of(self.real).to(self.device)

    def draw(self, step: int) -> LossOfPairs:  # noqa: ARG002
        """Return the loss, which is the same in each step: nothing is drawn."""
        return self._step_loss

    def _step_loss(self, pairs: LearnedPairs) -> StepLoss:
        image, text = self.standardised(pairs.images, pairs.texts)
        covariance = (cross_covariance(image, text) - self._target.to(image)).square().sum()
        means = squared_means(image, text)
        loss = covariance + self.config.mean_weight * means
        return StepLoss.of(loss, pairs, {"covariance": covariance, "means": means})


def cross_covariance(image: Float[Tensor, "N d"], text: Float[Tensor, "N e"]) -> Float[Tensor, "d e"]:
    """Return the cross-covariance of paired rows."""
    return (image - image.mean(0)).T @ (text - text.mean(0)) / len(image)


def cross_covariance_of(real: RealPairs) -> Float[Tensor, "d e"]:
    """Return the cross-covariance of all real pairs, standardised; averaging views is exact, since it is linear."""
    image_width, text_width = real.image_spread.shape[1], real.text_spread.shape[1]
    product, count = torch.zeros(image_width, text_width, dtype=torch.float64), 0
    sum_image, sum_text = torch.zeros(image_width, dtype=torch.float64), torch.zeros(text_width, dtype=torch.float64)
    for image, text in real.all():
        image, text = real.standardised(image, text)
        product += image.T @ text
        sum_image, sum_text, count = sum_image + image.sum(0), sum_text + text.sum(0), count + len(image)
    return (product / count - torch.outer(sum_image, sum_text) / count**2).float()
