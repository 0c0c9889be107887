"""Ridge: students in closed form. The loss is their error on real pairs, as KIP and CLP-DD do it for classes.

A student maps an image x and a text y onto the N synthetic pairs by kernel ridge regression,

    a(x) = k(x, X) (K_X + l I)^-1 S,    b(y) = k(y, Y) (K_Y + l I)^-1,

and compares them by their cosine divided by a temperature. The loss is InfoNCE on a minibatch of real pairs. The system
has N equations, so a step costs little, and no trajectory is needed. The kernel is linear in standardised features. The
pairs, the similarity matrix S, the temperature and the strength l of each side are learned.

Letters: N synthetic pairs, B real ones in a minibatch, d and e widths of the image and the text encoder.
"""

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from raydd.device import sent
from raydd.distill.draws import step_seed
from raydd.distill.experts import contrastive_loss
from raydd.distill.heads import to_sphere
from raydd.distill.matching import LearnedPairs, StepLoss
from raydd.distill.objectives.objective import AllPairsObjective, LossOfPairs, ObjectiveInputs


class RidgeStudents(AllPairsObjective):
    """InfoNCE of closed-form students on real pairs."""

    def __init__(self, inputs: ObjectiveInputs) -> None:
        super().__init__(inputs)
        self._temperature = inputs.temperature

    @property
    def learned(self) -> Mapping[str, Tensor]:
        """Start values of the logarithms of the temperature and of both sides' strengths."""
        strength = torch.tensor(self.config.ridge_strength).log()
        temperature = torch.tensor(self._temperature).log()
        return {"log_temperature": temperature, "log_image_strength": strength, "log_text_strength": strength}

    def draw(self, step: int) -> LossOfPairs:
        """Return the loss on the step's minibatch of real pairs."""
        generator = Generator().manual_seed(step_seed(self.config, step))
        rows = self.real.minibatch(self.config.real_minibatch, generator)
        image, text = (sent(side, self.device) for side in rows)
        return partial(self._step_loss, image, text)

    def _step_loss(self, image: Float[Tensor, "B d"], text: Float[Tensor, "B e"], pairs: LearnedPairs) -> StepLoss:
        parameters = pairs.objective
        images, texts = self.standardised(pairs.images, pairs.texts)
        real_images, real_texts = self.standardised(image.to(pairs.images), text.to(pairs.texts))
        mapped_images = regressed(
            real_images, images, parameters["log_image_strength"].exp()
        ) @ pairs.similarity.matrix(pairs.device).to(pairs.images)
        mapped_texts = regressed(real_texts, texts, parameters["log_text_strength"].exp())
        loss = contrastive_loss(
            to_sphere(mapped_images) @ to_sphere(mapped_texts).T / parameters["log_temperature"].exp()
        )
        return StepLoss.of(loss, pairs, {})


def regressed(
    real: Float[Tensor, "B d"], learned: Float[Tensor, "N d"], strength: Float[Tensor, ""] | float
) -> Float[Tensor, "B N"]:
    """Return k(x, X) (K_X + l I)^-1 for a linear kernel; l is `strength` times the mean |row|² of the learned rows."""
    kernel = learned @ learned.T
    penalty = strength * kernel.diagonal().mean()
    return penalised_solution(kernel, learned @ real.T, penalty).T


def penalised_solution(
    matrix: Float[Tensor, "n n"], right: Float[Tensor, "n m"], penalty: Float[Tensor, ""] | float
) -> Float[Tensor, "n m"]:
    """Return (A + l I)^-1 B. It is not finite if A + l I is singular: checking that here would wait for the device."""
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve_ex(matrix + penalty * identity, right, check_errors=False).result
