"""Scores the best trials again with new draws, since the highest of many noisy scores is biased upwards.

The draw of start pairs and minibatches changes val r_mean more than most settings do, so the trial with the best score
is partly the luckiest one. The best few trials are therefore distilled again from other start pairs and scored by
other students. They are ranked by the mean over the new draws only, since no choice was based on these draws. This
mean is reported with its standard error.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
import ray

from raydd import stages
from raydd.cluster.connect import outcomes
from raydd.cluster.graceful_exit import exit_waits
from raydd.cluster.sharing import Shared, shared_work
from raydd.config import Config
from raydd.config.sweep import TRIAL_SEEDS
from raydd.protocols import trial_settings
from raydd.settings import with_settings
from raydd.tuning.finals import RESTARTS, Candidate

_DRAWS = "draws"


def draws_of(study: optuna.Study) -> dict[int, list[float]]:
    """Return the val r_mean of each new draw, by the number of the trial."""
    return {int(number): scores for number, scores in study.user_attrs.get(_DRAWS, {}).items()}


def standard_error(scores: Sequence[float], all_scores: Sequence[Sequence[float]]) -> float:
    """Return the standard error of a mean over draws. The variance is pooled over all trials, since each has few draws.

    Args:
        scores: scores of the trial's draws.
        all_scores: scores of the draws of every trial that was drawn again, including this one.

    Returns:
        The standard error in points; NaN if no trial has two draws.
    """
    degrees_of_freedom = sum(len(draws) - 1 for draws in all_scores if draws)
    if not degrees_of_freedom or not scores:
        return math.nan
    squares = sum((len(draws) - 1) * statistics.variance(draws) for draws in all_scores if len(draws) > 1)
    return math.sqrt(squares / degrees_of_freedom / len(scores))


def draw_again(
    study: optuna.Study,
    base: Config,
    candidates: Sequence[Candidate],
    shared: Shared,
    *,
    cpus: float,
    say: Callable[[str], None],
    on_wait: Callable[[], None] = lambda: None,
) -> None:
    """Score each candidate with `sweep.draws` new draws, side by side, and save the scores in the study.

    Candidates whose new draws are in the study already are skipped. If a draw fails, for example because its students
    diverge, its trial stays without new draws and ranks after the trials that have them.

    Args:
        study: the sweep's study.
        base: the settings that the trials shared.
        candidates: the best trials.
        shared: what the driver gives to all its workers.
        cpus: CPU cores of a draw.
        say: called with a message for each failure.
        on_wait: called about once a second while draws run.
    """
    saved_scores, draw_count = draws_of(study), base.sweep.draws
    task = ray.remote(num_cpus=cpus, num_gpus=base.sweep.gpu_share, max_retries=RESTARTS)(score_draw)
    waiting = {
        task.remote(base, candidate.number, candidate.settings, draw, shared): (candidate.number, draw)
        for candidate in candidates
        if len(saved_scores.get(candidate.number, ())) < draw_count
        for draw in range(1, draw_count + 1)
    }
    new_scores: dict[int, dict[int, float]] = {}
    for (number, draw), r_mean, reason in outcomes(waiting, on_wait):
        if reason:
            say(f"a new draw of trial {number} failed: {reason}")
            continue
        scores = new_scores.setdefault(number, {})
        scores[draw] = r_mean
        if len(scores) == draw_count:  # no draw failed
            saved_scores[number] = [scores[draw_number] for draw_number in sorted(scores)]
            study.set_user_attr(_DRAWS, {str(trial_number): scores for trial_number, scores in saved_scores.items()})


@exit_waits()
def score_draw(base: Config, number: int, settings: Mapping[str, Any], draw: int, shared: Shared) -> float:
    """Return the val r_mean of a trial with other start pairs, minibatches and students. Runs in a Ray worker."""
    config = with_settings(base, {**settings, **trial_settings(base)})
    config = with_settings(config, {"distill.seed": config.distill.seed + draw})
    with shared_work(config, f"trial {number}, draw {draw}", shared) as work:
        students = range(draw * TRIAL_SEEDS, (draw + 1) * TRIAL_SEEDS)
        return stages.score_students(work, stages.final_synthetic(work), split="val", seeds=students).mean["r_mean"]
