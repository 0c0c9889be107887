"""Confidence interval of the r_mean of a table row, by a bootstrap over its sets, students and test images."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from raydd.evaluate.retrieval import HITS, KS

RESAMPLES, CONFIDENCE = 2000, 95  # percent
_CAPTIONS, _IR, _TR = 0, slice(1, 1 + len(KS)), slice(1 + len(KS), len(HITS))


def r_mean_interval(sets: Sequence[Int[NDArray, "S I 7"]], seed: int = 0) -> tuple[float, float]:
    """Return the bounds, in percent, between which r_mean lies in 95 of 100 resamples.

    Each resample draws with replacement: as many sets as there are, as many students of each drawn set, and as many
    images with their captions. The drawn images are the same for all students. The candidates that a query is compared
    with are not resampled. The interval of a row with one set is too narrow: it varies only students and images, but
    r_mean changes most from set to set.

    Args:
        sets: the hits of each student of each set, see `raydd.evaluate.retrieval.HITS`; all on the same images.
        seed: seed of the resampling.
    """
    random = np.random.default_rng(seed)
    images = sets[0].shape[1]
    image_counts = random.multinomial(images, np.full(images, 1 / images), size=RESAMPLES).astype(np.float32)
    scores = [_resampled_r_mean(hits, image_counts) for hits in sets]
    means = np.zeros(RESAMPLES)
    resamples = np.arange(RESAMPLES)
    for _ in sets:
        drawn_set = random.integers(len(sets), size=RESAMPLES)
        for number, student_scores in enumerate(scores):
            drawn_here = drawn_set == number
            students = random.integers(len(student_scores), size=(int(drawn_here.sum()), len(student_scores)))
            means[drawn_here] += student_scores[students, resamples[drawn_here, None]].mean(1)
    low, high = np.percentile(means / len(sets), [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2])
    return float(low), float(high)


def _resampled_r_mean(hits: Int[NDArray, "S I 7"], image_counts: Float[NDArray, "R I"]) -> Float[NDArray, "S R"]:
    """r_mean of each student in each resample of the images, given how often each image was drawn."""
    captions = image_counts @ hits[0, :, _CAPTIONS].astype(np.float32)
    caption_hits, image_hits = (
        hits[:, :, columns].mean(2).astype(np.float32) @ image_counts.T for columns in (_IR, _TR)
    )
    return 50 * (caption_hits / captions + image_hits / image_counts.shape[1])
