"""Sets that are distilled together have the records that they would have alone."""

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_settings import TINY, Work

import raydd
from raydd import stages
from raydd.config import Config
from raydd.distill import legs, population
from raydd.distill.engine import Distillation, DistillPoint
from raydd.errors import NonFiniteError, RayddError
from raydd.progress import Leave
from raydd.protocols import Workbench
from raydd.sets.read import set_of_record
from raydd.settings import with_settings
from raydd.stages import curves, matching
from raydd.stages.matching import CHECKPOINT, CURVE, LAST_GOOD
from raydd.stages.population import Together, group_of
from raydd.store import Record, Store

TRIALS: list[dict[str, Any]] = [
    {},
    {"distill.seed": 3, "distill.start_rate": 0.1, "distill.steps": 6},
    {"distill.alpha": 0.5, "distill.image_lr": 0.05, "distill.checkpoint_every": 4},
]


@pytest.fixture
def config(tiny_data: Path) -> Config:
    return with_settings(Config(), {**TINY, "data.root": str(tiny_data), "distill.images": "features"})


def opened(config: Config, store: Store, trials: list[dict[str, Any]]) -> list[Workbench[Any]]:
    return [raydd.open(with_settings(config, trial), store) for trial in trials]


def curve(record: Record) -> dict[str, torch.Tensor]:
    """What a record tells of its steps, but their time."""
    return {name: column for name, column in record.read_tensors(CURVE).items() if "seconds" not in name}


def distilled(works: Sequence[Workbench[Any]], *, every: int = 0) -> list[tuple[int, DistillPoint | RayddError]]:
    """All of them side by side: what is told of each, with its number."""
    together, told = Together(), []
    for number, work in enumerate(works):
        if point := together.begin(str(number), work, every=every):
            told.append((number, point))
    while together.names:
        told += [(int(name), point) for name, point in together.take_steps()]
    return told


def test_distillations_of_all_shapes_share_one_cache_of_their_experts(config: Config, store: Store) -> None:
    together, limit = Together(), legs.KEPT_LEG_BYTES
    for number, work in enumerate(opened(config, store, [{}, {"distill.student_steps": 2}])):
        together.begin(str(number), work)
    caches = {id(one._legs): one._legs for one in together._populations.values()}
    assert len(together._populations) == 2
    assert [cache._most_bytes for cache in caches.values()] == [limit]
    while together.names:
        list(together.take_steps())


def require_same(together: Record, alone: Record) -> None:
    assert together.complete
    assert together.fingerprint == alone.fingerprint
    assert set(together.manifest()["files"]) == set(alone.manifest()["files"])
    assert together.has(CHECKPOINT) is False
    one, other = stages.load_synthetic(together).tensors(), stages.load_synthetic(alone).tensors()
    assert set(one) == set(other)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-4, msg=name)
    one, other = curve(together), curve(alone)
    assert set(one) == set(other)
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=1e-2, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    made, own = (set_of_record(record).provenance for record in (together, alone))
    trusted = {name: TINY[name] for name in ("encoders.image", "encoders.text")}
    assert made.config(trusted) == own.config(trusted)


def test_records_and_points_are_those_of_each_alone(config: Config, store: Store, tmp_path: Path) -> None:
    alone, works = opened(config, Store(tmp_path / "other"), TRIALS), opened(config, store, TRIALS)
    points: list[list[DistillPoint]] = [[], [], []]
    for number, point in distilled(works, every=3):
        assert isinstance(point, DistillPoint)
        points[number].append(point)
    for own, work, told in zip(alone, works, points, strict=True):
        wanted = list(stages.distill(own, every=3))
        assert [point.step for point in told] == [point.step for point in wanted]
        for one, other in zip(told, wanted, strict=True):
            assert one.metrics.keys() == other.metrics.keys()
            assert [note["step"] for note in one.collapse] == [note["step"] for note in other.collapse]
            assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], rel=1e-3)
        require_same(stages.synthetic_record(work), stages.synthetic_record(own))
    again = dict(distilled(works, every=3))
    assert [again[number].step for number in range(3)] == [8, 6, 8]  # type: ignore[union-attr]


def as_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (population, matching, curves):
        monkeypatch.setattr(module, "steps_per_read", lambda device: 5)


@pytest.mark.parametrize(
    ("images", "centre"), [("features", False), ("features", True), ("features-then-pixels", False), ("pixels", False)]
)
def test_a_distillation_alone_steps_on_a_gpu_as_on_a_cpu(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str, centre: bool
) -> None:
    config = with_settings(config, {"distill.images": images, "features.centre": centre})
    own, (work,) = raydd.open(config, Store(tmp_path / "other")), opened(config, Store(tmp_path / "one"), [{}])
    wanted = list(stages.distill(own, every=3))
    as_on_gpu(monkeypatch)
    if images != "pixels":
        monkeypatch.setattr(Distillation, "step", None)  # the population takes the steps
    told = list(stages.distill(work, every=3))
    assert [point.step for point in told] == [point.step for point in wanted]
    assert [[note["step"] for note in point.collapse] for point in told] == [
        [note["step"] for note in point.collapse] for point in wanted
    ]
    for record, other in zip(stages.records_of(work), stages.records_of(own), strict=True):
        require_same(record, other)
    if images == "features":
        again = curves.val_curve(work, 3)
        assert [point["step"] for point in again] == [3, 6, 8]


def test_one_that_is_left_on_a_gpu_goes_on_anywhere(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, (work,) = raydd.open(config, Store(tmp_path / "other")), opened(config, Store(tmp_path / "one"), [{}])
    stages.final_synthetic(own)
    with monkeypatch.context() as on_gpu:
        as_on_gpu(on_gpu)
        with contextlib.closing(stages.distill(work, every=5)) as points:
            assert next(points).step == 5
    assert int(stages.synthetic_record(work).read_tensors(CHECKPOINT)["done"]) == 5
    stages.final_synthetic(work)
    require_same(stages.synthetic_record(work), stages.synthetic_record(own))


def test_one_that_diverges_on_a_gpu_keeps_its_last_good_set(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work,) = opened(config, store, [{"distill.start_rate": 1e6}])
    as_on_gpu(monkeypatch)
    with pytest.raises(NonFiniteError, match="Step 0"):
        stages.final_synthetic(work)
    assert stages.synthetic_record(work).has(LAST_GOOD)


def test_a_diverging_one_ends_alone(config: Config, store: Store) -> None:
    works = opened(config, store, [{}, {"distill.start_rate": 1e6}, {"distill.seed": 1}])
    told = dict(distilled(works))
    assert isinstance(told[1], NonFiniteError)
    record = stages.synthetic_record(works[1])
    assert record.has(LAST_GOOD)
    assert not record.complete
    assert [isinstance(told[number], DistillPoint) for number in (0, 2)] == [True, True]


def test_those_of_other_shapes_step_beside_each_other(config: Config, store: Store, tmp_path: Path) -> None:
    trials = [{}, {"distill.pairs": 7}, {"distill.seed": 4}, {"distill.similarity": "full", "distill.steps": 3}]
    works, alone = opened(config, store, trials), opened(config, Store(tmp_path / "other"), trials)
    assert len({group_of(work.config) for work in works}) == 3
    assert len({group_of(work.config) for work in opened(config, store, TRIALS)}) == 1
    assert {number for number, _ in distilled(works)} == {0, 1, 2, 3}
    for own, work in zip(alone, works, strict=True):
        stages.final_synthetic(own)
        require_same(stages.synthetic_record(work), stages.synthetic_record(own))


def test_a_stopped_one_keeps_its_checkpoint_and_the_next_takes_its_place(config: Config, store: Store) -> None:
    works, together = opened(config, store, TRIALS), Together()
    for name in ("0", "1"):
        assert together.begin(name, works[int(name)], every=2) is None
    told: dict[str, Any] = {}
    while not told:
        told = dict(together.take_steps())
    assert {name: point.step for name, point in told.items()} == {"0": 2, "1": 2}
    together.stop("0")
    together.stop("7")  # has ended, or never was
    assert together.begin("2", works[2], every=2) is None
    while together.names:
        assert "0" not in dict(together.take_steps())
    assert stages.synthetic_record(works[0]).has(CHECKPOINT)
    assert [stages.synthetic_record(work).complete for work in works] == [False, True, True]
    *_, last = stages.distill(works[0])
    assert last.step == 8


def test_all_go_on_after_a_notice_to_leave(config: Config, store: Store, tmp_path: Path) -> None:
    alone = opened(config, Store(tmp_path / "other"), TRIALS)
    for own in alone:
        stages.final_synthetic(own)

    class Ending(Work):
        def __call__(self, work: str, done: int, total: int) -> None:
            if work == "distillation steps" and done >= 4:
                raise Leave

    works = [work.with_progress(Ending()) for work in opened(config, store, TRIALS)]
    together = Together()
    for number, work in enumerate(works):
        together.begin(str(number), work)
    with pytest.raises(Leave):
        list(itertools.chain.from_iterable(iter(together.take_steps, None)))
    together.save_checkpoints()
    assert all(stages.synthetic_record(work).has(CHECKPOINT) for work in works)
    works = opened(config, store, TRIALS)
    first = stages.final_synthetic(works[0])  # alone, from what the population has kept
    distilled(works)
    assert len(first) == 6
    for own, work in zip(alone, works, strict=True):
        require_same(stages.synthetic_record(work), stages.synthetic_record(own))
