"""The process against written-out formulas, and its gradient against finite differences."""

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from raydd.tuning.gaussian_process import GaussianProcess, Points, fitted, misfit, usual_weights

NOISE, OWN = 0.1, 3.0


def points_of(rng: np.random.Generator, count: int, numbers: int = 3, choices: int = 2) -> Points:
    return Points(rng.random((count, numbers)), rng.integers(0, 3, (count, choices)))


def squared(points: Points) -> np.ndarray:
    """Squared differences of all pairs of points, setting by setting."""
    rows = np.concatenate([points.numbers, points.choices], axis=1)
    choice = np.arange(rows.shape[1]) >= points.numbers.shape[1]
    apart = rows[:, None] - rows[None, :]
    return np.where(choice, apart != 0, apart**2).transpose(2, 0, 1)


def covariance(points: Points, weights: np.ndarray, noise: float) -> np.ndarray:
    distance = np.sqrt(5 * np.tensordot(weights, squared(points), 1))
    return (1 + distance + distance**2 / 3) * np.exp(-distance) + noise * np.eye(len(points))


@pytest.mark.parametrize("seed", range(4))
def test_the_misfit_is_the_log_posterior_and_its_gradient(seed):
    rng = np.random.default_rng(seed)
    points, values, usual = points_of(rng, 9), rng.normal(size=9), rng.random(5) + 0.5

    def at(logs):
        weights, noise = usual * np.exp(logs[2:] - 2 * logs[0]), NOISE * math.exp(logs[1])
        kernel = covariance(points, weights, noise)
        variance = values @ np.linalg.solve(kernel, values) / len(values)  # the best one
        likelihood = multivariate_normal(cov=variance * kernel).logpdf(values)
        return (logs[:2] ** 2).sum() / 2 + ((logs[2:] / OWN) ** 2).sum() / 2 - likelihood

    logs, usually = rng.normal(size=(2, 7))
    apart = squared(points).astype(float)
    found, gradient = misfit(logs, apart, values, usual)
    assert found - misfit(usually, apart, values, usual)[0] == pytest.approx(at(logs) - at(usually))
    for number, step in enumerate(1e-6 * np.eye(7)):
        assert gradient[number] == pytest.approx((at(logs + step) - at(logs - step)) / 2e-6, abs=1e-6)


def test_what_is_expected_is_the_normal_distribution_given_what_is_known():
    rng = np.random.default_rng(0)
    both, values = points_of(rng, 8), rng.normal(size=5)
    weights, noise, variance = rng.random(5), 0.2, 3.0
    joint = variance * covariance(both, weights, 0.0)
    within, across = joint[:5, :5] + variance * noise * np.eye(5), joint[5:, :5]
    mean, deviation = GaussianProcess(weights, noise, variance).predict(both[:5], values, both[5:])
    assert mean == pytest.approx(across @ np.linalg.solve(within, values))
    left = joint[5:, 5:] - across @ np.linalg.solve(within, across.T)
    assert deviation == pytest.approx(np.sqrt(np.diag(left)))


def test_settings_that_matter_are_found_among_those_that_do_not():
    rng = np.random.default_rng(0)
    points = points_of(rng, 60, numbers=8, choices=4)
    values = -4 * (points.numbers[:, 2] - 0.5) ** 2 + 0.5 * (points.choices[:, 1] == 2) + 0.02 * rng.normal(size=60)
    values = (values - values.mean()) / values.std()
    weights = fitted(points, values).weights / usual_weights(points)
    assert sorted(np.argsort(weights)[-2:]) == [2, 8 + 1]
    assert np.sort(weights)[-2] > 10 * np.sort(weights)[-3]


def test_a_noisy_score_is_seen_to_be_noisy():
    rng = np.random.default_rng(0)
    points = points_of(rng, 80)
    smooth = np.sin(3 * points.numbers[:, 0])
    noises = []
    for noise in (0.05, 1.0):
        values = smooth + noise * smooth.std() * rng.normal(size=80)
        noises.append(fitted(points, values - values.mean()).noise)
    assert noises[0] < 0.01 < 0.2 < noises[1]


@pytest.mark.parametrize(("numbers", "choices"), [(3, 0), (0, 2)])
def test_settings_may_be_of_one_kind(numbers, choices):
    rng = np.random.default_rng(0)
    points, values = points_of(rng, 12, numbers, choices), rng.normal(size=12)
    mean, deviation = fitted(points, values).predict(points, values, points[:3])
    assert mean.shape == deviation.shape == (3,)
    assert np.isfinite(mean).all()
    assert (deviation > 0).all()


def test_equal_scores_say_nothing():
    points = points_of(np.random.default_rng(0), 6)
    assert fitted(points, np.zeros(6)).variance == pytest.approx(1e-12)


def test_many_points_are_fitted_by_a_part_of_them():
    rng = np.random.default_rng(0)
    points, values = points_of(rng, 300), rng.normal(size=300)
    part = np.linspace(0, 299, 128).astype(int)
    assert (fitted(points, values).weights == fitted(points[part], values[part]).weights).all()
