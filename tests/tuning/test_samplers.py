"""Samplers on real studies in SQLite."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from raydd.errors import ConfigError
from raydd.tuning import study as studies
from raydd.tuning.samplers import (
    MODELLED,
    SAMPLERS,
    STARTUP_TRIALS,
    WholeSpaceSampler,
    _begun_trials,
    _fixed_space_trials,
    find_sampler,
    longest_affordable,
    pace,
    renew_sampler,
)

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
CMAES = importlib.util.find_spec("cmaes") is not None


def ask(study, space, name="auto"):
    renew_sampler(study, 0, name)
    trial = study.ask()
    space.settings(trial)
    return trial


def score(trial):
    return -((np.log(trial.params["distill.image_lr"]) - np.log(0.3)) ** 2) + (trial.params["distill.blend"] == "fixed")


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "cmaes" or CMAES])
def test_draws_depend_on_the_seed_and_the_place_alone(config, space, address, with_sweep, name):
    def drawn(sweep, new_driver):
        config_of = with_sweep(config, name=sweep)
        study = studies.open_study(config_of, space, address)
        for _ in range(STARTUP_TRIALS + 2):
            if new_driver:
                study = studies.open_study(config_of, space, address)
            trial = ask(study, space, name)
            study.tell(trial, score(trial))
        return [trial.params for trial in study.trials]

    assert drawn("one", False) == drawn("many", True)


@pytest.mark.parametrize("ended", [2, 12])  # trials before: with few a setting is drawn at random, later by the model
def test_queued_trials_that_leave_settings_open_are_not_alike(config, space, address, ended):
    study = studies.open_study(config, space, address)
    for _ in range(ended):
        trial = ask(study, space)
        study.tell(trial, score(trial))
    for _ in range(3):
        study.enqueue_trial({"distill.blend": "fixed"})
    assert len({tuple(ask(study, space).params.values()) for _ in range(3)}) == 3


@pytest.mark.parametrize("name", ["auto", "tpe"])
def test_eight_at_once_are_not_eight_random_ones(config, space, address, name):
    study = studies.open_study(config, space, address)
    trials = [ask(study, space, name) for _ in range(STARTUP_TRIALS)]
    study.tell(trials[0], 1.0)
    study.tell(trials[1], 2.0)  # six are running
    renew_sampler(study, 0, name)
    assert not isinstance(study.sampler, optuna.samplers.RandomSampler)


@pytest.mark.parametrize("name", ["auto", "tpe"])
def test_more_is_found_than_at_random(config, space, address, with_sweep, name):
    def found(sampler):
        study = studies.open_study(with_sweep(config, name=sampler), space, address)
        for _ in range(20):
            trial = ask(study, space, sampler)
            study.tell(trial, score(trial))
        return np.mean([trial.value for trial in study.trials[STARTUP_TRIALS:]])

    assert found(name) > found("random") + 0.5


def test_several_objectives(config, space, address, with_sweep):
    study = studies.open_study(with_sweep(config, objectives=("r_mean", "seconds")), space, address)
    for _ in range(STARTUP_TRIALS + 2):
        trial = ask(study, space)
        study.tell(trial, [score(trial), 1.0])
    assert len(study.best_trials) >= 1


def test_a_stopped_trial_counts_as_what_it_was_on_the_way_to(config, space, address):
    class Seen(optuna.samplers.RandomSampler):
        values = ()

        def infer_relative_search_space(self, study, trial):
            Seen.values = [one.value for one in study.trials if one.state == TrialState.COMPLETE]
            return {}

    study = studies.open_study(config, space, address)
    for half, end in ((10.0, 14.0), (20.0, 22.0), (30.0, 33.0)):
        trial = ask(study, space)
        trial.report(half, 5)
        study.tell(trial, end)
    stopped = ask(study, space)
    stopped.report(5.0, 5)
    study.tell(stopped, state=TrialState.PRUNED)
    study.sampler = WholeSpaceSampler(lambda seed: Seen(seed=seed), 0)
    space.settings(study.ask())
    assert Seen.values == [14.0, 22.0, 33.0, 5.0 + 3.0]


def test_the_search_turns_away_from_trials_that_diverge():
    def suggest(trial):
        lr = trial.suggest_categorical("lr", [0.1, 0.2, 0.4, 0.8])
        trial.suggest_categorical("minibatch", [0, 20, 50])
        return 10 * math.log2(lr) + trial.suggest_int("steps", 1, 3) if lr < 0.8 else math.nan

    study = optuna.create_study(direction="maximize")
    for _ in range(30):
        renew_sampler(study, 0)
        trial = study.ask()
        if math.isfinite(value := suggest(trial)):
            study.tell(trial, value)
        else:
            studies.fail(study, trial, f"r_mean is {value} at step 5 of 10")
    diverged = [tuple(trial.params.items()) for trial in study.get_trials(states=(TrialState.FAIL,))]
    assert len(set(diverged)) == len(diverged) < 10


@pytest.mark.parametrize(("direction", "worst"), [("maximize", 14.0), ("minimize", 22.0)])
def test_a_diverged_trial_is_shown_as_the_worst_and_one_that_a_machine_failed_not_at_all(direction, worst):
    study, kinds = optuna.create_study(direction=direction), {"x": FloatDistribution(0, 1)}
    for end in ("NonFiniteError: the loss is nan", "ValueError: the disk of node 3", 14.0, 22.0):
        trial = study.ask(kinds)
        if isinstance(end, str):
            studies.fail(study, trial, end)
        else:
            study.tell(trial, end)
    values = [one.value for one in _fixed_space_trials(study, _begun_trials(study, study.ask()), kinds)]
    assert values[1:] == [14.0, 22.0]
    assert values[0] == pytest.approx(worst)
    assert (values[0] < worst) == (direction == "maximize")


def test_a_stopped_trial_that_was_interrupted_is_compared_at_its_rung(config, space, address):
    study = studies.open_study(config, space, address)
    kinds = {"x": FloatDistribution(0, 1)}

    def over(values, end=None):
        state = TrialState.PRUNED if end is None else TrialState.COMPLETE
        return create_trial(
            state=state, value=end, params={"x": 0.5}, distributions=kinds, intermediate_values=dict(values)
        )

    complete = over({5: 10.0, 15: 25.0, 45: 38.0}, 40.0)
    study.add_trials([complete, over({5: 8.0, 15: 20.0, 45: 30.0}), over({45: 30.0}), over({45: 39.0}, 40.0)])
    shown = _fixed_space_trials(study, _begun_trials(study, study.ask()), kinds)
    assert [one.value for one in shown] == [40.0, 31.5, 31.5, 40.0]


@pytest.mark.parametrize("name", ["auto", "per-second"])
def test_spaces_with_steps_and_ranges_that_depend_on_other_settings(name):
    def suggest(trial):
        most = trial.suggest_int("pairs", 5, 20)
        rank = trial.suggest_int("rank", 1, most)
        if trial.suggest_categorical("blend", ["none", "fixed"]) == "fixed":
            trial.suggest_int("stepped", 5, 20, step=5)
            trial.suggest_float("part", 0.1, 0.4, step=0.1)
        return rank

    study = optuna.create_study(direction="maximize")
    for _ in range(STARTUP_TRIALS + 12):
        renew_sampler(study, 0, name)
        trial = study.ask()
        rank = suggest(trial)
        assert 1 <= rank <= trial.params["pairs"]
        assert trial.params.get("stepped", 5) in (5, 10, 15, 20)
        study.tell(trial, rank)


def test_a_model_of_very_many_trials_has_the_best_and_the_latest():
    class Seen(optuna.samplers.RandomSampler):
        values = ()

        def infer_relative_search_space(self, study, trial):
            Seen.values = [one.value for one in study.trials if one.state == TrialState.COMPLETE]
            return {}

    study = optuna.create_study(direction="maximize", sampler=WholeSpaceSampler(lambda seed: Seen(seed=seed), 0))
    kinds = {"x": FloatDistribution(0, 1)}
    study.add_trials(
        [create_trial(value=-float(n), params={"x": 0.5}, distributions=kinds) for n in range(2 * MODELLED)]
    )
    study.ask().suggest_float("x", 0, 1)
    half = MODELLED // 2
    assert Seen.values == [-float(n) for n in (*range(half), *range(2 * MODELLED - half, 2 * MODELLED))]


@pytest.mark.parametrize("name", ["auto", "per-second"])
def test_no_trial_is_drawn_twice_not_even_with_other_values_of_what_its_choices_do_not_ask_for(name):
    def suggest(trial):
        if trial.suggest_categorical("blend", ["none", "fixed"]) == "fixed":
            trial.suggest_float("ratio", 0.0, 1.0)
            trial.suggest_int("partners", 1, 9)
        return 10.0 * (trial.params["blend"] == "none") + trial.suggest_int("steps", 1, 3, log=True)

    study = optuna.create_study(direction="maximize")
    for _ in range(STARTUP_TRIALS + 20):
        renew_sampler(study, 0, name)
        trial = study.ask()
        study.tell(trial, suggest(trial))
    drawn = [tuple(trial.params.items()) for trial in study.trials[STARTUP_TRIALS:]]
    assert len(set(drawn)) == len(drawn)
    assert {trial.params["steps"] for trial in study.trials if trial.params["blend"] == "none"} == {1, 2, 3}


def test_no_trial_is_drawn_twice_either_once_there_are_more_than_the_model_takes():
    rng, kinds = np.random.default_rng(0), {"distill.seed": IntDistribution(0, 999)}
    tried = rng.permutation(1000)[: 2 * MODELLED].tolist()
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [create_trial(value=rng.normal(), params={"distill.seed": seed}, distributions=kinds) for seed in tried]
    )
    for _ in range(6):
        renew_sampler(study, 0)
        trial = study.ask(kinds)
        assert trial.params["distill.seed"] not in tried
        tried.append(trial.params["distill.seed"])
        study.tell(trial, rng.normal())


def test_a_space_that_is_known_whole_is_drawn_from_all_the_same():
    study = optuna.create_study(direction="maximize")
    for _ in range(STARTUP_TRIALS + 5):
        renew_sampler(study, 0)
        trial = study.ask()
        study.tell(trial, trial.suggest_int("steps", 1, 2))
    assert len(study.trials) == STARTUP_TRIALS + 5


def test_cheap_trials_come_first_where_seconds_count():
    kinds = {"gain": FloatDistribution(0, 1), "size": FloatDistribution(1, 100, log=True)}
    asked = {}
    for name in ("auto", "per-second"):
        study = optuna.create_study(direction="maximize")
        for _ in range(STARTUP_TRIALS + 16):
            renew_sampler(study, 0, name, seconds_of=lambda params: params["size"])
            trial = study.ask(kinds)
            trial.set_user_attr(studies.PRICE, trial.params["size"])
            study.tell(trial, -((trial.params["gain"] - 0.7) ** 2))
        asked[name] = [trial.params for trial in study.trials[STARTUP_TRIALS:]]
    size = {name: np.mean([one["size"] for one in params]) for name, params in asked.items()}
    assert size["per-second"] < size["auto"] / 2
    assert abs(asked["per-second"][-1]["gain"] - 0.7) < 0.1


def test_the_share_of_time_is_in_seconds_as_trials_are_said_to_take_them():
    study = optuna.create_study()
    assert pace(study) == 1.0
    for price, held, step in ((10.0, 20.0, 10), (10.0, 15.0, 5), (10.0, 90.0, 1), (0.0, 5.0, 10)):
        trial = study.ask()
        trial.set_user_attr(studies.HELD, held)
        trial.set_user_attr(studies.REPORT, {"step": step, "steps": 10})
        if price:
            trial.set_user_attr(studies.PRICE, price)
        study.tell(trial, 0.0)
    assert pace(study) == 3.0  # the median of 2, of 3, which was stopped half-way, and of 90, which made experts


def test_the_longest_trial_that_a_sweep_can_afford_follows_from_what_recent_trials_took():
    study = optuna.create_study()
    assert longest_affordable(study, 30.0) == math.inf
    for price, held in ((1.0, 100.0), *[(10.0, 5.0), (30.0, 5.0)] * 12):  # the first one is too long ago
        trial = study.ask()
        trial.set_user_attr(studies.HELD, held)
        trial.set_user_attr(studies.PRICE, price)
        study.tell(trial, 0.0)
    study.ask().set_user_attr(studies.PRICE, 1000.0)  # has not ended
    assert longest_affordable(study, 30.0) == pytest.approx(120.0)  # trials take a quarter of what was predicted


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_of_ones_own(config, space, address):
    study = studies.open_study(config, space, address)
    renew_sampler(study, 3, f"{EXAMPLES / 'own_sampler.py'}:sampler")
    assert isinstance(study.sampler, optuna.samplers.QMCSampler)
    assert isinstance(find_sampler("optuna.samplers:NSGAIISampler")(0), optuna.samplers.NSGAIISampler)


def test_what_is_no_sampler_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Did you mean 'tpe'\?"):
        find_sampler("tpee")
    file = tmp_path / "mine.py"
    file.write_text("def mine(seed):\n    return 3\n")
    with pytest.raises(ConfigError, match="returned an int, but must return a optuna"):
        find_sampler(f"{file}:mine")(0)


@pytest.mark.skipif(CMAES, reason="cmaes is installed")
def test_a_sampler_whose_package_is_missing_says_how_to_get_it():
    with pytest.raises(ConfigError, match="pip install cmaes"):
        find_sampler("cmaes")(0)
