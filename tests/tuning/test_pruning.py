"""What is stopped at a rung: as Optuna's pruners would, the same under any driver, and by all objectives."""

import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from raydd.cluster.trial_report import TrialReport
from raydd.config import SweepConfig
from raydd.errors import ConfigError
from raydd.tuning import pruning
from raydd.tuning import study as studies
from raydd.tuning.pruning import Look, Pruning, Standing, bracket_of, is_weak, passed_rungs, rung_forecasts

optuna.logging.set_verbosity(optuna.logging.ERROR)
RUNGS = (5, 15, 45)
SCORES = st.lists(st.tuples(*[st.integers(0, 30)] * 4), min_size=1, max_size=25)  # at three rungs, and at the end


def new_study(*objectives: str) -> optuna.Study:
    return optuna.create_study(directions=[studies.DIRECTIONS[name] for name in objectives or ("r_mean",)])


def run(study: optuna.Study, sweep: SweepConfig, scores, *, pruning: Pruning | None = None, trial=None, **costs) -> int:
    """A trial from its start to its end or to where it is stopped; gives that rung, 100 for the end."""
    pruning, trial = pruning or Pruning(study, sweep), trial or study.ask()
    for rung, score in zip(sweep.rungs, scores, strict=False):
        if pruning.stops(trial, TrialReport(rung=rung, r_mean=float(score), **costs)):
            study.tell(trial, state=TrialState.PRUNED)
            return rung
    end = TrialReport(r_mean=float(scores[-1]), **costs)
    study.tell(trial, [end.objective(name) for name in sweep.objectives])
    return 100


def run_optuna(study: optuna.Study, scores) -> int:
    trial = study.ask()
    for rung, score in zip(RUNGS, scores, strict=False):
        trial.report(float(score), rung)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return rung
    study.tell(trial, float(scores[-1]))
    return 100


@given(SCORES)
@settings(max_examples=60)
def test_asha_stops_what_optuna_s_successive_halving_stops(scores) -> None:
    theirs = optuna.create_study(
        direction="maximize",
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=5, reduction_factor=pruning.REDUCTION),
    )
    ours, sweep = new_study(), SweepConfig(pruner="asha", rungs=RUNGS)
    scores = [tuple(2 * pruning.NOISE * score for score in one) for one in scores]  # no difference is noise
    assert [run(ours, sweep, one) for one in scores] == [run_optuna(theirs, one) for one in scores]


@pytest.mark.parametrize("pruner", ["asha", "hyperband"])
def test_what_may_be_noise_stops_no_trial(pruner: str) -> None:
    study, sweep = new_study(), SweepConfig(pruner=pruner)
    ends = [run(study, sweep, [50 + pruning.NOISE * share] * 4) for share in (1.0, 0.5, 0.0, 1.0, 0.25)]
    assert ends == [100] * 5
    behind, ahead = ({rung: Look(score) for rung in RUNGS} for score in (49.9, 50 + pruning.NOISE))
    assert is_weak(Standing(0, behind), [Standing(0, ahead)] * 2, 45, sweep)  # by more than noise


def test_the_more_trials_go_on_the_less_noise_counts() -> None:
    sweep = SweepConfig(pruner="asha")
    own, ahead = (Standing(0, {45: Look(score)}) for score in (50.0, 50 + 0.4 * pruning.NOISE))
    assert not is_weak(own, [ahead] * 4, 45, sweep)  # one of five goes on, and what is behind by noise
    assert is_weak(own, [ahead] * 8, 45, sweep)  # three of nine go on


@given(SCORES)
@settings(max_examples=40)
def test_the_median_is_optuna_s(scores) -> None:
    scores = [sorted(one) for one in scores]  # Optuna's takes the best score so far, whatever rung it is from
    pruner = optuna.pruners.MedianPruner(n_startup_trials=pruning.FIRST_COMPLETE)
    theirs = optuna.create_study(direction="maximize", pruner=pruner)
    ours, sweep = new_study(), SweepConfig(pruner="median", rungs=RUNGS)
    assert [run(ours, sweep, one) for one in scores] == [run_optuna(theirs, one) for one in scores]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=4, max_size=9))
@settings(max_examples=60)
def test_wilcoxon_is_optuna_s(pairs) -> None:
    theirs = optuna.create_study(direction="maximize", pruner=optuna.pruners.WilcoxonPruner(p_threshold=pruning.WORSE))
    ours, best = zip(*pairs, strict=True)
    values = {step: float(score) for step, score in enumerate(best)}
    theirs.add_trial(optuna.trial.create_trial(value=1.0, intermediate_values=values))
    trial = theirs.ask()
    for step, score in enumerate(ours):
        trial.report(float(score), step)

    def standing(number: int, students, end: Look | None = None) -> Standing:
        return Standing(number, {5: Look(0.0, students=tuple(map(float, students)))}, end)

    sweep = SweepConfig(pruner="wilcoxon", rung_students=len(pairs))
    others = [standing(0, best, Look(1.0)), standing(2, [100.0] * len(pairs), Look(0.5)), standing(3, [100.0])]
    assert is_weak(standing(1, ours), others, 5, sweep) == trial.should_prune()


def test_hyperband_deals_trials_as_optuna_does_and_a_bracket_ignores_rungs_and_others() -> None:
    dealt = [bracket_of(number, 3) for number in range(17_000)]
    shares = [dealt.count(bracket) / 1000 for bracket in range(3)]
    assert shares == pytest.approx([9, 5, 3], abs=0.3)  # HyperbandPruner(5, 100, 3)._trial_allocation_budgets
    sweep = SweepConfig(pruner="hyperband", rungs=RUNGS)
    first, second, last = ([n for n in range(60) if bracket_of(n, 3) == bracket][:3] for bracket in range(3))

    def stopped(number: int, others: list[int], rung: int) -> bool:
        looks = {at: Look(10.0) for at in RUNGS}
        better = [Standing(other, {at: Look(20.0) for at in RUNGS}) for other in others]
        return is_weak(Standing(number, looks), better, rung, sweep)

    assert [stopped(first[0], first[1:], rung) for rung in RUNGS] == [True, True, True]
    assert [stopped(second[0], second[1:], rung) for rung in RUNGS] == [False, True, True]
    assert [stopped(last[0], last[1:], rung) for rung in RUNGS] == [False, False, True]
    assert not stopped(first[0], second + last, 5)


def test_a_new_driver_stops_what_the_old_one_would_have_stopped() -> None:
    study, sweep = new_study(), SweepConfig(pruner="asha")
    old = Pruning(study, sweep)
    assert [run(study, sweep, [score] * 4, pruning=old) for score in (50, 48, 46, 44)] == [100, 5, 5, 5]
    assert run(study, sweep, [30] * 4, pruning=Pruning(study, sweep)) == 5
    assert run(study, sweep, [30] * 4, pruning=old) == 5


@given(SCORES, st.data())
@settings(max_examples=40)
def test_trials_that_were_interrupted_and_drivers_that_died_change_nothing(scores, data) -> None:
    for name in ("asha", "hyperband", "median"):
        sweep = SweepConfig(pruner=name, rungs=RUNGS)
        peaceful, disturbed = new_study(), new_study()
        expected = [run(peaceful, sweep, one) for one in scores]
        found = []
        for one in scores:
            trial = disturbed.ask()
            trial.set_user_attr(studies._AGAIN, len(found))  # those that were asked again have taken numbers
            for rung, score in zip(RUNGS[: data.draw(st.integers(0, 3))], one, strict=False):
                weak = Pruning(disturbed, sweep).stops(trial, TrialReport(rung=rung, r_mean=float(score)))
                if weak:
                    break
            studies.fail(disturbed, trial, studies.INTERRUPTED)  # the driver died before it told Tune
            again = disturbed.ask()
            again.set_user_attr(studies._AGAIN, len(found))
            found.append(run(disturbed, sweep, one, trial=again))
        assert found == expected


def test_what_a_trial_passed_it_does_not_pass_again() -> None:
    study, sweep = new_study(), SweepConfig(pruner="asha")
    first = study.ask()
    assert not Pruning(study, sweep).stops(first, TrialReport(rung=5, r_mean=30.0))
    for score in (40, 50, 60):
        run(study, sweep, [score] * 4)
    studies.fail(study, first, studies.INTERRUPTED)
    again = study.ask()
    again.set_user_attr(studies._AGAIN, 0)
    assert passed_rungs(study, 0) == [5]
    assert not Pruning(study, sweep).stops(again, TrialReport(rung=5, r_mean=30.0))  # though 30 is the least by now
    assert Pruning(study, sweep).stops(again, TrialReport(rung=15, r_mean=30.0))
    assert passed_rungs(study, 0) == [5]


OBJECTIVES = ("r_mean", "seconds", "bytes")


@given(
    st.lists(st.tuples(*[st.integers(1, 30)] * 3), min_size=1, max_size=20),
    st.sampled_from(["asha", "median", "hyperband"]),
)
@settings(max_examples=60)
def test_with_several_objectives_what_none_beats_goes_on(values, pruner) -> None:
    sweep = SweepConfig(pruner=pruner, objectives=OBJECTIVES)
    study = new_study(*OBJECTIVES)
    for place, (r_mean, seconds, size) in enumerate(values):
        stopped = run(study, sweep, [r_mean] * 4, seconds=float(seconds), bytes=size) < 100
        if stopped:
            assert any(
                other[0] > r_mean and other[1] <= pruning.NEAR * seconds and other[2] <= size
                for other in values[:place]
            )


def test_with_several_objectives_a_trial_that_is_worse_in_all_is_stopped() -> None:
    sweep = SweepConfig(pruner="asha", objectives=("r_mean", "bytes"))
    study = new_study("r_mean", "bytes")
    assert run(study, sweep, [50] * 4, bytes=100) == 100
    assert run(study, sweep, [40] * 4, bytes=90) == 100
    assert run(study, sweep, [40] * 4, bytes=110) == 5
    sweep = SweepConfig(pruner="wilcoxon", rung_students=4, objectives=("r_mean", "bytes"))
    study = new_study("r_mean", "bytes")
    assert run(study, sweep, [50] * 4, bytes=100, students=[50.0] * 4) == 100
    assert run(study, sweep, [40] * 4, bytes=90, students=[40.0] * 4) == 100
    assert run(study, sweep, [40] * 4, bytes=110, students=[40.0] * 4) == 5


def test_a_score_that_is_not_finite_ends_a_trial_and_none_of_the_others() -> None:
    study, sweep = new_study(), SweepConfig(pruner="none")
    assert run(study, sweep, [math.nan] * 4) == 5
    assert [run(study, sweep, [score] * 4) for score in (50, 10)] == [100, 100]


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_what_was_scored_by_other_students_stops_nothing(pruner) -> None:
    study, sweep = new_study(), SweepConfig(pruner=pruner, rungs=RUNGS)
    for _ in range(4):
        assert run(study, sweep, [50] * 4, students=[50.0]) == 100
    assert run(study, sweep, [40] * 4, students=[40.0]) == 5
    assert run(study, sweep, [40] * 4, students=[40.0] * 3) == 100  # as after a change of sweep.rung_students


def test_each_rung_is_held_against_the_end() -> None:
    study, sweep = new_study(), SweepConfig(pruner="none", rungs=RUNGS)
    for scores in ((1, 4, 3, 10), (2, 3, 4, 20), (3, 2, 1, 30), (4, 1, 2, 40)):
        run(study, sweep, scores)
    running = study.ask()
    Pruning(study, sweep).stops(running, TrialReport(rung=5, r_mean=1.0))
    found = [(row.rung, row.trials, row.correlation, row.place) for row in rung_forecasts(study, ["r_mean"])]
    assert found == [(5, 4, pytest.approx(1), 1), (15, 4, pytest.approx(-1), 4), (45, 4, pytest.approx(-0.6), 3)]
    assert rung_forecasts(new_study(), ["r_mean"]) == []


def test_too_few_students_for_a_test_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sweep.rung_students is 1, but must be 4 or more over all rungs"):
        SweepConfig(pruner="wilcoxon", rung_students=1)
    with pytest.raises(ConfigError, match=r"sweep.rungs is \(15, 5\)"):
        SweepConfig(rungs=(15, 5))
