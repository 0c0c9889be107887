import dataclasses
import math

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from raydd.cluster.trial_report import TrialReport
from raydd.tuning import study as studies
from raydd.tuning.searcher import StudySearch


class Heard:
    def __init__(self):
        self.events, self.points = [], []

    def started(self, number, settings):
        self.events.append(("started", number, settings))

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
    return StudySearch(study, space, ["r_mean"], [heard])


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
        (report(step=5, r_mean=20.0), True, "process died"),
        (None, False, "without a report"),
    ],
)
def test_a_failure_is_kept_with_its_reason(search, study, heard, result, error, why):
    search.suggest("a")
    search.on_trial_complete("a", result, error)
    assert study.trials[0].state == TrialState.FAIL
    assert why in studies.reason(study.trials[0])
    assert why in heard.events[-1][3]


def test_no_more_than_so_many_at_once(study, space):
    search = StudySearch(study, space, ["r_mean"], at_once=2)
    assert search.suggest("a")
    assert search.suggest("b")
    assert search.suggest("c") is None
    search.on_trial_complete("a", error=True)
    assert search.suggest("c")


def test_nothing_starts_after_the_deadline(study, space):
    now = [0.0]
    search = StudySearch(study, space, ["r_mean"], deadline=60.0, clock=lambda: now[0])
    assert search.suggest("a") != Searcher.FINISHED
    now[0] = 61.0
    assert search.suggest("b") == Searcher.FINISHED


def test_several_objectives_are_told_together(config, space, address, with_sweep):
    study = studies.open_study(with_sweep(config, name="two", objectives=("r_mean", "seconds")), space, address)
    search = StudySearch(study, space, ["r_mean", "seconds"])
    search.suggest("a")
    search.on_trial_result("a", report(step=5, r_mean=20.0, seconds=4.0))
    search.on_trial_complete("a", report(step=10, r_mean=30.0, seconds=8.0, record="distill/0"))
    search.suggest("b")
    search.on_trial_complete("b", report(step=5, r_mean=2.0, seconds=4.0))
    assert study.trials[0].values == [30.0, 8.0]
    assert study.trials[1].state == TrialState.PRUNED
    assert [trial.number for trial in studies.pareto_front(study)] == [0]
