"""Which trials are stopped early: decided from what the study has of every trial at its rungs, and from nothing else.

So a driver that takes over stops what the one before it would have stopped. The rules are those of Optuna's pruners,
which a test holds them to, but that successive halving overlooks what is noise. They are written here since Optuna's
own have no several objectives, count a trial that was interrupted and asked again twice, and give it another bracket.
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

REDUCTION = 3  # of the trials at a rung one in so many goes on; rungs at 5, 15 and 45 percent are as far apart
NOISE = 1.0  # points that other start pairs move: of few trials, one that is better by less does not count as better
FIRST_COMPLETE = 4  # trials that the median rule lets run to their end before it stops any
NEAR = 1.05  # times the seconds of another trial are no more than its: they are measured, and differ by themselves
WORSE = 0.1  # p of Wilcoxon's signed-rank test below which a trial's students are worse than the best trial's
_RUNG = "rung "  # user attributes of a trial: one a rung, with what it had there


@dataclass(frozen=True)
class Look:
    """What a trial had at a rung, or at its end."""

    r_mean: float
    """Val r_mean in percent, by the rung's own scoring: comparable at one rung alone."""
    seconds: float = 0.0
    """Seconds of the distillation so far."""
    bytes: float = 0.0
    """Size of the synthetic set."""
    students: tuple[float, ...] = ()
    """Val r_mean of each student seed, or of the closed-form student alone."""
    weak: bool = False
    """Whether the trial was stopped here."""

    def beats(self, other: Self, objectives: Sequence[str], *, by: float = 0.0) -> bool:
        """Whether this has a higher r_mean, and no other objective of the sweep is worse: bytes, or seconds by much.

        Args:
            other: what another trial had at the same rung.
            objectives: the sweep's.
            by: points of r_mean that do not count yet.
        """
        no_dearer = self.seconds <= NEAR * other.seconds or "seconds" not in objectives
        no_larger = self.bytes <= other.bytes or "bytes" not in objectives
        return self.r_mean > other.r_mean + by and no_dearer and no_larger


@dataclass(frozen=True)
class Standing:
    """How far the settings of a trial have come, under whichever number the study ran them last."""

    number: int
    """The number under which they were first tried."""
    looks: Mapping[int, Look] = field(default_factory=dict)
    """By rung, in percent of the steps."""
    end: Look | None = None
    """At the end, once the trial is complete."""


Rule = Callable[[Standing, Sequence[Standing], int, SweepConfig], bool]
"""Whether a trial is weak: itself, all others, the rung that it has reached, the sweep's settings."""


class Pruning:
    """A sweep's pruner: all that it knows is the study's; what no longer changes there it reads once."""

    def __init__(self, study: optuna.Study, settings: SweepConfig) -> None:
        """Nothing is read yet.

        Args:
            study: the sweep's.
            settings: `pruner`, `rungs` and `objectives` are read.
        """
        self._study, self._settings = study, settings
        self._over: dict[int, Standing] = {}
        self._read: set[int] = set()

    def stops(self, trial: optuna.Trial, report: TrialReport) -> bool:
        """Keep what a running trial has at a rung in the study, and say whether it is to be stopped there.

        A trial that repeats itself, since its process or its driver died, is told what was decided before. One that
        reports at no rung goes on.
        """
        if not report.rung or report.finished or report.failure:
            return False
        everyone, number = self.standings(), studies.identity(trial)
        own = everyone.pop(number)
        if before := own.looks.get(report.rung):
            return before.weak
        look = Look(report.r_mean, report.seconds, report.bytes, tuple(report.students))
        own = replace(own, looks={**own.looks, report.rung: look})
        weak = is_weak(own, list(everyone.values()), report.rung, self._settings)
        if len(self._settings.objectives) == 1 and math.isfinite(look.r_mean):  # Optuna has none of several
            trial.report(look.r_mean, report.rung)
        trial.set_user_attr(f"{_RUNG}{report.rung}", asdict(replace(look, weak=weak)))
        return weak

    def standings(self) -> dict[int, Standing]:
        """How far all settings have come, by the number under which they were first tried.

        What an interrupted trial had at its rungs holds until the same settings come there again.
        """
        running: dict[int, Standing] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.number in self._read:
                continue
            number = studies.identity(trial)
            before = running.get(number) or self._over.get(number) or Standing(number)
            standing = Standing(number, {**before.looks, **_looks(trial)}, self._end(trial))
            if trial.state.is_finished():
                self._over[number] = standing
                self._read.add(trial.number)
            else:
                running[number] = standing
        return {**self._over, **running}

    def _end(self, trial: FrozenTrial) -> Look | None:
        if trial.state != TrialState.COMPLETE:
            return None
        return Look(**dict(zip(self._settings.objectives, trial.values, strict=True)))


@dataclass(frozen=True)
class Foretold:
    """How well what trials had at a rung foretold their end, over those that came to it."""

    rung: int
    """Percent of the steps."""
    trials: int
    """Complete trials with a score at the rung."""
    correlation: float | None
    """Spearman's of the rung's r_mean and the end's; None for fewer than three trials."""
    place: int
    """The place at the rung, from 1, of the trial that was the best at the end."""


def foretold(study: optuna.Study, objectives: Sequence[str]) -> list[Foretold]:
    """How well each rung foretold the end. Trials that were stopped have no end, so a strict pruner hides much."""
    settings = SweepConfig(objectives=tuple(objectives))  # type: ignore[arg-type]
    ended = [one for one in Pruning(study, settings).standings().values() if one.end]
    rows = []
    for rung in sorted({rung for one in ended for rung in one.looks}):
        pairs = [(one.looks[rung].r_mean, one.end.r_mean) for one in ended if one.end and rung in one.looks]
        then, end = zip(*pairs, strict=True)
        best = then[end.index(max(end))]
        rows.append(Foretold(rung, len(pairs), spearman(then, end), 1 + sum(score > best for score in then)))
    return rows


def passed_rungs(study: optuna.Study, number: int) -> list[int]:
    """Rungs that settings passed before they were interrupted: they are neither scored nor judged there again.

    Args:
        study: the sweep's.
        number: under which the settings were first tried.
    """
    own = [trial for trial in study.get_trials(deepcopy=False) if studies.identity(trial) == number]
    return sorted({rung for trial in own for rung, look in _looks(trial).items() if not look.weak})


def _looks(trial: FrozenTrial) -> dict[int, Look]:
    kept = {name: value for name, value in trial.user_attrs.items() if name.startswith(_RUNG)}
    return {
        int(name.removeprefix(_RUNG)): Look(**{**value, "students": tuple(value["students"])})
        for name, value in kept.items()
    }


def is_weak(own: Standing, others: Sequence[Standing], rung: int, settings: SweepConfig) -> bool:
    """Whether a trial is to be stopped at a rung under the sweep's pruner; one whose score is not finite always is."""
    rules: dict[str, Rule] = {
        "hyperband": _weak_in_bracket,
        "asha": _not_in_front,
        "median": _below_median,
        "wilcoxon": _worse_students,
        "none": lambda own, others, rung, settings: False,
    }
    others = [_comparable(other, own.looks[rung], rung) for other in others]
    return not math.isfinite(own.looks[rung].r_mean) or rules[settings.pruner](own, others, rung, settings)


def _comparable(other: Standing, look: Look, rung: int) -> Standing:
    """Another trial without what it had at a rung, if that was scored otherwise: before a sweep's settings changed."""
    there = other.looks.get(rung)
    if there is None or len(there.students) == len(look.students):
        return other
    return replace(other, looks={at: one for at, one in other.looks.items() if at != rung})


def up_the_rungs(
    own: Standing, look_at: Callable[[int], Look], others: Sequence[Standing], settings: SweepConfig
) -> tuple[Standing, int]:
    """A made-up trial from its start to its end or to where it is stopped; gives that rung too, or `END`.

    Args:
        own: the trial, before its first rung.
        look_at: what it has at a rung.
        others: all other trials.
        settings: `pruner`, `rungs` and `objectives` are read.
    """
    for rung in settings.rungs:
        own = replace(own, looks={**own.looks, rung: look_at(rung)})
        if is_weak(own, others, rung, settings):
            return own, rung
    return own, END


def _not_in_front(own: Standing, others: Sequence[Standing], rung: int, settings: SweepConfig) -> bool:
    """Successive halving without waiting (ASHA, Li et al. 2020): a third of those at a rung go on, at first the best.

    What is worse by no more than noise goes on with them: else the second trial would be stopped for a tenth. The more
    trials go on anyway, the less noise counts: where most are neighbours of the best, a whole point would stop none.
    With one objective, those that beat a trial are the ones before it in their order; with several, a trial of the
    front is beaten by none and always goes on.
    """
    there = [other.looks[rung] for other in others if rung in other.looks]
    going_on = max(1, (len(there) + 1) // REDUCTION)
    beaten_by = sum(look.beats(own.looks[rung], settings.objectives, by=NOISE / going_on) for look in there)
    return beaten_by >= going_on


def _weak_in_bracket(own: Standing, others: Sequence[Standing], rung: int, settings: SweepConfig) -> bool:
    """Hyperband (Li et al. 2018): trials are dealt to brackets, and the bracket b ignores the first b rungs.

    A bracket's trials compete among themselves alone. The more rungs it has, the more trials it is dealt.
    """
    bracket = bracket_of(own.number, len(settings.rungs))
    if rung not in sorted(settings.rungs)[bracket:]:
        return False
    same = [other for other in others if bracket_of(other.number, len(settings.rungs)) == bracket]
    return _not_in_front(own, same, rung, settings)


def bracket_of(number: int, brackets: int) -> int:
    """The bracket of a trial, drawn by its number: Hyperband's shares, n eta^s / (s + 1) for s further rungs."""
    shares = [math.ceil(brackets * REDUCTION**further / (further + 1)) for further in reversed(range(brackets))]
    drawn = zlib.crc32(str(number).encode()) % sum(shares)
    return next(bracket for bracket in range(brackets) if drawn < sum(shares[: bracket + 1]))


def _below_median(own: Standing, others: Sequence[Standing], rung: int, settings: SweepConfig) -> bool:
    """The median rule (Golovin et al. 2017): less than half of the complete trials had at the rung.

    With several objectives: more than half of them had a higher r_mean there at no higher cost.
    """
    complete = [other.looks[rung] for other in others if other.end and rung in other.looks]
    if sum(other.end is not None for other in others) < FIRST_COMPLETE or not complete:
        return False
    if len(settings.objectives) == 1:
        return own.looks[rung].r_mean < float(np.median([look.r_mean for look in complete]))
    return 2 * sum(look.beats(own.looks[rung], settings.objectives) for look in complete) > len(complete)


def _worse_students(own: Standing, others: Sequence[Standing], rung: int, settings: SweepConfig) -> bool:
    """Wilcoxon's signed-rank test of a trial's students against the same ones of the best trial, over all rungs so far.

    With several objectives the best of the complete trials that are no dearer at this rung.
    """
    rivals = [other for other in others if other.end and rung in other.looks]
    if len(settings.objectives) > 1:
        rivals = [other for other in rivals if other.looks[rung].beats(own.looks[rung], settings.objectives)]
    if not rivals:
        return False
    best = max(rivals, key=lambda other: other.end.r_mean if other.end else -math.inf)
    shared = [at for at in own.looks if at in best.looks]
    ours, theirs = (np.array(list(_students(one, shared))) for one in (own, best))
    if len(ours) != len(theirs) or len(ours) < 2 or ours.mean() >= theirs.mean():
        return False
    test: Any = wilcoxon(ours - theirs, alternative="less", zero_method="zsplit")
    return bool(test.pvalue < WORSE)


def _students(standing: Standing, rungs: Iterable[int]) -> Iterable[float]:
    for rung in rungs:
        yield from standing.looks[rung].students
