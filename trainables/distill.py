"""One trial of a sweep, as Ray Tune runs it: a distillation on features, scored on val on the way and at the end."""

from collections.abc import Iterator, Mapping
from typing import Any

from ray import tune
from ray.exceptions import OutOfMemoryError, RayActorError

from raydd import stages
from raydd.cluster.claims import Claimant, share_making
from raydd.cluster.trial_report import TrialReport
from raydd.config import Config
from raydd.errors import PlaceError
from raydd.evaluate.retrieval import TRIAL_SEEDS
from raydd.place import open_store, use_threads
from raydd.protocols import Listings, Opened, Workbench, open_workbench, trial_settings
from raydd.settings import with_settings

SCORES = 2  # times that a trial is scored on val: at half of its steps, by one student, for the scheduler
POINTS_PER_SCORE = 12  # of the curve


def distill_trial(trial: Mapping[str, Any], base: Config, listings: Listings, claims: Any) -> None:
    """Run one trial and report; a failure is reported with its reason, and the process stays fit for the next trial.

    Args:
        trial: `number` and dotted `settings`, see `raydd.tuning.searcher`.
        base: what all trials of the sweep share.
        listings: the data sets that the driver has read, so that no trial asks a reader.
        claims: handle of the actor of `raydd.cluster.claims`.
    """
    try:
        config = with_settings(base, {**trial["settings"], **trial_settings(base)})
        use_threads(config.place)
        with Claimant(claims, f"trial {trial['number']}") as claimant:
            work = open_workbench(config, open_store(config.place), claimant.progress, Opened(listings))
            share_making(work, claimant)
            for report in distillation_reports(work):
                tune.report(report.as_result())
    except Exception as error:  # whatever a trial raises is its result: the sweep goes on
        # An actor that was on a lost node or was killed for memory, Claims among them, is started again.
        again = isinstance(error, PlaceError | RayActorError | OutOfMemoryError)
        tune.report(TrialReport(failure=f"{type(error).__name__}: {error}", again=again).as_result())


def distillation_reports(work: Workbench[Any]) -> Iterator[TrialReport]:
    """Distil, and score students on val half-way and at the end."""
    every = max(1, work.config.distill.steps // (SCORES * POINTS_PER_SCORE))
    curve: list[dict[str, float]] = []
    seconds, before, scored = 0.0, 0, 0
    for point in stages.distill(work, every=every):
        last = point.step == point.steps
        curve += map(dict, point.collapse)
        curve.append({"step": point.step, **{f"distill/{name}": value for name, value in point.metrics.items()}})
        seconds += point.metrics.get("seconds", 0.0) * (point.step - before)
        before = point.step
        if not last and point.step * SCORES // point.steps == scored:
            continue
        scored = point.step * SCORES // point.steps
        synthetic, seeds = point.synthetic, range(TRIAL_SEEDS)
        if not last:
            # As if finished, lest the scheduler judge a trial by its learning rate at the start.
            synthetic = stages.fit_rates(work, synthetic)[0] if work.config.distill.fit_rates else synthetic
            seeds = range(1)
        scores = stages.score_students(work, synthetic, split="val", seeds=seeds)
        curve[-1] |= {f"val/{name}": value for name, value in scores.mean.items()}
        record = stages.synthetic_record(work) if last else None
        yield TrialReport(
            step=point.step,
            steps=point.steps,
            r_mean=scores.for_choice,
            seconds=record.facts()["seconds"] if record else seconds,
            bytes=point.synthetic.stored_bytes,
            curve=_by_step(curve),
            record=record.folder if record else "",
        )
        curve = []


def _by_step(points: list[dict[str, float]]) -> list[dict[str, float]]:
    """The points in the order of their steps, those of the same step as one."""
    by_step: dict[float, dict[str, float]] = {}
    for point in sorted(points, key=lambda point: point["step"]):
        by_step.setdefault(point["step"], {}).update(point)
    return list(by_step.values())
