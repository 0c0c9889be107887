"""One trial of a sweep, as Ray Tune runs it: a distillation on features, scored on val at its rungs and at the end."""

import contextlib
import math
from collections.abc import Collection, Generator, Iterator, Mapping
from typing import Any

from ray import tune
from ray.tune.result import RESULT_DUPLICATE

from raydd import stages
from raydd.cluster.claims import shared_work
from raydd.cluster.failures import breaks_process, failure_of
from raydd.cluster.graceful_exit import exit_waits
from raydd.cluster.trial_report import TrialReport
from raydd.config import Config
from raydd.cpu_time import counted_as
from raydd.distill.engine import DistillPoint
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.evaluate.retrieval import METRICS, ScoresOnVal
from raydd.evaluate.students import LAST_RUNG_EPOCHS, RUNG_EPOCHS, TRIAL_SEEDS
from raydd.memory import return_freed_blocks
from raydd.protocols import Listings, Workbench, changed, trial_settings
from raydd.settings import with_settings

CURVE_PERCENT = 5  # of a trial's steps between two points of its curve, or less where rungs are closer


class DistillTrial(tune.Trainable):
    """One trial after another in Tune's hands; each step is a distillation until its next report.

    Tune calls it in the process's main thread. Told to leave in the midst of a step, a trial keeps its state first;
    between two steps all that it has done is kept, and the process ends at once.
    """

    def setup(self, config: dict[str, Any], **shared: Any) -> None:
        """Begin a trial.

        Args:
            config: as of `trial_reports`.
            shared: what it takes besides.
        """
        self._shared = shared
        self._reports = trial_reports(config, **shared)

    @exit_waits()
    def step(self) -> dict[str, Any]:
        """The trial's next report, or what Tune takes for there being none: the last one again."""
        report = next(self._reports, None)
        return report.as_result() if report else {RESULT_DUPLICATE: True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the trial where it is and begin another one."""
        self.cleanup()
        self._reports = trial_reports(new_config, **self._shared)
        return True

    def cleanup(self) -> None:
        """Leave the trial where it is, its state kept."""
        self._reports.close()
        return_freed_blocks()


def trial_reports(
    trial: Mapping[str, Any], base: Config, listings: Listings, claims: Any
) -> Generator[TrialReport, None, None]:
    """Run one trial; a failure is a report with its reason, after which the process can take the next trial.

    A CUDA error ends the process as well.

    Args:
        trial: `number`, dotted `settings`, and the rungs `passed` before an interruption, see
            `raydd.tuning.searcher`.
        base: what all trials of the sweep share.
        listings: the data sets that the driver has read, so that no trial asks a reader.
        claims: handle of the actor of `raydd.cluster.claims`.
    """
    try:
        config = with_settings(base, {**trial["settings"], **trial_settings(base)})
        with shared_work(config, f"trial {trial['number']}", listings, claims) as work:
            for report in distillation_reports(work, trial["passed"]):
                yield report.from_here(work.device)
    except Exception as error:  # whatever a trial raises is its result: the sweep goes on
        yield failure_of(error)
        if breaks_process(error):
            raise  # Tune ends a process that raises; a fresh one goes on from the trial's checkpoint


def distillation_reports(work: Workbench[Any], passed: Collection[int] = ()) -> Iterator[TrialReport]:
    """Distil, and score the set on val at the rungs and at the end.

    Args:
        work: the trial's; `sweep.rungs` and `sweep.rung_students` say when it is scored on the way, and how.
        passed: rungs to leave out, since the trial passed them before it was interrupted.
    """
    judged = Judged(work, passed)
    with contextlib.closing(stages.distill(work, every=judged.every)) as points:  # closed, it keeps its state
        for point in points:
            if report := judged.report(point):
                point.keep()
                yield report


class Judged:
    """A trial on its way: what is told of it and when, whoever takes its steps."""

    def __init__(self, work: Workbench[Any], passed: Collection[int] = ()) -> None:
        """Nothing is told yet.

        Args:
            work: as of `distillation_reports`, and so is `passed`.
        """
        rungs = work.config.sweep.rungs
        self.every = max(1, work.config.distill.steps * math.gcd(CURVE_PERCENT, *rungs) // 100)
        """Steps between two points of its curve."""
        self.device = work.device
        self._work, self._left = work, [rung for rung in rungs if rung not in passed]
        self._curve: list[dict[str, float]] = []
        self._seconds, self._before = 0.0, 0

    def report(self, point: DistillPoint) -> TrialReport | None:
        """Note a point; gives what there is to report, if that is the last one or the trial has come to a rung."""
        last = point.step == point.steps
        self._curve += map(dict, point.collapse)
        for metrics in (*point.earlier, {"step": point.step, **point.metrics}):
            self._curve.append(
                {name if name == "step" else f"distill/{name}": value for name, value in metrics.items()}
            )
        self._seconds += point.metrics.get("seconds", 0.0) * (point.step - self._before)
        self._before = point.step
        reached = [rung for rung in self._left if 100 * point.step >= rung * point.steps]
        if not last and not reached:
            return None
        with counted_as("scores"):
            scores = end_scores(self._work, point) if last else rung_scores(self._work, point.synthetic, reached[-1])
        # Not before the scores: where those lack memory, the trial comes to this rung again.
        self._left = [rung for rung in self._left if rung not in reached]
        self._curve[-1] |= {f"{'val' if last else 'rung'}/{name}": value for name, value in scores.mean.items()}
        record = stages.synthetic_record(self._work) if last else None
        curve, self._curve = self._curve, []
        return TrialReport(
            step=point.step,
            steps=point.steps,
            rung=0 if last else reached[-1],
            r_mean=scores.for_choice,
            students=[student["r_mean"] for student in scores.seeds],
            seconds=record.facts()["seconds"] if record else self._seconds,
            bytes=point.synthetic.stored_bytes,
            curve=_by_step(curve),
            record=record.folder if record else "",
        )


def end_scores(work: Workbench[Any], point: DistillPoint) -> ScoresOnVal:
    """Val scores of a trial's finished set, by `TRIAL_SEEDS` students, of which the fit has trained the first."""
    known = () if point.fitted_val is None or work.config.evaluate.choice != "last" else (point.fitted_val,)
    others = stages.score_students(work, point.synthetic, split="val", seeds=range(len(known), TRIAL_SEEDS))
    return ScoresOnVal((*known, *others.seeds))


def rung_scores(work: Workbench[Any], synthetic: SyntheticSet, rung: int) -> ScoresOnVal:
    """Val scores of a trial's set at a rung: in closed form, or by students of few epochs.

    At the last rung by `sweep.last_rung_students` at fitted learning rates: trials that came so far differ in how well
    students can be trained on their sets, which ridge regression does not see.

    Args:
        work: the trial's.
        synthetic: its set at this rung.
        rung: in percent of its steps.
    """
    sweep = work.config.sweep
    closed = None if sweep.rung_students else work.ridge_scores(synthetic)
    fitted = sweep.fitted_students(rung) if closed else 0
    if closed and not fitted:
        return closed
    epochs = LAST_RUNG_EPOCHS if fitted else RUNG_EPOCHS
    short = changed(work, {"students.epochs": min(epochs, work.config.students.epochs)})
    seeds = range(fitted or max(1, sweep.rung_students))
    try:
        if not fitted or not work.config.distill.fit_rates:
            return stages.score_students(short, synthetic, split="val", seeds=seeds)
        fit = stages.fit_rates(short, synthetic)
        others = stages.score_students(short, fit.pairs, split="val", seeds=seeds[1:])
        return ScoresOnVal((*fit.val.seeds, *others.seeds))
    except NonFiniteError:  # at rates that are not learned yet; those of the end are fitted
        return ScoresOnVal((dict.fromkeys(METRICS, 0.0),) * len(seeds))


def _by_step(points: list[dict[str, float]]) -> list[dict[str, float]]:
    """The points in the order of their steps, those of the same step as one."""
    by_step: dict[float, dict[str, float]] = {}
    for point in sorted(points, key=lambda point: point["step"]):
        by_step.setdefault(point["step"], {}).update(point)
    return list(by_step.values())
