"""A slot without Ray: each errand is told what its trial would have reported alone."""

import threading
import time

import pytest
from claimant_alone import Alone

import raydd
from raydd.cluster import claims
from raydd.cluster.trial_report import TrialReport
from raydd.place import open_store
from raydd.settings import with_settings
from raydd.stages import synthetic_record
from raydd.stages.matching import CHECKPOINT
from trainables import slot as slots
from trainables.distill import distillation_reports
from trainables.slot import Desk, Slot

TRIALS = [
    {"distill.image_lr": 0.02},
    {"distill.image_lr": 0.05, "distill.seed": 3, "distill.steps": 40},
    {"distill.similarity": "identity", "distill.steps": 20},  # of another shape
]


@pytest.fixture
def claimant(monkeypatch):
    found = Alone()
    monkeypatch.setattr(claims, "Claimant", lambda ledger, holder: found)
    return found


def reports_of(slot: Slot, errand: str) -> list[TrialReport]:
    found = [reported(slot, errand)]
    while not (found[-1].finished or found[-1].failure):
        found.append(reported(slot, errand))
    return found


def reported(slot: Slot, errand: str) -> TrialReport:
    report, broken = slot.next(errand)
    assert not broken
    return TrialReport.of(report)


def trial(number: int, **settings: object) -> dict:
    return {"number": number, "passed": [], "settings": {**TRIALS[number % len(TRIALS)], **settings}}


def test_each_errand_is_told_what_its_trial_reports_alone(config, claimant, tmp_path):
    slot = Slot(config, "slot 0", {}, None)
    for number in range(len(TRIALS)):
        slot.begin(str(number), trial(number))
    all_told = [reports_of(slot, str(number)) for number in range(len(TRIALS))]
    for told, settings in zip(all_told, TRIALS, strict=True):
        own = with_settings(config, {**settings, "place.home": str(tmp_path / "other")})
        alone = list(distillation_reports(raydd.open(own)))
        assert [(one.step, one.rung, len(one.students)) for one in told] == [
            (one.step, one.rung, len(one.students)) for one in alone
        ]
        for one, other in zip(told, alone, strict=True):
            assert one.r_mean == pytest.approx(other.r_mean, abs=5)  # a picture of eight has 12.5 points
            assert [point["step"] for point in one.curve] == [point["step"] for point in other.curve]
        losses = [
            [point["distill/loss"] for one in each for point in one.curve if "distill/loss" in point]
            for each in (told, alone)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_what_is_wrong_with_a_trial_ends_it_alone(config, claimant):
    slot = Slot(config, "slot 0", {}, None)
    slot.begin("diverges", trial(0, **{"distill.start_rate": 1e6}))
    slot.begin("mistaken", trial(0, **{"distill.pairs": 100000}))
    slot.begin("sound", trial(0))
    assert "NonFiniteError" in reports_of(slot, "diverges")[-1].failure
    assert "100000" in reports_of(slot, "mistaken")[-1].failure
    assert reports_of(slot, "sound")[-1].finished


def test_a_stopped_trial_keeps_its_state_and_the_others_go_on(config, claimant):
    slot = Slot(config, "slot 0", {}, None)
    long = {"distill.steps": 2000, "distill.checkpoint_every": 2000}
    slot.begin("long", trial(0, **long))
    assert reported(slot, "long").rung == 5
    slot.stop("long")
    slot.begin("short", trial(1))
    assert reports_of(slot, "short")[-1].finished
    work = raydd.open(with_settings(config, {**TRIALS[0], **long}), open_store(config.place))
    assert synthetic_record(work).has(CHECKPOINT)


def test_a_process_told_to_leave_keeps_every_state(config, claimant, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(slots.os, "_exit", lambda code: ended.set())
    slot, long = Slot(config, "slot 0", {}, None), {"distill.steps": 2000, "distill.checkpoint_every": 2000}
    for number in (0, 1):
        slot.begin(str(number), trial(number, **long))
        assert reported(slot, str(number)).rung == 5

    claimant.leaving = True
    works = [raydd.open(with_settings(config, {**TRIALS[number], **long})) for number in (0, 1)]
    end = time.monotonic() + 60
    while not all(synthetic_record(work).has(CHECKPOINT) for work in works):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert not ended.is_set()


def test_a_slot_that_is_closed_has_kept_every_state(config, claimant):
    slot, long = Slot(config, "slot 0", {}, None), {"distill.steps": 2000, "distill.checkpoint_every": 2000}
    slot.begin("0", trial(0, **long))
    assert reported(slot, "0").rung == 5
    slot.close()
    assert synthetic_record(raydd.open(with_settings(config, {**TRIALS[0], **long}))).has(CHECKPOINT)


def test_a_broken_gpu_is_told_to_all_and_the_process_ends(config, claimant, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(slots.os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(slots, "LAST_WORDS_SECONDS", 0.0)

    def broken(self: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(slots.Together, "look", broken)
    slot = Slot(config, "slot 0", {}, None)
    slot.begin("0", trial(0))
    report, broken = slot.next("0")
    assert broken
    assert "CUDA error" in report["failure"]
    assert ended.wait(60)


def test_a_desk_fills_all_places_first_and_then_seats_like_beside_like(config, monkeypatch):
    desk = Desk(with_settings(config, {"sweep.together": 2}), {}, None)
    monkeypatch.setattr(slots, "slots_to_come", lambda cpus, gpus: 2)
    monkeypatch.setattr(Desk, "_started", lambda self, number: f"slot {number}")
    first, other = TRIALS[0], TRIALS[2]
    assert [desk.seat("a", first), desk.seat("b", other)] == ["slot 0", "slot 1"]
    assert [desk.seat("c", other), desk.seat("d", first)] == ["slot 1", "slot 0"]
    desk.leave("b")
    assert desk.seat("e", first) == "slot 1"  # where there is room
    assert desk.seat("f", first) in ("slot 0", "slot 1")  # a lost trial's seat is no reason to wait
