import json
import math
import re
import time
from statistics import median

import optuna
import pytest
from made_studies import OBJECTIVES, searched

from raydd.charts import sweeps as charts
from raydd.charts.trials import best_first, choices, front
from raydd.cluster.trial_report import TrialReport
from raydd.config import SweepConfig
from raydd.report.page import Page, render
from raydd.report.search import sweep_parts, trials_of
from raydd.tracking.history import History
from raydd.tuning.pruning import Pruning

NOTHING = History("none", "")
MOST_SECONDS, MOST_BYTES = 20, 5e6  # for 1,000 trials; some seconds on an idle machine


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    return searched(120)


def test_a_thousand_trials_make_a_page_in_seconds_and_of_some_megabytes():
    study = searched(1000)
    optuna.importance.PedAnovaImportanceEvaluator()  # its import costs more than its work
    began = time.process_time()
    parts = sweep_parts(study, OBJECTIVES, NOTHING)
    page = render(Page(title="Sweep", lead="", **parts))
    assert time.process_time() - began < MOST_SECONDS
    assert len(page) < MOST_BYTES
    assert all(f"trial {number}" in page for number in (parts["trials"][0]["number"],))


def test_trials_are_what_the_study_says(study: optuna.Study):
    trials = trials_of(study, OBJECTIVES, {})
    assert [trial.number for trial in trials] == list(range(120))
    states = [trial.state for trial in trials]
    assert states.count("failed") == 2
    assert states.count("stopped") > 5
    assert all(math.isfinite(trial.seconds) for trial in trials if trial.state == "complete")
    best = best_first(trials)
    assert best[0].r_mean == max(trial.values[0] for trial in study.get_trials() if trial.values)


def test_costs_that_are_no_objective_come_from_what_was_tracked():
    study = searched(4, ("r_mean",))
    trials = trials_of(study, ("r_mean",), {1: {"seconds": 7.0, "bytes": 5e5}})
    assert trials[1].seconds == 7
    assert math.isnan(trials[0].seconds)
    assert [trial.number for trial in front(trials, "seconds")] == [1]


def test_no_trial_beats_one_of_the_front(study: optuna.Study):
    trials = best_first(trials_of(study, OBJECTIVES, {}))
    for cost in ("seconds", "bytes"):
        for one in front(trials, cost):
            assert not any(
                (other.r_mean >= one.r_mean and getattr(other, cost) < getattr(one, cost))
                or (other.r_mean > one.r_mean and getattr(other, cost) <= getattr(one, cost))
                for other in trials
            )


def test_choices_name_the_better_loss(study: optuna.Study):
    rows = [row for row in choices(trials_of(study, OBJECTIVES, {})) if row["setting"] == "distill.loss"]
    assert [row["value"] for row in rows] == ["infonce", "wbce"]
    assert rows[0]["median"] > rows[1]["median"]
    complete = best_first(trials_of(study, OBJECTIVES, {}))
    assert [row["median"] for row in rows] == [
        median(trial.r_mean for trial in complete if trial.settings["distill.loss"] == loss)
        for loss in ("infonce", "wbce")
    ]


def test_a_hover_names_the_trial_and_its_settings(study: optuna.Study):
    drawn = charts.pareto(trials_of(study, OBJECTIVES, {}), "seconds")
    assert drawn
    joined = json.loads(drawn.figure)["data"][1]
    assert joined["hovertemplate"].startswith("trial %{customdata}")
    assert "image_lr" in joined["text"][0]


def test_settings_that_only_some_trials_have_are_no_axis(study: optuna.Study):
    trials = trials_of(study, OBJECTIVES, {})
    drawn = charts.parallel(trials, {"distill.image_lr": 0.5, "distill.blend_beta": 0.3, "distill.loss": 0.2})
    assert drawn
    labels = [axis["label"] for axis in json.loads(drawn.figure)["data"][0]["dimensions"]]
    assert labels == ["image_lr", "loss", "r_mean"]


@pytest.mark.parametrize("trials", [1, 12])
def test_what_so_few_trials_cannot_tell_is_left_out_and_said(trials: int):
    parts = sweep_parts(searched(trials), OBJECTIVES, NOTHING)
    assert not any(parts[name] for name in ("importance", "slices", "parallel"))
    assert bool(parts["history"]) == bool(parts["fronts"]) == (trials > 1)
    page = render(Page(title="Few", lead="", **parts))
    assert "too few to tell which settings matter" in page
    assert "<h1>Few</h1>" in page


def test_text_of_a_study_cannot_become_markup():
    study = searched(2, ("r_mean",))
    trial = study.ask()
    trial.set_user_attr("settings", {"distill.loss": "</script><b>"})
    trial.set_user_attr("reason", "<img src=x onerror=alert(1)>")
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    page = render(Page(title="<i>", lead="", **sweep_parts(study, ("r_mean",), NOTHING)))
    assert "<img src=x" not in page
    assert "</script><b>" not in page
    assert "<h1>&lt;i&gt;</h1>" in page


def test_the_page_says_how_well_each_rung_foretold_the_end():
    study, settings = searched(0, ("r_mean",)), SweepConfig(pruner="none")
    for score in (10.0, 20.0, 30.0):
        trial = study.ask()
        trial.set_user_attr("settings", {})
        for rung in settings.rungs:
            Pruning(study, settings).stops(trial, TrialReport(rung=rung, r_mean=score if rung > 5 else -score))
        study.tell(trial, score)
    page = render(Page(title="", lead="", **sweep_parts(study, ("r_mean",), NOTHING)))
    rows = re.findall(r'<tr><th scope="row">(\d+)</th><td>3</td><td>(.+?)</td><td>(\d)</td>', page)
    assert rows == [("5", "-1.00", "3"), ("15", "1.00", "1"), ("45", "1.00", "1")]
