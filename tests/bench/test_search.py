"""The experiment on samplers: its objectives, and that it tells a good sampler from a bad one."""

import numpy as np
import optuna
import pytest

from bench.search import Experts, Objective, Options, distributions_of, first_settings, main, search
from search_spaces import load_space


@pytest.fixture(scope="module")
def space():
    return load_space("demo")


def test_objectives_differ_by_their_seed_alone(space):
    first = first_settings(space)[0]
    assert Objective(space, 1)(first) == Objective(space, 1)(first)
    assert len({Objective(space, seed)(first) for seed in range(8)}) == 8
    assert set(distributions_of(space)) == set(first)


def test_more_trials_find_more_without_noise(space):
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def gain(trials):
        options = Options(trials=trials, noise=0.0)
        return np.mean([search(space, Objective(space, seed), "auto", seed, options)[0] for seed in range(4)])

    assert gain(2) == pytest.approx(0.0)  # the first settings alone
    assert gain(24) > gain(10) >= 0


def test_the_trials_that_are_wanted_come_in_their_time():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = load_space("matching")  # whose trials take from a sixtieth of the middle one's time to sixty times that
    options = Options(cold=True, seconds=12.0, wanted=40, at_once=2)

    def came(sampler, searches):
        return [search(space, Objective(space, seed), sampler, seed, options)[1] for seed in range(searches)]

    counts = came("per-second", 4)
    assert min(counts) >= 38 > 2 * np.mean(came("auto", 2))


def test_experts_are_trained_once_and_as_far_as_any_trial_reads():
    experts, trial = (
        Experts(0.5),
        {"experts.lr": 0.1, "experts.width": 0, "experts.count": 2, "distill.target_epochs": 2},
    )
    assert experts.missing(trial) == {("0.1 0", 0): 1.0, ("0.1 0", 1): 1.0}
    experts.train(trial)
    assert experts.missing(trial) == {}
    assert experts.missing(trial | {"experts.count": 3}) == {("0.1 0", 2): 1.0}
    assert experts.missing(trial | {"distill.max_start_epoch": 3}) == {("0.1 0", 0): 1.0, ("0.1 0", 1): 1.0}
    assert sum(experts.missing(trial | {"experts.width": 2304}).values()) == 8.0


def test_the_table(capsys):
    assert main(Options(samplers=("before", "random"), space="demo", trials=4, repeats=2)) == 0
    assert "before" in capsys.readouterr().out
    assert main(Options(samplers=("nobody",), space="demo")) == 2
