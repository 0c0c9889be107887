"""Val r_mean over the steps of a distillation, which shows where a row of a comparison converges and at what cost."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from raydd.cpu_time import ElapsedTime, Watch
from raydd.distill.population import steps_of, steps_per_read
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.memory import reset_peak
from raydd.protocols import Workbench
from raydd.sets.read import load_synthetic
from raydd.stages.distilling import distill, in_features, only_phase, synthetic_record
from raydd.stages.students import choice_content, fit_rates, recipe_content, score_students
from raydd.store import Record

VERSION = 1
VAL_CURVE = "curve.json"
State = tuple[int, float, float, SyntheticSet]  # steps done, their seconds and CPU seconds, and the set


def val_curve(work: Workbench[Any], checks: int) -> list[dict[str, float]]:
    """Measure val r_mean of a set at equal intervals of its distillation steps.

    The set is distilled if it is missing from the store. If the store has the set without its curve, the set is
    distilled again in memory, since its earlier states are gone. At each check a student of the full recipe is trained,
    with learning rates fitted as for the finished set. A check is left out if its student diverges. Under
    features-then-pixels the curve is that of the features.

    Args:
        work: the workbench of the distillation.
        checks: number of checks; the last one is after all steps.

    Returns:
        For each check the `step`, the `seconds` and `cpu_seconds` of the steps until then, and `r_mean` in percent.
        Without steps there are no checks.
    """
    work = in_features(work)
    record = curve_record(work, checks)
    work.store.forget(f"{record.folder}/{VAL_CURVE}")  # another machine may have added checks since this one's copy
    if record.complete:
        return record.read_json(VAL_CURVE)
    points: list[dict[str, float]] = record.read_json(VAL_CURVE) if record.has(VAL_CURVE) else []
    steps, checked_steps = work.config.distill.steps, {point["step"] for point in points}
    every = math.ceil(steps / checks)

    def check(states: Iterable[State]) -> None:
        for step, seconds, cpu_seconds, synthetic in states:
            if step in checked_steps:
                continue
            checked_steps.add(step)
            r_mean = _r_mean(work, synthetic, fitted=step == steps)
            if r_mean is not None:
                points.append({"step": step, "seconds": seconds, "cpu_seconds": cpu_seconds, "r_mean": r_mean})
                points.sort(key=itemgetter("step"))
                record.write_json(VAL_CURVE, points)

    if steps and not synthetic_record(work).complete:
        check(_new_states(work, every))
    # A set of the store, or a checkpoint where the distillation went on: its earlier states are gone.
    if steps and not {*range(every, steps, every), steps} <= checked_steps:
        check(_repeated_states(work, every))
    record.write_json(VAL_CURVE, points)
    record.finish()
    return points


def curve_record(work: Workbench[Any], checks: int) -> Record:
    """Return the record of a curve."""
    work = in_features(work)
    settings = {
        "checks": checks,
        "students": recipe_content(work.config.students, work.config.distill.pairs),
        **choice_content(work.config),
        **work.student_content,
    }
    upstream = {"synthetic": synthetic_record(work).fingerprint}
    return Record.of(work.store, "curves", settings, upstream, version=VERSION)


def rise(curve: Sequence[Mapping[str, float]], steps: int) -> float | None:
    """Return how much val r_mean rises from the third to the last quarter of the steps, in points.

    Each quarter counts with the mean of its checks. None if a quarter has no check.
    """
    quarters = [
        [point["r_mean"] for point in curve if low * steps < point["step"] <= high * steps]
        for low, high in ((0.5, 0.75), (0.75, 1.0))
    ]
    if not all(quarters):
        return None
    third_quarter, last_quarter = (sum(quarter) / len(quarter) for quarter in quarters)
    return last_quarter - third_quarter


def _new_states(work: Workbench[Any], every: int) -> Iterator[State]:
    """Yield the states of a new distillation, whose set is stored like any other."""
    seconds, cpu_seconds, last_step = 0.0, 0.0, 0
    for point in distill(work, every=every):
        for interval in (*point.earlier, {"step": point.step, **point.metrics}):
            steps = interval["step"] - last_step
            seconds += steps * interval["seconds"]
            # An older checkpoint has only seconds.
            cpu_seconds += steps * interval.get("cpu_seconds", interval["seconds"])
            last_step = interval["step"]
        yield point.step, seconds, cpu_seconds, point.synthetic
        reset_peak(work.device)  # the memory of a check's students is not that of the distillation


def _repeated_states(work: Workbench[Any], every: int) -> Iterator[State]:
    """Repeat the distillation of a stored set and yield its states; the last one is read from the store."""
    phase = only_phase(work, every)
    distillation, elapsed = work.begin(phase.settings, phase.start()), ElapsedTime()
    take_steps = steps_of(distillation)
    while distillation.done < phase.settings.steps:
        remaining_steps = phase.settings.steps - distillation.done
        watch = Watch()
        news = take_steps(min(steps_per_read(work.device), remaining_steps, every - distillation.done % every))
        if news.error:
            raise news.error
        elapsed += watch.read()
        work.progress("distillation steps for a curve", distillation.done, phase.settings.steps)
        if distillation.done % every == 0 and distillation.done < phase.settings.steps:
            yield distillation.done, elapsed.seconds, elapsed.cpu_seconds, distillation.synthetic()
    yield distillation.done, elapsed.seconds, elapsed.cpu_seconds, load_synthetic(phase.record)


def _r_mean(work: Workbench[Any], synthetic: SyntheticSet, *, fitted: bool) -> float | None:
    """Return val r_mean of one student; None if it diverges."""
    try:
        if work.config.distill.fit_rates and not fitted:
            fit = fit_rates(work, synthetic)
            if work.config.evaluate.choice == "last":  # the learning rates were fitted with this same student
                return fit.val.for_choice
            synthetic = fit.pairs
        return score_students(work, synthetic, split="val", seeds=[0]).for_choice
    except NonFiniteError:
        return None
