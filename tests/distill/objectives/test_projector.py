"""Projector matching against the formulas written out, with pseudo-inverses in the limit."""

import numpy as np
import pytest
import torch
from small_distillations import begin, read
from small_pairs import Split, make_split

from raydd.distill.experts import Experts
from raydd.distill.objectives.projector import caption_subsets, projector, projectors_of


def written_out(rows: np.ndarray, onto: np.ndarray, strength: float) -> np.ndarray:
    """The inverse of the covariance of the rows times their cross-covariance."""
    rows, onto = rows - rows.mean(0), onto - onto.mean(0)
    covariance = rows.T @ rows / len(rows) + strength * np.eye(rows.shape[1])
    return np.linalg.inv(covariance) @ rows.T @ onto / len(rows)


def standard(rows: torch.Tensor, like: torch.Tensor) -> np.ndarray:
    rows, like = rows.double(), like.double()
    return ((rows - like.mean(0)) / like.std(0)).numpy()


def real_of(split: Split, subset: int, captions: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised images, each the mean of its views, and texts of every image's caption of that number."""
    images = standard(split.images.values.float().mean(1), split.images.values[:, 0].float())
    return images, standard(split.texts.float()[subset::captions], split.texts.float())


def test_the_loss_is_the_formula_and_subsets_take_turns(train_split: Split, experts: Experts) -> None:
    run = begin(train_split, experts, objective="projector", ridge_strength=0.7, mean_weight=0.3)
    made = run.synthetic()
    images = standard(made.image_features, train_split.images.values[:, 0].float())
    texts = standard(made.text_features, train_split.texts.float())
    means = np.square(images.mean(0)).sum() + np.square(texts.mean(0)).sum()
    for step in range(4):
        image, text = real_of(train_split, step % 2, 2)
        to_text, to_image = written_out(image, text, 0.7), written_out(text, image, 0.7)
        parts = [
            np.square(written_out(one, other, 0.7) - target).sum() / np.square(target).sum()
            for one, other, target in ((images, texts, to_text), (texts, images, to_image))
        ]
        found = read(run.objective.draw(step)(run._current_pairs()))
        assert found.fractions == {
            "loss/to_text": pytest.approx(parts[0], rel=1e-3),
            "loss/to_image": pytest.approx(parts[1], rel=1e-3),
            "loss/means": pytest.approx(means, rel=1e-3),
        }
        assert found.loss == pytest.approx(sum(parts) + 0.3 * means, rel=1e-3)


def test_without_a_ridge_it_is_the_pseudo_inverse() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, onto = (torch.randn(6, width, generator=generator, dtype=torch.float64) for width in (9, 4))
    centred = [part - part.mean(0) for part in (rows, onto)]
    wanted = torch.linalg.pinv(centred[0]) @ centred[1]
    torch.testing.assert_close(projector(rows, onto, 1e-10), wanted, rtol=1e-5, atol=1e-6)


def test_subsets_hold_every_caption_once() -> None:
    owner = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 3])
    assert [subset.tolist() for subset in caption_subsets(owner)] == [[0, 2, 3, 5, 7, 9, 11], [1, 4, 6, 8, 10]]
    flickr = torch.arange(4).repeat_interleave(5)
    assert [subset.tolist() for subset in caption_subsets(flickr)] == [[n, n + 5, n + 10, n + 15] for n in range(5)]
    assert len(caption_subsets(torch.arange(4).repeat_interleave(7))) == 5


def test_one_image_with_many_captions_makes_no_subset_of_its_own() -> None:
    (all_of_them,) = caption_subsets(torch.tensor([0, 1, 2, 2, 2, 2, 2, 3]))
    assert all_of_them.tolist() == list(range(8))


def test_all_pairs_are_read_in_chunks(experts: Experts, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(30, 1, captions=3)
    real = begin(split, experts, objective="projector").objective.real  # type: ignore[attr-defined]
    whole = projectors_of(real, 0.5)
    assert len(whole) == 3
    image, text = real_of(split, 1, 3)
    np.testing.assert_allclose(whole[1][1].numpy(), written_out(text, image, 0.5), rtol=2e-3, atol=1e-4)
    monkeypatch.setattr("raydd.distill.objectives.real_pairs._CHUNK", 7)
    for one, other in zip(projectors_of(real, 0.5), whole, strict=True):
        torch.testing.assert_close(one, other)
