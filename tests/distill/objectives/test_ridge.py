"""Closed-form students against the minimum that they stand for."""

import torch
import torch.nn.functional as F
from small_distillations import begin
from small_pairs import Split

from raydd.distill.experts import Experts
from raydd.distill.objectives.real_pairs import standardised
from raydd.distill.objectives.ridge import regressed


def test_a_student_is_the_minimum_of_its_penalised_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    learned, real = (torch.randn(n, 7, generator=generator, dtype=torch.float64) for n in (4, 5))
    penalty = 0.3 * learned.square().sum(1).mean()
    # W minimises |X W - I|^2 + l |W|^2: solved with as many equations as there are dimensions.
    weights = torch.linalg.inv(learned.T @ learned + penalty * torch.eye(7)) @ learned.T
    torch.testing.assert_close(regressed(real, learned, torch.tensor(0.3)), real @ weights)


def test_the_loss_is_infonce_of_cosines_on_real_pairs(train_split: Split, experts: Experts) -> None:
    run = begin(train_split, experts, objective="ridge", similarity="identity", real_minibatch=10, ridge_strength=0.5)
    pairs, real = run._current_pairs(), run.objective.real  # type: ignore[attr-defined]
    image, text = real.minibatch(10, torch.Generator().manual_seed(3))
    strength = torch.tensor(0.5)
    spreads = real.image_spread, real.text_spread
    of_image = regressed(standardised(image, spreads[0]), standardised(pairs.images, spreads[0]), strength)
    of_text = regressed(standardised(text, spreads[1]), standardised(pairs.texts, spreads[1]), strength)
    cosines = torch.stack([F.cosine_similarity(row[None], of_text) for row in of_image]) / 0.07
    wanted = sum(F.cross_entropy(logits, torch.arange(10)) for logits in (cosines, cosines.T)) / 2
    torch.testing.assert_close(run.objective.draw(3)(pairs).loss, wanted, rtol=1e-4, atol=1e-5)
