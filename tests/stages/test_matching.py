"""A phase of a distillation that is interrupted continues where it was, and its cost is that of the distillation."""

from pathlib import Path
from typing import Any

import pytest
from stage_settings import TINY, Work

import raydd
from raydd import stages
from raydd.config import Config
from raydd.cpu_time import ElapsedTime
from raydd.progress import Leave, silent
from raydd.settings import with_settings
from raydd.stages import curves, matching
from raydd.stages.matching import CHECKPOINT
from raydd.store import Store


@pytest.mark.parametrize(("images", "fit"), [("features", 0), ("features-then-pixels", 1)])
def test_a_stop_while_learning_rates_are_fitted_loses_no_step(
    images: str, fit: int, tiny_data: Path, store: Store
) -> None:
    config = with_settings(Config(), {**TINY, "data.root": str(tiny_data), "distill.images": images})
    fits_begun = []

    def stop(work: str, done: int, _: int) -> None:
        if (work, done) == ("fits of the students' learning rates", 0):
            fits_begun.append(work)
            if len(fits_begun) > fit:
                raise Leave

    with pytest.raises(Leave):
        list(stages.distill(raydd.open(config, store, stop)))
    record = stages.synthetic_record(raydd.open(config, store))
    assert record.has(CHECKPOINT)
    assert not record.complete
    told = Work()
    list(stages.distill(raydd.open(config, store, told)))
    assert "distillation steps" not in told.done
    assert record.complete
    assert not record.has(CHECKPOINT)
    measured = [point["step"] for point in stages.collapse_over_steps(record)]
    assert measured == sorted(set(measured))


class Meter:
    """Stands for the peak memory: it is what was wanted since it was last reset."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.resets, self._peak = 0, 1000
        for owner in (matching, curves):
            monkeypatch.setattr(owner, "reset_peak", self._reset)
        monkeypatch.setattr(matching, "peak_bytes", lambda _: self._peak)

    def _reset(self, _: str) -> None:
        self.resets, self._peak = self.resets + 1, 1000

    def need(self, peak: int) -> None:
        self._peak = max(self._peak, peak)


@pytest.mark.parametrize("images", ["features", "features-then-pixels"])
def test_what_other_distillations_read_too_is_no_cost_of_this_one(
    tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch, images: str
) -> None:
    settings = {**TINY, "data.root": str(tiny_data), "distill.start": "herding", "distill.images": images}
    meter, made = Meter(monkeypatch), set[str]()

    def progress(work: str, _: int, __: int) -> None:
        before_the_start = meter.resets == 0
        made.add(work)
        if work in ("images", "captions", "epochs of experts"):
            assert before_the_start, work
        if not work.startswith(("distillation", "pixel")):
            meter.need(10_000)

    work = raydd.open(with_settings(Config(), settings), store, progress)
    stages.final_synthetic(work)
    assert {"epochs of experts", "fits of the students' learning rates"} < made
    for record in stages.distilling.records_of(work):
        assert record.facts()["peak_bytes"] == 1000, "without experts before and students after the steps"


def test_checks_of_a_curve_are_no_memory_of_the_distillation(
    tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_settings(Config(), {**TINY, "data.root": str(tiny_data), "distill.images": "features"})
    meter, score = Meter(monkeypatch), curves.fit_rates

    def fit(*arguments: Any) -> Any:
        meter.need(10_000)
        return score(*arguments)

    monkeypatch.setattr(curves, "fit_rates", fit)
    work = raydd.open(config, store)
    assert len(curves.val_curve(work, 3)) == 3
    assert stages.synthetic_record(work).facts()["peak_bytes"] == 1000


def test_a_distillation_that_goes_on_keeps_what_its_start_took(
    tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_settings(Config(), {**TINY, "data.root": str(tiny_data), "distill.images": "features"})
    meter, seconds = Meter(monkeypatch), [700.0]

    class Watch:
        def read(self) -> ElapsedTime:
            return ElapsedTime(seconds[0], 2 * seconds[0])

    monkeypatch.setattr(matching, "Watch", Watch)

    def leave(work: str, done: int, _: int) -> None:
        if (work, done) == ("distillation steps", 4):
            raise Leave
        if (work, done) == ("distillation steps", 2):
            meter.need(3000)

    with pytest.raises(Leave):
        stages.final_synthetic(raydd.open(config, store, leave))
    seconds[0] = 1.0  # the start is read from the store now
    work = raydd.open(config, store, silent)
    stages.final_synthetic(work)
    facts = stages.synthetic_record(work).facts()
    assert (facts["preparing_seconds"], facts["seconds"]) == (700, 4 * 700 + 4)
    assert facts["cpu_seconds"] == 2 * (700 + 4 * 700 + 4)
    assert facts["peak_bytes"] == 3000
