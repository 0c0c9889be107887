"""The sampler that draws among neighbours of the best trial, on trials that are written down."""

import math
from functools import partial

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from raydd.tuning import study as studies
from raydd.tuning.gaussian_process import Points
from raydd.tuning.neighbours import NeighbourSampler, expected_seconds, normal_by_rank
from raydd.tuning.samplers import WholeSpaceSampler


def test_neighbours_stay_inside_of_what_is_searched():
    space = {
        "float": FloatDistribution(0.01, 1.0, log=True),
        "step": FloatDistribution(0.0, 1.0, step=0.25),
        "int": IntDistribution(4, 16, log=True),
        "choice": CategoricalDistribution([0, 20, "a"]),
    }
    study = optuna.create_study(direction="maximize")
    rng = np.random.default_rng(0)
    for seed in range(12):
        study.sampler = WholeSpaceSampler(NeighbourSampler, seed)
        trial = study.ask(space)
        for name, kind in space.items():
            assert kind._contains(kind.to_internal_repr(trial.params[name])), name
        assert trial.params["step"] in (0.0, 0.25, 0.5, 0.75, 1.0)
        study.tell(trial, rng.normal())


def test_time_counts_less_the_longer_nothing_was_gained_and_not_below_an_equal_share():
    kinds = {"gain": FloatDistribution(0, 1), "size": FloatDistribution(1, 100, log=True)}

    def value(params):
        return -((params["gain"] - 0.7) ** 2) - (math.log(params["size"] / 30) / 10) ** 2

    def seconds_of(params):
        return params["size"] ** 12

    def size_asked_for(order, share=0.0, longest=math.inf):
        study = optuna.create_study(direction="maximize")
        for params in order:
            took = {studies.PRICE: seconds_of(params)}
            study.add_trial(create_trial(params=params, distributions=kinds, value=value(params), user_attrs=took))
        sizes, limits = [], {"seconds_per_trial": share, "max_seconds": longest}
        make_sampler = partial(NeighbourSampler, seconds_of=seconds_of, **limits)
        for seed in range(20):
            study.sampler = WholeSpaceSampler(make_sampler, seed)
            sizes.append(study.ask(kinds).params["size"])
        return np.exp(np.mean(np.log(sizes)))

    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = sorted((drawn.ask(kinds).params for _ in range(40)), key=value)
    gaining, stuck = size_asked_for(points), size_asked_for(points[::-1])
    assert gaining < points[-1]["size"] < 25 < stuck  # less than the best trial has, and than 30, which is best
    assert size_asked_for(points, share=50**12) > 25
    longest = 3 * 10**12
    assert size_asked_for(points[::-1], share=10**12, longest=longest) < 12  # however long nothing was gained


def test_what_a_trial_takes_is_asked_of_those_that_are_worth_it():
    kinds = {"gain": FloatDistribution(0, 1), "wide": CategoricalDistribution([False, True])}
    study, asked = optuna.create_study(direction="maximize"), []

    def seconds_of(params):
        asked.append(params)
        return 1000.0 if params["wide"] else math.nan if params["gain"] > 0.5 else 1.0

    for number in range(8):  # none of which is wide, so that no trial says what those take
        params = {"gain": number / 16, "wide": False}
        study.add_trial(
            create_trial(params=params, distributions=kinds, value=number / 16, user_attrs={studies.PRICE: 1.0})
        )
    make_sampler = partial(NeighbourSampler, seconds_of=seconds_of, seconds_per_trial=1.0, max_seconds=3.0)
    for seed in range(8):
        study.sampler = WholeSpaceSampler(make_sampler, seed)
        assert not study.ask(kinds).params["wide"]
    wide = sum(params["wide"] for params in asked)
    assert wide > 0
    assert len(asked) == 8 * 64 + wide


def test_values_of_any_scale_are_normal_by_rank():
    assert normal_by_rank(np.array([-1000.0, 46.0, 45.9])) == pytest.approx([-0.967422, 0.967422, 0.0])
    assert normal_by_rank(np.full(4, 7.0)) == pytest.approx(np.zeros(4))


def test_seconds_are_expected_as_the_trials_took_them():
    rng = np.random.default_rng(0)
    points, near = (Points(rng.random((n, 2)), np.zeros((n, 0), int)) for n in (40, 10))
    seconds = [math.exp(3 * one[0]) for one in points.numbers]
    expected = expected_seconds(points, [None, *seconds[1:]], near)
    assert np.log(expected) == pytest.approx(3 * near.numbers[:, 0], abs=0.2)
    assert (expected_seconds(points, [None] * 40, near) == 1).all()
