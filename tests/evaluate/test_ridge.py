"""The closed-form student against its formula written out, and what it must rank."""

from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix_scores import matrix_scores
from torch import Generator, Tensor

from raydd.distill.objectives.ridge import regressed
from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.ridge import STRENGTH, ridge_scores

IMAGE, TEXT, HIDDEN = 9, 7, 5
LOOKS = tuple(torch.randn(HIDDEN, width, generator=Generator().manual_seed(0)) for width in (IMAGE, TEXT))


def pairs_of(count: int, seed: int, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Image and text features that show the same hidden thing, apart from noise."""
    generator = Generator().manual_seed(seed)
    hidden = torch.randn(count, HIDDEN, generator=generator)
    image, text = (hidden @ look for look in LOOKS)
    return tuple(side + noise * torch.randn(side.shape, generator=generator) for side in (image, text))  # type: ignore[return-value]


def set_of(image: Tensor, text: Tensor, similarity: Similarity) -> SyntheticSet:
    places = torch.arange(len(image))
    return SyntheticSet(image, text, similarity, 0.1, 0.1, "infonce", places, places)


def split_of(image: Tensor, text: Tensor) -> SimpleNamespace:
    images = SimpleNamespace(shape=(len(image), 1, image.shape[1]), gather=lambda rows, view: image[rows])
    texts = SimpleNamespace(whole=lambda: text)
    return SimpleNamespace(images=images, texts=texts, image_of_text=torch.arange(len(text)))


def spread_of(rows: Tensor) -> Tensor:
    return torch.stack([rows.mean(0), rows.std(0)])


@given(count=st.integers(3, 12), seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_the_map_is_the_minimum(count: int, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    rows, targets = (torch.randn(count, width, generator=generator, dtype=torch.float64) for width in (6, 4))

    def cost(weight: Tensor) -> Tensor:
        return (rows @ weight - targets).square().sum() + 0.5 * rows.square().sum(1).mean() * weight.square().sum()

    found = regressed(torch.eye(6, dtype=torch.float64), rows, 0.5) @ targets
    (gradient,) = torch.autograd.grad(cost(weight := found.clone().requires_grad_()), weight)
    assert gradient.abs().max() < 1e-9 * cost(found)


def test_scores_are_those_of_the_formula() -> None:
    generator = Generator().manual_seed(3)
    real, learned = pairs_of(20, 1, 0.5), pairs_of(6, 2)
    left, right = torch.randn(6, 2, generator=generator), torch.randn(6, 2, generator=generator)
    similarity = Similarity("low-rank", 6, {"diagonal": torch.ones(6), "left": left, "right": right}, 3.0)
    spreads = [spread_of(side) for side in real]
    embedded = []
    for synthetic, held_out, (mean, deviation) in zip(learned, real, spreads, strict=True):
        x, v = ((rows.double() - mean.double()) / deviation.double() for rows in (synthetic, held_out))
        kernel = torch.stack([torch.stack([(one * other).sum() for other in x]) for one in x])
        penalty = STRENGTH * sum(kernel[i, i] for i in range(6)) / 6
        embedded.append((v @ x.T) @ torch.linalg.inv(kernel + penalty * torch.eye(6, dtype=torch.float64)))
    matrix = torch.eye(6, dtype=torch.float64) + 1.5 * left.double() @ right.double().T
    image, text = embedded[0] @ matrix, embedded[1]
    cosines = image @ text.T / (image.norm(dim=1)[:, None] * text.norm(dim=1)[None, :])
    expected = matrix_scores(cosines, torch.arange(20))
    assert ridge_scores(set_of(*learned, similarity), split_of(*real), *spreads) == expected  # type: ignore[arg-type]
    identity = set_of(*learned, Similarity("identity", 6, {}))
    assert ridge_scores(identity, split_of(*real), *spreads) != expected  # type: ignore[arg-type]


def test_wrong_pairs_score_less_and_a_feature_that_never_varies_does_no_harm() -> None:
    image, text = pairs_of(30, 4, 0.1)
    real = pairs_of(40, 5, 0.1)
    spreads = [spread_of(side) for side in real]
    spreads[0][1, 0] = 0.0

    def score(texts: Tensor) -> float:
        similarity = Similarity("identity", 30, {})
        return ridge_scores(set_of(image, texts, similarity), split_of(*real), *spreads)["r_mean"]  # type: ignore[arg-type]

    assert score(text) > score(text.roll(1, 0)) + 20
