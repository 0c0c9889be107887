"""How far a row's r_mean may be from what other draws would give: a bootstrap over sets, students and test images."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from raydd.evaluate.retrieval import HITS, KS

RESAMPLES, CONFIDENCE = 2000, 95  # percent
_CAPTIONS, _IR, _TR = 0, slice(1, 1 + len(KS)), slice(1 + len(KS), len(HITS))


def r_mean_interval(sets: Sequence[Int[NDArray, "S I 7"]], seed: int = 0) -> tuple[float, float]:
    """The interval that holds r_mean in 95 of 100 resamples, in percent.

    Each resample draws, with replacement, as many sets as there are, as many students of each, and as many images with
    their captions, the same ones for all students. The candidates among which is searched stay. A row of one set varies
    by students and images alone, which is too little: another set is what changes most.

    Args:
        sets: what each student of each set found, see `raydd.evaluate.retrieval.HITS`; of the same images.
        seed: of the resampling.
    """
    random = np.random.default_rng(seed)
    images = sets[0].shape[1]
    drawn = random.multinomial(images, np.full(images, 1 / images), size=RESAMPLES).astype(np.float32)
    scores = [_resampled(hits, drawn) for hits in sets]
    means = np.zeros(RESAMPLES)
    every = np.arange(RESAMPLES)
    for _ in sets:
        chosen = random.integers(len(sets), size=RESAMPLES)
        for number, own in enumerate(scores):
            here = chosen == number
            students = random.integers(len(own), size=(int(here.sum()), len(own)))
            means[here] += own[students, every[here, None]].mean(1)
    low, high = np.percentile(means / len(sets), [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2])
    return float(low), float(high)


def _resampled(hits: Int[NDArray, "S I 7"], drawn: Float[NDArray, "R I"]) -> Float[NDArray, "S R"]:
    """r_mean of each student in each resample of the images, given how often each image was drawn."""
    captions = drawn @ hits[0, :, _CAPTIONS].astype(np.float32)
    of_captions, of_images = (hits[:, :, part].mean(2).astype(np.float32) @ drawn.T for part in (_IR, _TR))
    return 50 * (of_captions / captions + of_images / drawn.shape[1])
