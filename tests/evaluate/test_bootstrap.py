import numpy as np
import pytest
from torch import from_numpy

from raydd.evaluate.bootstrap import r_mean_interval
from raydd.evaluate.retrieval import HITS, scores_of_hits

IMAGES, CAPTIONS = 400, 5


def found(rate: float, students: int, seed: int, images: int = IMAGES) -> np.ndarray:
    """Students that find each of their queries with the same chance."""
    random = np.random.default_rng(seed)
    of_captions = random.binomial(CAPTIONS, rate, (students, images, 3))
    of_images = random.binomial(1, rate, (students, images, 3))
    return np.concatenate([np.full((students, images, 1), CAPTIONS), of_captions, of_images], axis=2)


def test_one_student_of_one_set_varies_by_the_images_alone() -> None:
    hits = found(0.3, 1, 0)
    low, high = np.mean([r_mean_interval([hits], seed) for seed in range(10)], axis=0)
    each = 50 * (hits[0, :, 1:4].mean(1) / CAPTIONS + hits[0, :, 4:].mean(1))  # an image's part of r_mean
    r_mean, error = scores_of_hits(from_numpy(hits[0]))["r_mean"], each.std() / np.sqrt(IMAGES)
    assert (low, high) == pytest.approx((r_mean - 1.96 * error, r_mean + 1.96 * error), abs=0.1 * error)


def test_images_with_more_captions_count_for_more() -> None:
    hits = found(0.3, 1, 0, images=2)
    hits[0] = [[9, 9, 9, 9, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    low, high = r_mean_interval([hits])
    assert len(HITS) == hits.shape[2]
    assert (low, high) == (0, 50)  # one image twice
    assert scores_of_hits(from_numpy(hits[0]))["r_mean"] == pytest.approx(45)


def test_sets_that_differ_widen_the_interval() -> None:
    alike = [found(0.3, 3, seed) for seed in range(4)]
    apart = [found(rate, 3, seed) for seed, rate in enumerate((0.1, 0.2, 0.4, 0.5))]
    (low, high), (lowest, highest) = r_mean_interval(alike), r_mean_interval(apart)
    spread = np.std([10, 20, 40, 50]) / 2  # of a mean of four sets
    assert highest - lowest == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert high - low < (highest - lowest) / 4


def test_the_same_rows_give_the_same_interval() -> None:
    sets = [found(0.3, 2, 0), found(0.4, 2, 1)]
    assert r_mean_interval(sets) == r_mean_interval(sets)
