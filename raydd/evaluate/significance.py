"""Significance of differences between table rows: paired t-tests over sets, corrected for the number of tests.

Also the rank correlation of two scores of the same things.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr, ttest_1samp, ttest_rel

LEVEL = 0.05  # a difference with a smaller p counts as significant


def p_values_against_best(rows: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Return the p value of each row against the row with the best mean, which is left out itself.

    The seed of set s decides its start pairs and the order of experts, alike in every row. So each row is compared with
    the best row by a paired test, over the sets that both have. p is two-sided and corrected after Holm (1979). A row
    that is not below the best row on these sets has p = 1. A row with fewer than two sets in common has no p.

    Args:
        rows: each row's scores by set number; higher is better.
    """
    best = max(rows, key=lambda name: float(np.mean(list(rows[name].values()))))
    p_values = {}
    for name in rows:
        common_sets = sorted(rows[name].keys() & rows[best].keys())
        if name != best and len(common_sets) > 1:
            best_scores, row_scores = ([rows[row][number] for number in common_sets] for row in (best, name))
            p_values[name] = paired_p(best_scores, row_scores) if np.mean(best_scores) > np.mean(row_scores) else 1.0
    return _correct_by_holm(p_values)


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


def _correct_by_holm(p_values: Mapping[str, float]) -> dict[str, float]:
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, p_values[name] * (len(p_values) - rank)))
        corrected[name] = largest
    return corrected
