"""Decides which trials are stopped early, only from the results at rungs that the study has of every trial.

So a driver that takes over stops the same trials as the driver before it would have. The rules are those of Optuna's
pruners (a test compares them), except that successive halving ignores differences within the noise. Optuna's own
pruners are not used for two reasons: they do not support several objectives, and they count a trial that was
interrupted and queued again twice, and put it into another bracket.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import wilcoxon

from raydd.cluster.trial_report import TrialReport
from raydd.config import SweepConfig
from raydd.evaluate.significance import spearman
from raydd.tuning import study as studies
from raydd.tuning.prices import END

REDUCTION = 3  # one in three trials at a rung continues; the rungs at 5, 15 and 45 percent have the same ratio
NOISE = 1.0  # points that other start pairs change: with few trials, a smaller lead does not count as better
FIRST_COMPLETE = 4  # trials that the median rule lets run to completion before it stops any
NEAR = 1.05  # up to this many times another trial's seconds count as equal, since measured times vary
WORSE = 0.1  # p of Wilcoxon's signed-rank test below which a trial's students are worse than the best trial's
_RUNG = "rung "  # prefix of a trial's user attributes: one for each rung, with the trial's results there


@dataclass(frozen=True)
class Look:
    """The results of a trial at a rung, or at its end."""

    r_mean: float
    """Val r_mean in percent, by the rung's own scoring, so that it can only be compared within one rung."""
    seconds: float = 0.0
    """Seconds of the distillation so far."""
    bytes: float = 0.0
    """Size of the synthetic set."""
    students: tuple[float, ...] = ()
    """Val r_mean of each student seed, or of the closed-form student alone."""
    weak: bool = False
    """Whether the trial was stopped here."""

    def beats(self, other: Self, objectives: Sequence[str], *, margin: float = 0.0) -> bool:
        """Whether this trial has a higher r_mean and is not worse in the sweep's other objectives, seconds or bytes.

        Args:
            other: results of another trial at the same rung.
            objectives: objectives of the sweep.
            margin: points by which r_mean must be higher.
        """
        no_dearer = self.seconds <= NEAR * other.seconds or "seconds" not in objectives
        no_larger = self.bytes <= other.bytes or "bytes" not in objectives
        return self.r_mean > other.r_mean + margin and no_dearer and no_larger


@dataclass(frozen=True)
class Standing:
    """The results so far of a trial's settings, over all trials of the study that ran them."""

    number: int
    """The number under which the settings were first tried."""
    looks: Mapping[int, Look] = field(default_factory=dict)
    """Results by rung, in percent of the steps."""
    end: Look | None = None
    """Results at the end, once the trial is complete."""


Rule = Callable[[Standing, Sequence[Standing], int, SweepConfig], bool]
"""Whether a trial is weak, given the trial, all others, the rung that it has reached, and the sweep's settings."""


class Pruning:
    """A sweep's pruner. Its whole state is in the study; trials that have ended are read only once."""

    def __init__(self, study: optuna.Study, settings: SweepConfig) -> None:
        """Create the pruner, without reading the study yet.

        Args:
            study: the sweep's study.
            settings: `pruner`, `rungs` and `objectives` are read.
        """
        self._study, self._settings = study, settings
        self._ended: dict[int, Standing] = {}
        self._read_numbers: set[int] = set()

    def stops(self, trial: optuna.Trial, report: TrialReport) -> bool:
        """Save a running trial's results at a rung in the study, and return whether to stop the trial there.

        A trial that repeats a rung, because its process or its driver died, gets the earlier decision. Reports that are
        not at a rung do not stop a trial.
        """
        if not report.rung or report.finished or report.failure:
            return False
        standings, number = self.standings(), studies.identity(trial)
        standing = standings.pop(number)
        if earlier_look := standing.looks.get(report.rung):
            return earlier_look.weak
        look = Look(report.r_mean, report.seconds, report.bytes, tuple(report.students))
        standing = replace(standing, looks={**standing.looks, report.rung: look})
        weak = is_weak(standing, list(standings.values()), report.rung, self._settings)
        if len(self._settings.objectives) == 1 and math.isfinite(look.r_mean):  # Optuna's reports allow one objective
            trial.report(look.r_mean, report.rung)
        trial.set_user_attr(f"{_RUNG}{report.rung}", asdict(replace(look, weak=weak)))
        return weak

    def standings(self) -> dict[int, Standing]:
        """Return the results so far of all settings, by the number under which they were first tried.

        Results of an interrupted trial stay valid until the same settings reach the same rung again.
        """
        running: dict[int, Standing] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.number in self._read_numbers:
                continue
            number = studies.identity(trial)
            earlier = running.get(number) or self._ended.get(number) or Standing(number)
            standing = Standing(number, {**earlier.looks, **_looks_of(trial)}, self._final_look(trial))
            if trial.state.is_finished():
                self._ended[number] = standing
                self._read_numbers.add(trial.number)
            else:
                running[number] = standing
        return {**self._ended, **running}

    def _final_look(self, trial: FrozenTrial) -> Look | None:
        if trial.state != TrialState.COMPLETE:
            return None
        return Look(**dict(zip(self._settings.objectives, trial.values, strict=True)))


@dataclass(frozen=True)
class RungForecast:
    """How well the scores at a rung predicted the final scores, over the trials that ran to completion."""

    rung: int
    """Percent of the steps."""
    trials: int
    """Complete trials with a score at the rung."""
    correlation: float | None
    """Spearman's correlation of r_mean at the rung and at the end; None for fewer than three trials."""
    place: int
    """Place at the rung, from 1, of the trial that was the best at the end."""


def rung_forecasts(study: optuna.Study, objectives: Sequence[str]) -> list[RungForecast]:
    """Return how well each rung predicted the final scores.

    Stopped trials have no final score and are left out, so the result says less if the pruner is strict.
    """
    settings = SweepConfig(objectives=tuple(objectives))  # type: ignore[arg-type]
    complete = [standing for standing in Pruning(study, settings).standings().values() if standing.end]
    forecasts = []
    for rung in sorted({rung for standing in complete for rung in standing.looks}):
        scores = [
            (standing.looks[rung].r_mean, standing.end.r_mean)
            for standing in complete
            if standing.end and rung in standing.looks
        ]
        rung_scores, end_scores = zip(*scores, strict=True)
        winner = rung_scores[end_scores.index(max(end_scores))]
        forecasts.append(
            RungForecast(
                rung,
                len(scores),
                spearman(rung_scores, end_scores),
                1 + sum(score > winner for score in rung_scores),
            )
        )
    return forecasts


def passed_rungs(study: optuna.Study, number: int) -> list[int]:
    """Return the rungs that settings passed before an interruption, where they are not scored or judged again.

    Args:
        study: the sweep's study.
        number: number under which the settings were first tried.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if studies.identity(trial) == number]
    return sorted({rung for trial in trials for rung, look in _looks_of(trial).items() if not look.weak})


def _looks_of(trial: FrozenTrial) -> dict[int, Look]:
    rung_attrs = {name: value for name, value in trial.user_attrs.items() if name.startswith(_RUNG)}
    return {
        int(name.removeprefix(_RUNG)): Look(**{**value, "students": tuple(value["students"])})
        for name, value in rung_attrs.items()
    }


def is_weak(standing: Standing, others: Sequence[Standing], rung: int, settings: SweepConfig) -> bool:
    """Whether the sweep's pruner stops a trial at a rung. A trial whose score is not finite is always stopped."""
    rules: dict[str, Rule] = {
        "hyperband": _weak_in_bracket,
        "asha": _not_in_best_fraction,
        "median": _below_median,
        "wilcoxon": _worse_students,
        "none": lambda standing, others, rung, settings: False,
    }
    others = [_without_other_scoring(other, standing.looks[rung], rung) for other in others]
    return not math.isfinite(standing.looks[rung].r_mean) or rules[settings.pruner](standing, others, rung, settings)


def _without_other_scoring(other: Standing, look: Look, rung: int) -> Standing:
    """Return another trial, without its results at a rung if they were scored differently.

    This happens if the sweep's settings for scoring have changed since.
    """
    other_look = other.looks.get(rung)
    if other_look is None or len(other_look.students) == len(look.students):
        return other
    return replace(
        other, looks={other_rung: rung_look for other_rung, rung_look in other.looks.items() if other_rung != rung}
    )


def simulate_trial(
    standing: Standing, look_at_rung: Callable[[int], Look], others: Sequence[Standing], settings: SweepConfig
) -> tuple[Standing, int]:
    """Simulate a trial until it is stopped or ends.

    Args:
        standing: the trial, before its first rung.
        look_at_rung: returns the trial's results at a rung.
        others: all other trials.
        settings: `pruner`, `rungs` and `objectives` are read.

    Returns:
        The trial with its results, and the rung where it was stopped, or `END`.
    """
    for rung in settings.rungs:
        standing = replace(standing, looks={**standing.looks, rung: look_at_rung(rung)})
        if is_weak(standing, others, rung, settings):
            return standing, rung
    return standing, END


def _not_in_best_fraction(standing: Standing, others: Sequence[Standing], rung: int, settings: SweepConfig) -> bool:
    """Asynchronous successive halving (ASHA, Li et al. 2020): the best third of the trials at a rung continue.

    While there are few trials, only the best one is in that third. Trials that are worse by no more than the noise
    continue too: otherwise the second trial would be stopped for being a tenth of a point worse. The more trials
    continue anyway, the less noise is allowed: if most trials are neighbours of the best one, a margin of a whole point
    would stop none. A trial's rank is the number of trials that beat it. With several objectives, no trial beats a
    trial of the Pareto front, so a trial of the front always continues.
    """
    looks = [other.looks[rung] for other in others if rung in other.looks]
    promoted = max(1, (len(looks) + 1) // REDUCTION)
    beaten_by = sum(look.beats(standing.looks[rung], settings.objectives, margin=NOISE / promoted) for look in looks)
    return beaten_by >= promoted


def _weak_in_bracket(standing: Standing, others: Sequence[Standing], rung: int, settings: SweepConfig) -> bool:
    """Hyperband (Li et al. 2018): trials are assigned to brackets, and bracket b ignores the first b rungs.

    Trials compete only within their bracket. A bracket with more rungs gets more trials.
    """
    bracket = bracket_of(standing.number, len(settings.rungs))
    if rung not in sorted(settings.rungs)[bracket:]:
        return False
    competitors = [other for other in others if bracket_of(other.number, len(settings.rungs)) == bracket]
    return _not_in_best_fraction(standing, competitors, rung, settings)


def bracket_of(number: int, brackets: int) -> int:
    """Return a trial's bracket, drawn from its number by Hyperband's shares, n eta^s / (s + 1) for s further rungs."""
    shares = [math.ceil(brackets * REDUCTION**further / (further + 1)) for further in reversed(range(brackets))]
    hashed = zlib.crc32(str(number).encode()) % sum(shares)
    return next(bracket for bracket in range(brackets) if hashed < sum(shares[: bracket + 1]))


def _below_median(standing: Standing, others: Sequence[Standing], rung: int, settings: SweepConfig) -> bool:
    """The median rule (Golovin et al. 2017): the trial is below the median of the complete trials at the same rung.

    With several objectives: more than half of the complete trials had a higher r_mean there at no higher cost.
    """
    complete = [other.looks[rung] for other in others if other.end and rung in other.looks]
    if sum(other.end is not None for other in others) < FIRST_COMPLETE or not complete:
        return False
    if len(settings.objectives) == 1:
        return standing.looks[rung].r_mean < float(np.median([look.r_mean for look in complete]))
    return 2 * sum(look.beats(standing.looks[rung], settings.objectives) for look in complete) > len(complete)


def _worse_students(standing: Standing, others: Sequence[Standing], rung: int, settings: SweepConfig) -> bool:
    """Wilcoxon's signed-rank test of a trial's students against those of the best complete trial, over all rungs.

    Students are paired by seed, at all rungs so far. With several objectives, the best trial is chosen among the
    complete trials that beat this one at this rung.
    """
    rivals = [other for other in others if other.end and rung in other.looks]
    if len(settings.objectives) > 1:
        rivals = [other for other in rivals if other.looks[rung].beats(standing.looks[rung], settings.objectives)]
    if not rivals:
        return False
    best = max(rivals, key=lambda other: other.end.r_mean if other.end else -math.inf)
    shared_rungs = [own_rung for own_rung in standing.looks if own_rung in best.looks]
    own_scores, best_scores = (np.array(list(_student_scores(trial, shared_rungs))) for trial in (standing, best))
    if len(own_scores) != len(best_scores) or len(own_scores) < 2 or own_scores.mean() >= best_scores.mean():
        return False
    test: Any = wilcoxon(own_scores - best_scores, alternative="less", zero_method="zsplit")
    return bool(test.pvalue < WORSE)


def _student_scores(standing: Standing, rungs: Iterable[int]) -> Iterable[float]:
    for rung in rungs:
        yield from standing.looks[rung].students
