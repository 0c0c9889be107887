"""Significance of differences between table rows: paired t-tests over sets, corrected for the number of tests.

Also the rank correlation of two scores of the same things.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy.stats import spearmanr, ttest_1samp, ttest_rel

LEVEL = 0.05  # a difference with a smaller p counts as significant


def p_values_against_best(rows: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Return the p value of each row against the row with the best mean, which is left out itself.

    The seed of set s decides its start pairs and the order of experts, alike in every row. So rows are compared by a
    paired test, over the sets that both have. p is two-sided, and corrected after Holm (1979) over all pairs of rows:
    the scores that are tested also choose the best row, which may be any of them. Corrected over the tests against the
    best row alone, 13 of 100 tables of twelve equal rows would call one of them worse. A row that is not below the best
    row on their common sets has p = 1. A row with fewer than two sets in common has no p.

    Args:
        rows: each row's scores by set number; higher is better.
    """
    best, *others = sorted(rows, key=lambda name: float(np.mean(list(rows[name].values()))), reverse=True)
    p_values = {}
    for better, worse in combinations((best, *others), 2):
        common_sets = sorted(rows[better].keys() & rows[worse].keys())
        if len(common_sets) > 1:
            scores = [[rows[name][number] for number in common_sets] for name in (better, worse)]
            p_values[better, worse] = paired_p(*scores) if np.mean(scores[0]) > np.mean(scores[1]) else 1.0
    corrected = _correct_by_holm(p_values)
    return {name: corrected[best, name] for name in others if (best, name) in corrected}


def paired_p(first_scores: Sequence[float], second_scores: Sequence[float]) -> float:
    """Return the two-sided p of a paired t-test. If all differences are equal, p is 0, or 1 if all are zero."""
    differences = np.subtract(first_scores, second_scores)
    if np.ptp(differences) < 1e-9:
        return 1.0 if abs(differences[0]) < 1e-9 else 0.0
    return float(ttest_rel(first_scores, second_scores).pvalue)


def rises(differences: Sequence[float]) -> bool | None:
    """Return whether the mean difference is above 0 by a one-sided t-test; None for fewer than two differences."""
    if len(differences) < 2:
        return None
    if np.ptp(differences) < 1e-9:
        return differences[0] > 1e-9
    return bool(ttest_1samp(differences, 0.0, alternative="greater").pvalue < LEVEL)  # type: ignore[attr-defined]


def spearman(first_scores: Sequence[float], second_scores: Sequence[float]) -> float | None:
    """Spearman's rank correlation of two scores; None for fewer than three values, or if one score never varies."""
    if len(first_scores) < 3 or np.ptp(first_scores) == 0 or np.ptp(second_scores) == 0:
        return None
    return float(spearmanr(first_scores, second_scores)[0])  # type: ignore[arg-type]


def _correct_by_holm(p_values: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    corrected, largest = {}, 0.0
    for rank, pair in enumerate(sorted(p_values, key=lambda pair: p_values[pair])):
        largest = max(largest, min(1.0, p_values[pair] * (len(p_values) - rank)))
        corrected[pair] = largest
    return corrected
