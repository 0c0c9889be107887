"""The finals: distils the best trials again as `distill.images` says, and scores them on val and then on test.

All student seeds are used.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from raydd import stages
from raydd.cluster.connect import outcomes
from raydd.cluster.graceful_exit import exit_waits
from raydd.cluster.sharing import Shared, shared_work
from raydd.config import Config
from raydd.evaluate.significance import spearman
from raydd.settings import with_settings

RESTARTS = 2  # of a final whose process or node died


@dataclass(frozen=True)
class Candidate:
    """A trial that may become a finalist."""

    number: int
    settings: Mapping[str, Any]
    cheap: float
    """Its val r_mean as a trial."""
    draws: tuple[float, ...] = ()
    """Val r_mean of each of its new draws, if it was drawn again."""
    error: float = math.nan
    """Standard error of the mean over the new draws."""

    @property
    def r_mean(self) -> float:
        """The mean over its new draws; without new draws, its score as a trial."""
        return statistics.fmean(self.draws) if self.draws else self.cheap

    def in_words(self) -> str:
        """Return the score in words, with its standard error if it is known."""
        if not self.draws:
            return f"{self.cheap:.2f} (one distillation, the best of many)"
        error = "" if math.isnan(self.error) else f" ± {self.error:.2f}"
        return f"{self.r_mean:.2f}{error} (mean of {len(self.draws)} new draws; {self.cheap:.2f} as a trial)"


@dataclass(frozen=True)
class Finalist:
    """The result of a candidate's final. Scores by metric: mean, std and seeds, in percent."""

    number: int
    settings: Mapping[str, Any]
    cheap: float
    val: Mapping[str, Any]
    test: Mapping[str, Any]
    record: str
    """Folder of its synthetic set in the store."""
    r_mean: float
    """Mean val r_mean, by which finalists are ranked."""


def run_finals(
    base: Config,
    candidates: Sequence[Candidate],
    shared: Shared,
    *,
    cpus: float,
    on_end: Callable[[Candidate, Finalist | None, str], None],
    on_wait: Callable[[], None] = lambda: None,
) -> list[Finalist]:
    """Run the finals of all candidates side by side.

    Args:
        base: the settings that the trials shared; `distill.images` and `evaluate.seeds` are those of finals.
        candidates: the trials to run as finals.
        shared: what the driver gives to all its workers.
        cpus: CPU cores of a final.
        on_end: called with each candidate and its result, or with None and the reason why it failed.
        on_wait: called about once a second while finals run.

    Returns:
        The finalists that did not fail, the best on val first; of equal ones, the lower number first.
    """
    task = ray.remote(num_cpus=cpus, num_gpus=share_of_final(base), max_retries=RESTARTS)(score_finalist)
    waiting = {task.remote(base, candidate, shared): candidate for candidate in candidates}
    finalists: list[Finalist] = []
    for candidate, finalist, reason in outcomes(waiting, on_wait):
        finalists += [finalist] if finalist else []
        on_end(candidate, finalist, reason)
    return sorted(finalists, key=lambda finalist: (-finalist.r_mean, finalist.number))


def share_of_final(base: Config) -> float:
    """Return the GPUs of a final: those of a trial, but at least a whole GPU if pixels are learned, which fill it."""
    share = base.sweep.gpu_share
    return max(share, 1.0) if share > 0 and base.distill.images != "features" else share


@exit_waits()
def score_finalist(base: Config, candidate: Candidate, shared: Shared) -> Finalist:
    """Make a candidate's synthetic set and score it on val and test; runs in a Ray worker."""
    config = with_settings(base, candidate.settings)
    with shared_work(config, f"final {candidate.number}", shared) as work:
        val, test = stages.synthetic_scores(work, "val"), stages.synthetic_scores(work, "test")
        record = stages.synthetic_record(work)
    return Finalist(
        candidate.number,
        candidate.settings,
        candidate.cheap,
        val.as_json(),
        test.as_json(),
        record.folder,
        r_mean=val.for_choice,
    )


def rank_correlation(finalists: Sequence[Finalist]) -> float | None:
    """Return Spearman's correlation of val scores as trials and as finals; None for fewer than three finalists."""
    return spearman([finalist.cheap for finalist in finalists], [finalist.r_mean for finalist in finalists])
