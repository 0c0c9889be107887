"""Scores of several student seeds: each seed's, their mean and standard deviation."""

import statistics
from dataclasses import dataclass
from typing import Any

from raydd.evaluate.retrieval import METRICS

TRIAL_SEEDS = 3  # students that score a trial; enough to rank trials, while the finals take `evaluate.seeds`


@dataclass(frozen=True)
class Scores:
    """Retrieval scores in percent, one dictionary a student seed."""

    seeds: tuple[dict[str, float], ...]

    @property
    def mean(self) -> dict[str, float]:
        """Mean over seeds of each metric."""
        return {metric: statistics.fmean(seed[metric] for seed in self.seeds) for metric in METRICS}

    @property
    def std(self) -> dict[str, float]:
        """Standard deviation over seeds (n - 1), 0 for one seed."""
        if len(self.seeds) == 1:
            return dict.fromkeys(METRICS, 0.0)
        return {metric: statistics.stdev(seed[metric] for seed in self.seeds) for metric in METRICS}

    def as_json(self) -> dict[str, Any]:
        """`{"r_mean": {"mean": …, "std": …, "seeds": […]}, …}`, metric by metric."""
        mean, std = self.mean, self.std
        return {
            metric: {"mean": mean[metric], "std": std[metric], "seeds": [seed[metric] for seed in self.seeds]}
            for metric in reversed(METRICS)
        }
