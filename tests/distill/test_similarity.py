"""The similarity matrix: it starts at the identity, and a minibatch is a submatrix."""

import pytest
import torch
from torch import Generator

from raydd.distill.similarity import Similarity


@pytest.mark.parametrize("kind", ["low-rank", "identity", "full"])
def test_the_start_is_the_identity(kind: str) -> None:
    start = Similarity.start(kind, 7, rank=3, alpha=2.0, generator=Generator().manual_seed(0))  # type: ignore[arg-type]
    assert torch.equal(start.matrix(), torch.eye(7))


@pytest.mark.parametrize("kind", ["low-rank", "full"])
def test_a_minibatch_is_the_submatrix(kind: str) -> None:
    start = Similarity.start(kind, 7, rank=3, alpha=2.0, generator=Generator().manual_seed(0))  # type: ignore[arg-type]
    moved = start.with_factors({name: torch.randn_like(factor) for name, factor in start.factors.items()})
    index = torch.tensor([4, 0, 5])
    torch.testing.assert_close(moved.minibatch(index), moved.matrix()[index][:, index])


def test_the_formula_entry_by_entry() -> None:
    left, right, diagonal = torch.randn(5, 2), torch.randn(5, 2), torch.randn(5)
    matrix = Similarity("low-rank", 5, {"diagonal": diagonal, "left": left, "right": right}, alpha=3.0).matrix()
    for i in range(5):
        for j in range(5):
            expected = 3.0 / 2 * sum(left[i, k] * right[j, k] for k in range(2)) + (diagonal[i] if i == j else 0)
            torch.testing.assert_close(matrix[i, j], torch.as_tensor(expected))


@pytest.mark.parametrize("kind", ["low-rank", "identity", "full"])
def test_several_minibatches_at_once_are_the_submatrices_of_each(kind: str) -> None:
    start = Similarity.start(kind, 7, rank=3, alpha=2.0, generator=Generator().manual_seed(0))  # type: ignore[arg-type]
    moved = start.with_factors({name: torch.randn_like(factor) for name, factor in start.factors.items()})
    index = torch.tensor([[4, 0, 5, 1, 2], [3, 1, 6, 0, 5]])
    for together, alone in zip(moved.minibatch(index), index, strict=True):
        torch.testing.assert_close(together, moved.matrix()[alone][:, alone])


def test_the_factor_that_is_random_is_drawn_from_the_generator_alone() -> None:
    def left(seed: int) -> torch.Tensor:
        generator = Generator().manual_seed(seed)
        return Similarity.start("low-rank", 7, rank=3, alpha=2.0, generator=generator).factors["left"]

    assert torch.equal(left(0), left(0))
    assert not torch.equal(left(0), left(1))
