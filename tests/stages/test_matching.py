"""A phase of a distillation that is interrupted continues where it was."""

from pathlib import Path

import pytest
from stage_settings import TINY, Work

import raydd
from raydd import stages
from raydd.config import Config
from raydd.progress import Leave
from raydd.settings import with_settings
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
