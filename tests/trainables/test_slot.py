"""A slot, without Ray but where SIGTERM comes: each errand is told what its trial would have reported alone."""

import itertools
import os
import threading
import time
from collections import Counter
from types import SimpleNamespace

import psutil
import pytest
import ray
import torch
from claimant_alone import Alone

import raydd
from raydd.cluster import sharing
from raydd.cluster.claims import open_claims
from raydd.cluster.sharing import Shared
from raydd.cluster.trial_report import TrialReport
from raydd.distill.population import Population
from raydd.place import open_store
from raydd.settings import with_settings
from raydd.stages import synthetic_record
from raydd.stages.matching import CHECKPOINT
from trainables import distill as distilling
from trainables import slot as slots
from trainables.distill import distillation_reports
from trainables.slot import Desk, Slot

ALONE = Shared("sweep", {}, None)
TRIALS = [
    {"distill.image_lr": 0.02},
    {"distill.image_lr": 0.05, "distill.seed": 3, "distill.steps": 40},
    {"distill.similarity": "identity", "distill.steps": 20},  # of another shape
]


@pytest.fixture
def claimant(monkeypatch):
    found = Alone()
    monkeypatch.setattr(sharing, "Claimant", lambda ledger, holder: found)
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
    slot = Slot(config, "slot 0", ALONE)
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
    slot = Slot(config, "slot 0", ALONE)
    slot.begin("diverges", trial(0, **{"distill.start_rate": 1e6}))
    slot.begin("mistaken", trial(0, **{"distill.pairs": 100000}))
    slot.begin("sound", trial(0))
    assert "NonFiniteError" in reports_of(slot, "diverges")[-1].failure
    assert "100000" in reports_of(slot, "mistaken")[-1].failure
    assert reports_of(slot, "sound")[-1].finished


def test_a_stopped_trial_keeps_its_state_and_the_others_go_on(config, claimant):
    slot = Slot(config, "slot 0", ALONE)
    long = {"distill.steps": 2000, "distill.checkpoint_every": 2000}
    slot.begin("long", trial(0, **long))
    assert reported(slot, "long").rung == 5
    slot.stop("long")
    slot.begin("short", trial(1))
    assert reports_of(slot, "short")[-1].finished
    work = raydd.open(with_settings(config, {**TRIALS[0], **long}), open_store(config.place))
    assert synthetic_record(work).has(CHECKPOINT)


@pytest.mark.slow
def test_a_process_told_to_leave_keeps_every_state(config, claimant, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(slots.os, "_exit", lambda code: ended.set())
    slot, long = Slot(config, "slot 0", ALONE), {"distill.steps": 2000, "distill.checkpoint_every": 2000}
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


def test_a_slot_whose_machine_is_taken_back_accepts_no_trial(config, claimant, monkeypatch):
    slot = Slot(config, "slot 0", ALONE)
    claimant.leaving = True
    assert slot._closed.wait(60)
    slot.begin("0", trial(0))
    report = reported(slot, "0")
    assert report.again
    assert report.notice  # so it does not count as a lost slot
    slot.stop("1")
    slot.begin("1", trial(1))
    assert not reported(slot, "1").notice


def test_a_slot_that_is_closed_has_kept_every_state(config, claimant):
    slot, long = Slot(config, "slot 0", ALONE), {"distill.steps": 2000, "distill.checkpoint_every": 2000}
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

    monkeypatch.setattr(slots.Together, "take_steps", broken)
    slot = Slot(config, "slot 0", ALONE)
    slot.begin("0", trial(0))
    report, broken = slot.next("0")
    assert broken
    assert "CUDA error" in report["failure"]
    assert ended.wait(60)


MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4.00 GiB of which 1 is free."


@pytest.fixture
def room_for(monkeypatch):
    """Let steps of more trials than so many, or scores beside so many, lack memory; gives how many were stepped."""
    stepped = list[int]()

    def limit(most: int) -> list[int]:
        step = Population.step

        def limited(self: Population) -> None:
            stepped.append(len(self.stepping))
            if len(self.stepping) > most:
                raise torch.OutOfMemoryError(MESSAGE)
            step(self)

        monkeypatch.setattr(Population, "step", limited)
        return stepped

    return limit


def test_trials_that_have_no_room_together_go_on_by_halves(config, claimant, room_for, caplog, tmp_path):
    own = with_settings(config, {**TRIALS[0], "distill.seed": 3, "place.home": str(tmp_path / "other")})
    alone = list(distillation_reports(raydd.open(own)))
    stepped = room_for(2)
    slot = Slot(config, "slot 0", ALONE)
    for number in range(5):
        slot.begin(str(number), trial(0, **{"distill.seed": number}))
    for number in range(5):
        told = reports_of(slot, str(number))
        assert told[-1].finished
        assert [one.step for one in told] == [one.step for one in alone]
        if number == 3:
            assert told[-1].r_mean == pytest.approx(alone[-1].r_mean, abs=5)
    assert "Tried to allocate 2.00 GiB" in caplog.text
    assert sum(trials > 2 for trials in stepped) == 1  # found once, and kept to


def test_a_trial_that_lacks_memory_on_its_way_tells_no_rung_twice(config, claimant, monkeypatch):
    steps, step = list[int](), Population.step

    def lacking_once(self: Population) -> None:
        steps.append(len(self.stepping))
        if len(steps) == 15:  # beyond the first rungs
            raise torch.OutOfMemoryError(MESSAGE)
        step(self)

    monkeypatch.setattr(Population, "step", lacking_once)
    slot = Slot(config, "slot 0", ALONE)
    for number in (0, 1):
        slot.begin(str(number), trial(0, **{"distill.seed": number}))
    for number in (0, 1):
        told = reports_of(slot, str(number))
        assert [one.rung for one in told] == [5, 15, 45, 0]
    assert len(steps) > 100  # one after the other from then on


def test_a_trial_that_has_no_room_by_itself_ends_alone(config, claimant, room_for):
    room_for(0)
    slot = Slot(config, "slot 0", ALONE)
    for number in (0, 1):
        slot.begin(str(number), trial(number))
    for number in (0, 1):
        failure = reports_of(slot, str(number))[-1].failure
        assert "Out of GPU memory with one trial" in failure
        assert "sweep.gpus" in failure


def test_a_score_that_has_no_room_is_taken_again_beside_fewer_trials(config, claimant, monkeypatch):
    scored, score = list[int](), distilling.end_scores

    def scores(work, point):
        scored.append(len(scored))
        if len(scored) == 1:
            raise torch.OutOfMemoryError(MESSAGE)
        return score(work, point)

    monkeypatch.setattr(distilling, "end_scores", scores)
    slot = Slot(config, "slot 0", ALONE)
    for number in (0, 1):
        slot.begin(str(number), trial(0, **{"distill.seed": number}))
    assert all(reports_of(slot, str(number))[-1].finished for number in (0, 1))
    assert len(scored) == 3


def test_a_trial_that_is_stopped_before_it_begins_does_not_begin(config, claimant):
    slot = Slot(config, "slot 0", ALONE)
    slot.stop("0")  # as calls that waited together for the slot's start may come in any order
    slot.begin("0", trial(0))
    slot.begin("1", trial(0))
    assert reports_of(slot, "1")[-1].finished
    report = reported(slot, "0")
    assert report.again
    assert "does not know the trial" in report.failure


class Seats:
    """A desk's slots, with what they were told to stop."""

    def __init__(self, monkeypatch, number: int) -> None:
        self.stopped: list[tuple[str, str]] = []
        monkeypatch.setattr(slots, "slots_to_come", lambda cpus, gpus, held: number)
        monkeypatch.setattr(Desk, "_start_slot", lambda desk, number: self._slot(f"slot {number}"))
        monkeypatch.setattr(Desk, "_is_silent", lambda desk, slot: slot in self.silent)
        self.silent: set[int] = set()

    def _slot(self, name: str) -> SimpleNamespace:
        stop = SimpleNamespace(remote=lambda errand: self.stopped.append((name, errand)))
        return SimpleNamespace(name=name, stop=stop)


def test_a_desk_fills_all_places_first_and_then_seats_like_beside_like(config, monkeypatch):
    desk, number = Desk(with_settings(config, {"sweep.together": 2}), ALONE), itertools.count()
    Seats(monkeypatch, 2)

    def seat(errand, settings):
        return desk.seat(errand, {"number": next(number), "settings": settings}).name

    first, other = TRIALS[0], TRIALS[2]
    assert [seat("a", first), seat("b", other)] == ["slot 0", "slot 1"]
    assert [seat("c", other), seat("d", first)] == ["slot 1", "slot 0"]
    desk.leave("b")
    assert seat("e", first) == "slot 1"  # where there is room
    assert seat("f", first) in ("slot 0", "slot 1")  # more than there is room for is no reason to wait


def test_a_slot_whose_machine_does_not_come_is_filled_last(config, monkeypatch):
    desk, seats = Desk(with_settings(config, {"sweep.together": 2}), ALONE), Seats(monkeypatch, 2)
    number = itertools.count()

    def seat(errand):
        return desk.seat(errand, {"number": next(number), "settings": TRIALS[0]}).name

    assert [seat("a"), seat("b")] == ["slot 0", "slot 1"]
    seats.silent.add(1)
    assert [seat("c"), seat("d")] == ["slot 0", "slot 1"]  # which has room, and the other has not
    desk.leave("a")
    desk.leave("b")
    assert seat("b again") == "slot 0"


def test_a_slot_that_stays_empty_ends_and_another_may_start(config, monkeypatch):
    now, ended = [0.0], []
    monkeypatch.setattr(slots.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(slots.ray, "kill", lambda slot: ended.append(slot.name))
    desk, number = Desk(with_settings(config, {"sweep.together": 2}), ALONE), itertools.count()
    Seats(monkeypatch, 3)

    def seat(errand, settings=TRIALS[0]):
        return desk.seat(errand, {"number": next(number), "settings": settings}).name

    def ended_at(seconds):
        now[0] = seconds
        desk.end_idle()
        return ended

    assert [seat("a"), seat("b"), seat("c")] == ["slot 0", "slot 1", "slot 2"]
    desk.leave("b")
    assert ended_at(10.0) == []
    assert seat("d", TRIALS[2]) == "slot 1"  # not empty any more
    desk.leave("d")
    assert ended_at(10.0 + slots.IDLE_SECONDS) == []
    desk.leave("a")
    assert ended_at(10.0 + 2 * slots.IDLE_SECONDS) == ["slot 1"]
    assert seat("e") == "slot 1"  # a new one
    assert ended_at(10.0 + 3 * slots.IDLE_SECONDS) == ["slot 1", "slot 0"]


def test_like_trials_take_all_places_and_as_many_each(config, monkeypatch):
    desk = Desk(with_settings(config, {"sweep.together": 16}), ALONE)
    Seats(monkeypatch, 4)
    seated = [desk.seat(str(number), {"number": number, "settings": TRIALS[0]}).name for number in range(24)]
    assert Counter(seated) == {f"slot {number}": 6 for number in range(4)}


def test_a_trial_that_comes_again_is_stopped_where_it_sat(config, monkeypatch):
    desk, seats = Desk(with_settings(config, {"sweep.together": 2}), ALONE), Seats(monkeypatch, 2)
    for errand, number in (("a", 0), ("b", 1), ("c", 0)):  # the errand of trial 0 was lost with its machine
        desk.seat(errand, {"number": number, "settings": TRIALS[0]})
    assert seats.stopped == [("slot 0", "a")]
    desk.leave("a")  # late: it has no seat any more


def test_a_slot_makes_no_expert_before_a_step_draws_it(config, claimant):
    config = with_settings(config, {"distill.all_experts_at": 45, "sweep.together": 2})
    slot = Slot(config, "slot 0", ALONE)
    slot.begin("0", trial(0))
    assert reported(slot, "0").rung == 5
    assert 3 in raydd.open(config, open_store(config.place)).missing_experts
    assert reports_of(slot, "0")[-1].finished
    assert raydd.open(config, open_store(config.place)).missing_experts == []


# From here on this process is a driver of Ray, in which a slot cannot run.


@pytest.mark.slow
def test_a_process_that_gets_sigterm_keeps_every_state_and_ends_although_its_trials_wait(ray_here, config):
    config = with_settings(config, {"distill.steps": 4000, "distill.checkpoint_every": 4000})
    kind = ray.remote(Slot).options(num_cpus=1, max_concurrency=6)
    slot = kind.remote(config, "slot 0", Shared("sweep", {}, open_claims(config.place.home)))
    trials = {str(number): trial(0, **{"distill.seed": number}) for number in range(2)}
    for errand, given in trials.items():
        ray.get(slot.begin.remote(errand, given))
    told = [ray.get(slot.next.remote(errand)) for errand in trials]  # at their first rungs
    process = psutil.Process(ray.get(slot.__ray_call__.remote(lambda _: os.getpid())))

    def last_report(errand: str, waiting: ray.ObjectRef) -> dict:
        while not (report := ray.get(waiting, timeout=60)[0])["failure"]:  # a further rung
            waiting = slot.next.remote(errand)
        return report

    waiting = slot.next.remote("0")  # while the other one still passes a report on
    process.terminate()
    last = [last_report("0", waiting), last_report("1", slot.next.remote("1"))]
    assert [(report["again"], report["notice"]) for report in last] == [(True, True)] * 2
    process.wait(60)
    for given, (report, _) in zip(trials.values(), told, strict=True):
        work = raydd.open(with_settings(config, given["settings"]), open_store(config.place))
        assert int(synthetic_record(work).read_tensors(CHECKPOINT)["done"]) >= report["step"] > 0


@pytest.mark.slow
def test_a_process_without_trials_ends_at_once_on_sigterm(ray_here, config):
    kind = ray.remote(Slot).options(num_cpus=1, max_concurrency=6)
    slot = kind.remote(config, "slot 0", Shared("sweep", {}, open_claims(config.place.home)))
    process = psutil.Process(ray.get(slot.__ray_call__.remote(lambda _: os.getpid())))
    process.terminate()
    process.wait(60)
