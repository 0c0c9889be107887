"""Projector matching (APM): give the synthetic pairs the regressions from images to texts, and back, of real pairs.

A cross-covariance also contains how the features of each side vary together. Dividing this out leaves the projectors,
which are what a linear student needs in the end: the maps that predict the other side best,

    P = (C_xx + l I)^-1 C_xy,    Q = (C_yy + l I)^-1 C_yx,
    L = |P - P_syn|^2 / |P|^2 + |Q - Q_syn|^2 / |Q|^2 + lambda (|mean_syn image|^2 + |mean_syn text|^2),

with covariances C of standardised features; l = 0 makes the inverses pseudo-inverses. An image has several captions,
and the words of captions vary more than the photograph. So step t only reads the real pairs of each image's caption
t mod 5 (fewer subsets if images have fewer captions). The two matrices of each subset are computed once. Neither
experts nor students are trained.

Letters: N synthetic pairs, d and e widths of the image and the text encoder.
"""

from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.matching import LearnedPairs, StepLoss
from raydd.distill.objectives.objective import AllPairsObjective, LossOfPairs
from raydd.distill.objectives.real_pairs import RealPairs, squared_means
from raydd.distill.objectives.ridge import penalised_solution

SUBSETS = 5  # largest number of subsets of captions, as published


class ProjectorMatching(AllPairsObjective):
    """The relative squared distances of both projectors, and the means."""

    @cached_property
    def _targets(self) -> list[tuple[Float[Tensor, "d e"], Float[Tensor, "e d"]]]:
        """Both projectors of each subset of the real pairs, which the first step reads all of."""
        projectors = projectors_of(self.real, self.config.ridge_strength)
        return [
            (image_projector.to(self.device), text_projector.to(self.device))
            for image_projector, text_projector in projectors
        ]

    def draw(self, step: int) -> LossOfPairs:
        """Return the distance from the projectors of the step's subset of captions."""
        return partial(self._step_loss, *self._targets[step % len(self._targets)])

    def _step_loss(
        self, image_projector: Float[Tensor, "d e"], text_projector: Float[Tensor, "e d"], pairs: LearnedPairs
    ) -> StepLoss:
        image, text = self.standardised(pairs.images, pairs.texts)
        strength = self.config.ridge_strength
        to_text = _relative_distance(projector(image, text, strength), image_projector)
        to_image = _relative_distance(projector(text, image, strength), text_projector)
        means = squared_means(image, text)
        parts = {"to_text": to_text, "to_image": to_image, "means": means}
        return StepLoss.of(to_text + to_image + self.config.mean_weight * means, pairs, parts)


def projector(rows: Float[Tensor, "N d"], targets: Float[Tensor, "N e"], strength: float) -> Float[Tensor, "d e"]:
    """Return (C_xx + l I)^-1 C_xy for a few paired rows, with l = `strength`, by solving a system of N equations."""
    rows, targets = rows - rows.mean(0), targets - targets.mean(0)
    return rows.T @ penalised_solution(rows @ rows.T, targets, len(rows) * strength)


def projectors_of(real: RealPairs, strength: float) -> list[tuple[Float[Tensor, "d e"], Float[Tensor, "e d"]]]:
    """Return P and Q of the real pairs, for each subset of captions."""
    width, projectors = real.image_spread.shape[1], []
    for captions in caption_subsets(real.train.image_of_text):
        covariance = _joint_covariance(real, captions)
        images, cross, texts = covariance[:width, :width], covariance[:width, width:], covariance[width:, width:]
        image_projector = penalised_solution(images, cross, strength)
        text_projector = penalised_solution(texts, cross.T, strength)
        projectors.append((image_projector.float(), text_projector.float()))
    return projectors


def caption_subsets(image_of_text: Int[Tensor, "C"]) -> list[Int[Tensor, "S"]]:
    """Split captions into subsets: the first caption of each image, the second, up to the fifth.

    Further captions start again at the first subset. There are at most as many subsets as the median image has
    captions, so that no subset has only a few pairs.

    Args:
        image_of_text: the image of each caption, ascending.
    """
    median_captions = int(image_of_text.unique(return_counts=True)[1].median())
    caption_number = torch.arange(len(image_of_text)) - torch.searchsorted(image_of_text, image_of_text)
    subsets = min(SUBSETS, median_captions)
    return [(caption_number % subsets == subset).nonzero()[:, 0] for subset in range(subsets)]


def _joint_covariance(real: RealPairs, captions: Int[Tensor, "S"]) -> Float[Tensor, "d+e d+e"]:
    """Return the covariance of [image, text], standardised; each image is the mean of its views."""
    width = real.image_spread.shape[1] + real.text_spread.shape[1]
    product, total = torch.zeros(width, width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for image, text in real.chunks_of(captions):
        features = torch.cat(real.standardised(image, text), dim=1).double()
        product, total = product + features.T @ features, total + features.sum(0)
    return product / len(captions) - torch.outer(total, total) / len(captions) ** 2


def _relative_distance(learned: Float[Tensor, "d e"], target: Float[Tensor, "d e"]) -> Float[Tensor, ""]:
    target = target.to(learned)
    return (learned - target).square().sum() / target.square().sum()
