"""Covariance matching against the formula written out, row by row."""

import numpy as np
import pytest
import torch
from small_distillations import begin, read
from small_pairs import Split

from raydd.distill.experts import Experts
from raydd.distill.objectives.covariance import cross_covariance, cross_covariance_of


def written_out(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """The cross-covariance as a sum over pairs."""
    total = np.zeros((images.shape[1], texts.shape[1]))
    for image, text in zip(images - images.mean(0), texts - texts.mean(0), strict=True):
        total += np.outer(image, text)
    return total / len(images)


def standard(rows: torch.Tensor, like: torch.Tensor) -> np.ndarray:
    rows, like = rows.double(), like.double()
    return ((rows - like.mean(0)) / like.std(0)).numpy()


def test_the_loss_is_the_formula(train_split: Split, experts: Experts) -> None:
    run = begin(train_split, experts, objective="covariance", covariance_scale=2.0, mean_weight=0.3)
    found = read(run.objective.draw(0)(run._current_pairs()))
    first = train_split.images.values[:, 0].float()
    seen = train_split.images.values.float().mean(1)[train_split.image_of_text]
    texts = train_split.texts.float()
    real = written_out(standard(seen, first), standard(texts, texts))
    made = run.synthetic()
    images, captions = standard(made.image_features, first), standard(made.text_features, texts)
    covariance = np.square(2.0 * real - written_out(images, captions)).sum()
    means = np.square(images.mean(0)).sum() + np.square(captions.mean(0)).sum()
    assert found.loss == pytest.approx(covariance + 0.3 * means, rel=1e-3)
    assert found.fractions == {
        "loss/covariance": pytest.approx(covariance, rel=1e-3),
        "loss/means": pytest.approx(means, rel=1e-3, abs=1e-4),
    }


def test_all_pairs_are_read_in_chunks(train_split: Split, experts: Experts, monkeypatch: pytest.MonkeyPatch) -> None:
    real = begin(train_split, experts, objective="covariance").objective.real  # type: ignore[attr-defined]
    whole = cross_covariance_of(real)
    monkeypatch.setattr("raydd.distill.objectives.real_pairs._CHUNK", 7)
    torch.testing.assert_close(cross_covariance_of(real), whole)
    rows = torch.randn(6, 3, dtype=torch.float64)
    np.testing.assert_allclose(cross_covariance(rows, rows.flip(0)), written_out(rows.numpy(), rows.flip(0).numpy()))
