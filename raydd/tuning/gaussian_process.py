"""A Gaussian process that models the scores of trials, with a length scale for each setting.

The closer the settings of two trials are, the more similar are their scores. Some settings change the score by many
points, others not at all. Each setting therefore has its own length scale, which is learned from the trials along with
the noise and the variance (automatic relevance determination: MacKay 1994, Neal 1996).

Letters: N and M points, S settings: first F numbers, then G choices.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

_LENGTH, _NOISE = 2.0, 0.1  # centres of the priors on the common length scale of all settings and on the noise
_OWN = 3.0  # prior's standard deviation of the log of a setting's own weight: most settings matter little, some much
_FARTHEST = 6.0  # largest distance of a log from the centre of its prior
_FIT_STEPS = 40
_FITTED_ON = 128  # most points from which the length scales are learned: the time grows with the cube of their number
_MISMATCH = 2.25  # a choice that differs counts as much as 1/2.25 of a squared length scale


@dataclass(frozen=True)
class Points:
    """Settings in the unit cube: numbers as shares of their range, choices as indices."""

    numbers: Float[ndarray, "*N F"]
    choices: Int[ndarray, "*N G"]

    def __getitem__(self, rows: Any) -> "Points":
        """Return the points of the given rows, or of one row."""
        return Points(self.numbers[rows], self.choices[rows])

    def __len__(self) -> int:
        """Return the number of points N."""
        return len(self.numbers)


@dataclass(frozen=True)
class GaussianProcess:
    """A Gaussian process with a Matern 5/2 kernel."""

    weights: Float[ndarray, "S"]
    """Weight of a squared difference in each setting, 1 / length²."""
    noise: float
    """Variance of a value's noise, relative to the variance of the process."""
    variance: float
    """Variance of the process."""

    def predict(
        self, known_points: Points, values: Float[ndarray, "N"], points: Points
    ) -> tuple[Float[ndarray, "M"], Float[ndarray, "M"]]:
        """Return the mean and standard deviation of the values at `points`, given noisy values at the known points."""
        factor = cho_factor(self._kernel(known_points, known_points) + self.noise * np.eye(len(values)))
        cross_kernel = self._kernel(points, known_points)
        explained = (cross_kernel * cho_solve(factor, cross_kernel.T).T).sum(axis=1)
        return cross_kernel @ cho_solve(factor, values), np.sqrt(self.variance * np.maximum(1 - explained, 1e-9))

    def _kernel(self, left: Points, right: Points) -> Float[ndarray, "N M"]:
        number_weights, choice_weights = np.split(self.weights, [left.numbers.shape[1]])
        squared_distances = np.zeros((len(left), len(right)))
        if len(number_weights):
            squared_distances += cdist(left.numbers, right.numbers, "sqeuclidean", w=number_weights)
        if len(choice_weights):
            squared_distances += choice_weights.sum() * cdist(left.choices, right.choices, "hamming", w=choice_weights)
        return _matern(squared_distances)[0]


def fitted(points: Points, values: Float[ndarray, "N"]) -> GaussianProcess:
    """Fit the length scales, the noise and the variance of a process to values.

    Args:
        points: where the values are known. If there are more than 128, 128 of them are used, evenly spread in order.
        values: values at the points, with mean 0.
    """
    rows = np.linspace(0, len(values) - 1, min(len(values), _FITTED_ON)).astype(int)
    (numbers, choices), values = (points[rows].numbers.T, points[rows].choices.T), values[rows]
    squared_differences = np.concatenate(
        [(numbers[:, :, None] - numbers[:, None, :]) ** 2, choices[:, :, None] != choices[:, None, :]]
    )
    usual = usual_weights(points)
    optimum = minimize(
        misfit,
        np.zeros(len(usual) + 2),
        (squared_differences, values, usual),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-_FARTHEST, _FARTHEST)] * (len(usual) + 2),
        options={"maxiter": _FIT_STEPS},
    )
    weights, noise = _weights_and_noise(optimum.x, usual)
    kernel = _matern(np.tensordot(weights, squared_differences, 1))[0] + noise * np.eye(len(values))
    return GaussianProcess(weights, noise, max(float(values @ np.linalg.solve(kernel, values)) / len(values), 1e-12))


def misfit(
    logs: Float[ndarray, "S+2"],
    squared_differences: Float[ndarray, "S N N"],
    values: Float[ndarray, "N"],
    prior_weights: Float[ndarray, "S"],
) -> tuple[float, Float[ndarray, "S+2"]]:
    """Return the negative log posterior of a process with the best variance, and its gradient with respect to the logs.

    Args:
        logs: logs of the common length scale, of the noise, and of each setting's own weight, each relative to its
            usual value. All have normal priors around 0.
        squared_differences: squared differences between the points, for each setting.
        values: values at the points, with mean 0.
        prior_weights: usual weights of the settings, from `usual_weights`.
    """
    (weights, noise), n = _weights_and_noise(logs, prior_weights), len(values)
    kernel, slope = _matern(np.tensordot(weights, squared_differences, 1))
    inverse = np.linalg.inv(kernel + noise * np.eye(n))
    solved = inverse @ values
    variance = max(float(values @ solved) / n, 1e-12)
    likelihood = -0.5 * n * math.log(variance) + 0.5 * np.linalg.slogdet(inverse)[1]
    # d log|K| = tr(K⁻¹ dK), and d (vᵀ K⁻¹ v) = -(K⁻¹ v)ᵀ dK (K⁻¹ v).
    kernel_gradient = 0.5 * (np.outer(solved, solved) / variance - inverse)
    weight_gradients = np.tensordot(squared_differences, kernel_gradient * slope, 2) * weights
    gradient = np.concatenate([[-2 * weight_gradients.sum(), noise * np.trace(kernel_gradient)], weight_gradients])
    prior_deviations = np.array([1.0, 1.0, *[_OWN] * len(prior_weights)])
    return 0.5 * float(((logs / prior_deviations) ** 2).sum()) - likelihood, logs / prior_deviations**2 - gradient


def _weights_and_noise(
    logs: Float[ndarray, "S+2"], prior_weights: Float[ndarray, "S"]
) -> tuple[Float[ndarray, "S"], float]:
    """Return the weights and the noise for the given logs."""
    return prior_weights * np.exp(logs[2:] - 2 * logs[0]), _NOISE * math.exp(logs[1])


def usual_weights(points: Points) -> Float[ndarray, "S"]:
    """Return the weights of settings at the usual length scale; those of all numbers always add up to 4 / length²."""
    number_count, choice_count = points.numbers.shape[1], points.choices.shape[1]
    return np.array([4 / max(1, number_count)] * number_count + [1 / _MISMATCH] * choice_count) / _LENGTH**2


def _matern(squared_distances: Float[ndarray, "N M"]) -> tuple[Float[ndarray, "N M"], Float[ndarray, "N M"]]:
    """Return the Matern 5/2 kernel of squared distances, and its derivative."""
    distance = np.sqrt(5 * squared_distances)
    decay = np.exp(-distance)
    return (1 + distance + distance**2 / 3) * decay, -5 / 6 * (1 + distance) * decay
