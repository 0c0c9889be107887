import dataclasses
import math

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from raydd.cluster.trial_report import TrialReport
from raydd.config import SweepConfig
from raydd.tuning import searcher
from raydd.tuning import study as studies
from raydd.tuning.prices import READERS, Cost
from raydd.tuning.searcher import StudySearch


class Heard:
    def __init__(self):
        self.events, self.points = [], []

    def started(self, number, settings):
        self.events.append(("started", number, settings))

    def began(self, number, slot):
        self.events.append(("began", number, slot))

    def reported(self, number, report):
        self.events.append(("reported", number, report.step))
        self.points += [point["step"] for point in report.curve]

    def ended(self, number, state, report, reason):
        self.events.append(("ended", number, state.name, reason))


@pytest.fixture
def study(config, space, address):
    return studies.open_study(config, space, address)


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def search(study, space, heard):
    return StudySearch(study, space, SweepConfig(trials=9), [heard])


def report(**values):
    return {**dataclasses.asdict(TrialReport(**{"steps": 10, **values})), "training_iteration": 1, "done": False}


def test_a_trial_gets_its_number_and_settings(search, heard):
    settings = {"distill.blend": "none", "distill.image_lr": 0.1, "distill.momentum": 0.25}
    assert search.suggest("a") == {"number": 0, "settings": settings, "passed": []}
    assert heard.events == [("started", 0, settings)]


def test_the_end_reaches_the_study(search, study, heard):
    search.suggest("a")
    search.on_trial_result("a", report(step=5, r_mean=20.0))
    search.on_trial_result("a", report(step=5, r_mean=20.0))  # a trial that was started again repeats itself
    search.on_trial_result("a", report(step=10, r_mean=30.0, record="distill/0"))
    search.on_trial_complete("a", report(step=10, r_mean=30.0, record="distill/0"))
    trial = study.trials[0]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 30.0)
    assert studies.report(trial).record == "distill/0"
    assert heard.events[-1] == ("ended", 0, "COMPLETE", "")


def test_each_point_of_a_curve_is_told_once_and_the_study_has_them_all(search, study, heard):
    def until(step):
        points = [{"step": at, "distill/loss": 1.0 / at} for at in (2, 4, 6, 8, 10) if at <= step]
        return report(
            step=step, r_mean=20.0, curve=points
        )  # all of them: a trial that was started again repeats itself

    search.suggest("a")
    search.on_trial_result("a", until(4))
    search.on_trial_result("a", until(6))
    search.on_trial_complete("a", until(10))
    assert heard.points == [2, 4, 6, 8, 10]
    assert [point["step"] for point in studies.report(study.trials[0]).curve] == heard.points


def test_a_trial_that_was_stopped_is_pruned_with_its_last_score(search, study):
    search.suggest("a")
    search.on_trial_complete("a", report(step=5, r_mean=2.0))
    assert study.trials[0].state == TrialState.PRUNED
    assert studies.last_score(study.trials[0]) == 2.0


@pytest.mark.parametrize(
    ("result", "error", "why"),
    [
        (report(failure="NonFiniteError: the loss is nan"), False, "NonFiniteError: the loss is nan"),
        (report(step=10, r_mean=math.nan, record="distill/0"), False, "r_mean is nan at step 10 of 10"),
        (report(step=5, r_mean=20.0), True, "process ended with an error each time"),
        (None, False, "without a report"),
    ],
)
def test_a_failure_is_kept_with_its_reason(search, study, heard, result, error, why):
    search.suggest("a")
    search.on_trial_complete("a", result, error)
    assert study.trials[0].state == TrialState.FAIL
    assert why in studies.reason(study.trials[0])
    assert why in heard.events[-1][3]


def test_no_more_than_are_wanted_and_one_for_each_that_fails(study, space):
    search = StudySearch(study, space, SweepConfig(trials=2))
    assert search.suggest("a")
    assert search.suggest("b")
    assert search.suggest("c") is None
    search.on_trial_complete("a", report(failure="ValueError: no"))
    assert search.suggest("c")["number"] == 2
    search.on_trial_complete("b", report(step=10, r_mean=math.nan, record="distill/0"))  # diverged: an answer
    search.on_trial_complete("c", report(step=10, r_mean=1.0, record="distill/0"))
    assert search.suggest("d") == Searcher.FINISHED
    assert studies.counts(study) == {"fail": 1, "diverged": 1, "complete": 1}
    assert StudySearch(study, space, SweepConfig(trials=2)).suggest("d") == Searcher.FINISHED


@pytest.mark.parametrize(
    ("ends", "gave_up"),
    [
        (["E: step 3", "E: step 10", "E: step 11"], True),
        (["E: synthetic/a34e3604a951cae8", "E: synthetic/259bd5d9f65061ec", "E: synthetic/a34e3604a951cae8"], True),
        ([f"E: actor_id: {actor * 32}, pid: {pid}" for actor, pid in (("4c", 1), ("9b", 22), ("0f", 3))], True),
        (["E: step 3", "F: step 10", "E: step 11"], False),
        (["E: step 3", "E: step 10", ""], False),
        (["E: step 3", "E: step 10", "NonFiniteError: nan", "E: step 10"], False),
    ],
)
def test_equal_failures_in_a_row_are_the_last_ones(study, space, ends, gave_up):
    search = StudySearch(study, space, SweepConfig(trials=20, max_failures=3))
    assert search.suggest("runs on")
    for number, failure in enumerate(ends):
        assert search.suggest(str(number)) != Searcher.FINISHED
        record = "" if failure else "distill/0"
        search.on_trial_complete(str(number), report(step=10, r_mean=1.0, failure=failure, record=record))
    assert search.gave_up == (ends[-1] if gave_up else "")
    assert (search.suggest("next") == Searcher.FINISHED) == gave_up


def test_all_trials_that_one_outage_ended_count_as_one_failure(study, space):
    search, lost = StudySearch(study, space, SweepConfig(trials=40, max_failures=3)), "ActorDiedError: slot 0"
    names = [[f"{outage} {number}" for number in range(8)] for outage in range(3)]
    for outage, own in enumerate(names):
        assert not search.gave_up
        for name in own:
            assert search.suggest(name) != Searcher.FINISHED
        for name in own:
            search.on_trial_complete(name, report(failure=lost, again=True))
        assert bool(search.gave_up) == (outage == 2)
    assert studies.counts(study) == {}  # none has failed for good


def test_all_trials_of_a_machine_that_was_lost_three_times_count_as_one_failure_and_run_again(study, space, heard):
    search, names = (
        StudySearch(study, space, SweepConfig(trials=20, max_failures=3), [heard]),
        list(map(str, range(20))),
    )
    for name in names:
        assert search.suggest(name) != Searcher.FINISHED
    for name in names:
        search.lost(name, 3)
        search.on_trial_complete(name, error=True)
    assert not search.gave_up
    assert studies.counts(study) == {}
    assert studies.waiting_again(study) == 20
    assert "machine was lost" in heard.events[-1][3]


def test_a_trial_that_lost_three_processes_twice_fails(study, space):
    search = StudySearch(study, space, SweepConfig(trials=1))
    for _ in range(2):
        assert search.suggest("a")["number"] == 0
        search.lost("a", 3)
        search.on_trial_complete("a", error=True)
    assert studies.counts(study) == {"fail": 1}
    assert search.suggest("a")["number"] != 0


def test_an_error_after_a_lost_process_is_a_failure(search, study):
    search.suggest("a")
    search.lost("a", 1)
    search.on_trial_result("a", report(failure="AcceleratorError: CUDA error"))
    search.lost("a", 0)
    search.on_trial_complete("a", error=True)
    assert studies.reason(study.trials[0]) == "AcceleratorError: CUDA error"


@pytest.mark.parametrize(
    ("failure", "commands"),
    [
        ("ActorDiedError: slot 0", [[0, 1, 1, 1], [1, 1, 1], [7, 8, 9, 10]]),  # by the settings of trial 1
        ("PlaceError: the disk is full", [[0, 1, 1, 1], [1, 1, 1], [1, 1, 1]]),
    ],
)
def test_a_trial_that_loses_process_after_process_fails_and_the_sweep_gets_past_it(study, space, failure, commands):
    for expected in commands:
        studies.requeue_interrupted(study)
        search, ran = StudySearch(study, space, SweepConfig(trials=5, max_failures=3)), []
        while isinstance(given := search.suggest(str(len(ran))), dict):
            lost = {"failure": failure, "again": True} if given["number"] == 1 else {"record": "distill/0"}
            search.on_trial_complete(str(len(ran)), report(step=10, r_mean=1.0, **lost))
            ran.append(given["number"])
        assert ran == expected
    if failure.startswith("ActorDied"):
        assert studies.counts(study) == {"complete": 5, "fail": 1}
        assert {studies.reason(trial) for trial in studies.ended(study)} == {"", failure}


def test_spot_notices_never_end_a_sweep(study, space):
    search = StudySearch(study, space, SweepConfig(trials=9, max_failures=2))
    for _ in range(9):
        assert search.suggest("a") != Searcher.FINISHED
        search.on_trial_complete("a", report(failure="taken back", again=True, notice=True))
    assert not search.gave_up
    assert studies.counts(study) == {}


def test_trials_that_were_killed_for_memory_end_for_listeners_and_wait_to_be_run_again(search, study, heard):
    for name in ("a", "b"):
        search.suggest(name)
    search.run_again(TrialReport(failure="PlaceError: memory ran out", again=True))
    assert search.running == 0
    assert heard.events[2:] == [("ended", number, "FAIL", "PlaceError: memory ran out") for number in (0, 1)]
    assert studies.counts(study) == {}
    assert studies.waiting_again(study) == 2


def test_what_a_process_reported_before_it_ended_is_the_reason(search, study):
    search.suggest("a")
    search.on_trial_result("a", report(failure="AcceleratorError: CUDA error"))
    search.on_trial_complete("a", error=True)
    assert studies.reason(study.trials[0]) == "AcceleratorError: CUDA error"


def test_failed_trials_are_run_again_under_their_numbers_and_diverged_ones_are_not(search, study, space):
    for name, failure in (("a", "ValueError: no"), ("b", "NonFiniteError: nan"), ("c", "")):
        search.suggest(name)
        search.on_trial_complete(name, report(step=10, r_mean=1.0, failure=failure, record="" if failure else "r"))
    assert studies.retry_failed(study) == 1
    assert studies.retry_failed(study) == 0  # it waits already
    again = StudySearch(study, space, SweepConfig(trials=3))
    given = again.suggest("d")
    assert given["number"] == 0
    assert given["settings"] == studies.settings(study.trials[0])
    again.on_trial_complete("d", report(step=10, r_mean=2.0, record="r"))
    assert studies.counts(study) == {"complete": 2, "diverged": 1}


def test_nothing_starts_after_the_deadline(study, space):
    now = [0.0]
    search = StudySearch(study, space, SweepConfig(trials=9), deadline=60.0, clock=lambda: now[0])
    assert search.suggest("a") != Searcher.FINISHED
    now[0] = 61.0
    assert search.suggest("b") == Searcher.FINISHED


def test_the_time_left_is_shared_by_the_trials_that_are_wanted(study, space, monkeypatch):
    shares, now = [], [0.0]
    monkeypatch.setattr(searcher, "renew_sampler", lambda *_, seconds_per_trial, **__: shares.append(seconds_per_trial))
    search = StudySearch(study, space, SweepConfig(trials=4), deadline=60.0, clock=lambda: now[0])
    search.suggest("a")
    search.suggest("b")
    now[0] = 30.0
    search.on_trial_complete("a", report(step=10, r_mean=30.0, record="distill/0"))
    search.suggest("c")
    assert shares == [60.0 / 4, 2 * 60.0 / 3, 2 * 30.0 / 2]
    StudySearch(study, space, SweepConfig(trials=9)).suggest("d")
    assert shares[-1] == 0


def test_what_a_trial_costs_is_noted_and_the_sampler_is_told_it_with_its_part_of_the_experts(study, space, monkeypatch):
    told = []
    monkeypatch.setattr(searcher, "renew_sampler", lambda *_, seconds_of, **__: told.append(seconds_of))

    def cost_of(settings):
        assert settings["distill.momentum"] == 0.25  # as the space sets it
        return Cost(100 * settings["distill.image_lr"], {("experts", 0): 30.0, ("experts", 1): 30.0})

    StudySearch(study, space, SweepConfig(trials=9), cost_of=cost_of).suggest("a")
    assert study.trials[0].user_attrs[studies.PRICE] == pytest.approx(10.0)
    assert told[0]({"distill.blend": "none", "distill.image_lr": 0.5}) == pytest.approx(50.0 + 60.0 / READERS)
    unknown = StudySearch(study, space, SweepConfig(trials=9), cost_of=lambda _: Cost(math.nan, {}))
    unknown.suggest("b")
    assert studies.PRICE not in unknown.trial("b").user_attrs
    StudySearch(study, space, SweepConfig(trials=9)).suggest("c")
    assert told[2] is None


def test_the_study_knows_how_long_a_trial_held_its_place(study, space):
    now = [5.0]
    search = StudySearch(study, space, SweepConfig(trials=9), clock=lambda: now[0])
    search.suggest("a")
    search.suggest("b")
    now[0] = 7.0  # until here it waited for a machine
    search.began("a")
    now[0] = 10.0
    search.began("a")  # in another process, after the first one died
    now[0] = 12.5
    search.on_trial_complete("a", report(step=10, r_mean=30.0, seconds=2.0, record="distill/0"))
    assert study.trials[0].user_attrs[studies.HELD] == 5.5
    search.on_trial_complete("b", error=True)
    assert study.trials[1].user_attrs[studies.HELD] == 0.0


def test_a_trial_holds_a_shared_slot_from_when_the_slot_accepts_it(study, space, heard):
    now = [5.0]
    search = StudySearch(study, space, SweepConfig(trials=9), [heard], clock=lambda: now[0])
    search.suggest("a")
    now[0] = 7.0
    search.on_trial_result("a", {"slot": "f00d"})
    search.on_trial_result("a", report(slot="f00d", step=5, r_mean=20.0))
    now[0] = 9.0
    search.on_trial_result("a", {"slot": "beef"})  # another slot, since the first one's machine was lost
    search.on_trial_complete("a", report(slot="beef", step=10, r_mean=30.0, record="distill/0"))
    assert heard.events[1:-1] == [("began", 0, "f00d"), ("reported", 0, 5), ("began", 0, "beef")]
    assert study.trials[0].user_attrs[studies.HELD] == 2.0
    assert study.trials[0].user_attrs[studies.SLOT] == "beef"


def test_several_objectives_are_told_together(config, space, address, with_sweep):
    study = studies.open_study(with_sweep(config, name="two", objectives=("r_mean", "seconds")), space, address)
    search = StudySearch(study, space, SweepConfig(trials=9, objectives=("r_mean", "seconds")))
    search.suggest("a")
    search.on_trial_result("a", report(step=5, r_mean=20.0, seconds=4.0))
    search.on_trial_complete("a", report(step=10, r_mean=30.0, seconds=8.0, record="distill/0"))
    search.suggest("b")
    search.on_trial_complete("b", report(step=5, r_mean=2.0, seconds=4.0))
    assert study.trials[0].values == [30.0, 8.0]
    assert study.trials[1].state == TrialState.PRUNED
    assert [trial.number for trial in studies.pareto_front(study)] == [0]
