"""One trial of a sweep, as Ray Tune runs it: a distillation on features, scored on val at its rungs and at the end."""

import contextlib
import math
from collections.abc import Collection, Generator, Iterator, Mapping
from typing import Any

from ray import tune
from ray.tune.result import RESULT_DUPLICATE

from raydd import stages
from raydd.cluster.failures import breaks_process, failure_of
from raydd.cluster.graceful_exit import exit_waits
from raydd.cluster.sharing import Shared, shared_work
from raydd.cluster.trial_report import TrialReport
from raydd.config import Config
from raydd.config.sweep import LAST_RUNG_EPOCHS, RUNG_EPOCHS, TRIAL_SEEDS
from raydd.cpu_time import counted_as
from raydd.distill.engine import DistillPoint
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.evaluate.retrieval import METRICS, ScoresOnVal
from raydd.memory import return_freed_blocks
from raydd.protocols import Workbench, changed, trial_settings
from raydd.settings import with_settings

CURVE_PERCENT = 5  # percent of a trial's steps between two points of its curve, or less if rungs are closer


class DistillTrial(tune.Trainable):
    """Ray Tune's trainable, which runs one trial after another; each step continues a distillation to its next report.

    Tune calls it in the main thread of the process. A trial that has to stop within a step saves its state first.
    Between two steps the state is already saved, and the process ends at once.
    """

    def setup(self, config: dict[str, Any], *, base: Config, shared: Shared) -> None:
        """Begin a trial; `config` is the `trial` of `trial_reports`, like the other arguments."""
        self._base, self._shared = base, shared
        self._reports = trial_reports(config, base, shared)

    @exit_waits()
    def step(self) -> dict[str, Any]:
        """Return the trial's next report. If there is none, tell Tune to repeat the last one."""
        report = next(self._reports, None)
        return report.as_result() if report else {RESULT_DUPLICATE: True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the current trial, with its state saved, and begin another one."""
        self.cleanup()
        self._reports = trial_reports(new_config, self._base, self._shared)
        return True

    def cleanup(self) -> None:
        """Leave the trial, with its state saved."""
        self._reports.close()
        return_freed_blocks()


def trial_reports(trial: Mapping[str, Any], base: Config, shared: Shared) -> Generator[TrialReport, None, None]:
    """Run one trial. A failure is reported with its reason, and the process can run the next trial.

    A CUDA error also ends the process.

    Args:
        trial: `number`, dotted `settings`, and the rungs `passed` before an interruption, see
            `raydd.tuning.searcher`.
        base: settings that all trials of the sweep share.
        shared: what the driver gave to all its workers.
    """
    try:
        config = with_settings(base, {**trial["settings"], **trial_settings(base)})
        with shared_work(config, f"trial {trial['number']}", shared) as work:
            for report in distillation_reports(work, trial["passed"]):
                yield report.from_here(work.device)
    except Exception as error:  # any error of a trial is its result: the sweep continues
        yield failure_of(error)
        if breaks_process(error):
            raise  # Tune ends a process that raises; a new process continues from the trial's checkpoint


def distillation_reports(work: Workbench[Any], passed: Collection[int] = ()) -> Iterator[TrialReport]:
    """Distil, and score the set on val at the rungs and at the end.

    Args:
        work: the trial's workbench; `sweep.rungs` and `sweep.rung_students` say when and how it is scored before its
            end.
        passed: rungs to skip, since the trial passed them before it was interrupted.
    """
    reporter = TrialReporter(work, passed)
    with contextlib.closing(stages.distill(work, every=reporter.every)) as points:  # closing it saves its state
        for point in points:
            if report := reporter.report(point):
                point.keep()
                yield report


class TrialReporter:
    """Decides what is reported of a running trial and when, regardless of which code takes its steps."""

    def __init__(self, work: Workbench[Any], passed: Collection[int] = ()) -> None:
        """Begin without any reports.

        Args:
            work: as for `distillation_reports`.
            passed: as for `distillation_reports`.
        """
        rungs = work.config.sweep.rungs
        self.every = max(1, work.config.distill.steps * math.gcd(CURVE_PERCENT, *rungs) // 100)
        """Steps between two points of its curve."""
        self.device = work.device
        self._work, self._remaining_rungs = work, [rung for rung in rungs if rung not in passed]
        self._curve: list[dict[str, float]] = []
        self._seconds, self._last_step = 0.0, 0

    def report(self, point: DistillPoint) -> TrialReport | None:
        """Record a point; return a report if it is the last point or the trial has reached a rung."""
        is_last = point.step == point.steps
        self._curve += map(dict, point.collapse)
        for metrics in (*point.earlier, {"step": point.step, **point.metrics}):
            self._curve.append(
                {name if name == "step" else f"distill/{name}": value for name, value in metrics.items()}
            )
            self._seconds += metrics.get("seconds", 0.0) * (metrics["step"] - self._last_step)
            self._last_step = metrics["step"]
        reached = [rung for rung in self._remaining_rungs if 100 * point.step >= rung * point.steps]
        if not is_last and not reached:
            return None
        with counted_as("scores"):
            scores = end_scores(self._work, point) if is_last else rung_scores(self._work, point.synthetic, reached[-1])
        # Only after scoring: if scoring runs out of memory, the trial has to reach this rung again.
        self._remaining_rungs = [rung for rung in self._remaining_rungs if rung not in reached]
        self._curve[-1] |= {f"{'val' if is_last else 'rung'}/{name}": value for name, value in scores.mean.items()}
        record = stages.synthetic_record(self._work) if is_last else None
        curve, self._curve = self._curve, []
        return TrialReport(
            step=point.step,
            steps=point.steps,
            rung=0 if is_last else reached[-1],
            r_mean=scores.for_choice,
            students=[student["r_mean"] for student in scores.seeds],
            seconds=record.facts()["seconds"] if record else self._seconds,
            bytes=point.synthetic.stored_bytes,
            curve=_by_step(curve),
            record=record.folder if record else "",
        )


def end_scores(work: Workbench[Any], point: DistillPoint) -> ScoresOnVal:
    """Val scores of a trial's finished set, by `TRIAL_SEEDS` students; the learning rate fit has trained the first."""
    fitted_scores = () if point.fitted_val is None or work.config.evaluate.choice != "last" else (point.fitted_val,)
    other_scores = stages.score_students(
        work, point.synthetic, split="val", seeds=range(len(fitted_scores), TRIAL_SEEDS)
    )
    return ScoresOnVal((*fitted_scores, *other_scores.seeds))


def rung_scores(work: Workbench[Any], synthetic: SyntheticSet, rung: int) -> ScoresOnVal:
    """Val scores of a trial's set at a rung: in closed form, or by students that are trained for few epochs.

    At the last rung, `sweep.last_rung_students` students with fitted learning rates score the set: trials that reach
    this rung differ in how well students can be trained on their sets, which ridge regression does not measure.

    Args:
        work: the trial's workbench.
        synthetic: its set at this rung.
        rung: in percent of the trial's steps.
    """
    sweep = work.config.sweep
    closed_form = None if sweep.rung_students else work.ridge_scores(synthetic)
    fitted_count = sweep.fitted_students(rung) if closed_form else 0
    if closed_form and not fitted_count:
        return closed_form
    epochs = LAST_RUNG_EPOCHS if fitted_count else RUNG_EPOCHS
    short_work = changed(work, {"students.epochs": min(epochs, work.config.students.epochs)})
    seeds = range(fitted_count or max(1, sweep.rung_students))
    try:
        if not fitted_count or not work.config.distill.fit_rates:
            return stages.score_students(short_work, synthetic, split="val", seeds=seeds)
        fit = stages.fit_rates(short_work, synthetic)
        other_scores = stages.score_students(short_work, fit.pairs, split="val", seeds=seeds[1:])
        return ScoresOnVal((*fit.val.seeds, *other_scores.seeds))
    except NonFiniteError:  # the learning rates are not learned yet; at the end of the trial they are fitted
        return ScoresOnVal((dict.fromkeys(METRICS, 0.0),) * len(seeds))


def _by_step(points: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the points in the order of their steps, with the points of one step merged."""
    by_step: dict[float, dict[str, float]] = {}
    for point in sorted(points, key=lambda point: point["step"]):
        by_step.setdefault(point["step"], {}).update(point)
    return list(by_step.values())
