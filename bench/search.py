"""`python -m bench.search`: compares samplers in short, noisy searches on random objectives.

Each repeat has its own random objective on one of raydd's search spaces. The objective is smooth in the logarithms of
the settings, a few settings have most of the effect, there are ridges between pairs of settings, and choices add or
subtract points. Its optimum is some distance from the first settings of the space, which are already good.

By default a search has 24 trials, four at once, whose scores are reported with noise of standard deviation 0.4. The
gain of a search is the noiseless value of the trial with the best reported score, minus that of the best first
settings.

Results are in docs/results/search.md.
"""

import heapq
import math
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import tyro
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState
from rich.table import Table

from bench.terminal import terminal
from raydd.tuning import study as studies
from raydd.tuning.cheap_starts import queue_cheap_starts, trial_with_params
from raydd.tuning.prices import Cost, Expert, amortised, total
from raydd.tuning.samplers import SAMPLERS, renew_sampler
from search_spaces import DRAWS, Space, load_space

_SCALE = 0.6  # factor of all effects, chosen so that the former sampler gains about as much as in real sweeps
_WEIGHTS = (0.0, 0.0, 1.0, 3.0, 6.0, 10.0)  # possible weights of a setting: a third of the settings has no effect
_KINK = 0.25  # distance from the optimum, as a share of the range, above which a loss grows linearly
_RIDGES = 4


@dataclass(frozen=True)
class Options:
    """Compare samplers on random objectives. Gains are over the best first settings: mean and standard error."""

    samplers: tuple[str, ...] = ("before", "random", "tpe", "auto")
    """Samplers to compare, as in `sweep.sampler`. before: the sampler of sweeps before there was a choice, TPE with a
    start-up of eight finished trials and 24 candidates."""
    space: str = "matching"
    """Search space, as in `sweep.space`."""
    trials: int = 24
    """Trials of a search."""
    seconds: float = 0.0
    """Limit searches to this simulated time instead of a number of trials. A trial in the middle of the space takes one
    second on its slot; other trials take time in proportion to their total number of student steps, and four times as
    long with heads 2304 wide. 0: limit searches by `trials`; all trials take equally long."""
    experts: float = 0.0
    """Seconds of training an expert for an epoch, four times as long if heads are 2304 wide. Trials with the same
    learning rate and width share experts, and the first one trains them. 0: experts are free."""
    wanted: int = 0
    """Number of trials wanted within `seconds`, like `sweep.trials` with `sweep.hours`; 0: no limit."""
    at_once: int = 4
    """Number of trials that run at once."""
    noise: float = 0.4
    """Standard deviation of the noise of reported scores."""
    repeats: int = 24
    """Number of objectives; each sampler searches each objective once."""
    first_seed: int = 1000
    """Seed of the first objective. The settings of auto were chosen on objectives with seeds below 1000."""
    cold: bool = False
    """Search without the first settings; gains are still relative to the best of them."""


class Objective:
    """A random function from a space's settings to a score in points."""

    def __init__(self, space: Space, seed: int) -> None:
        """Draw an objective from a seed."""
        rng, first = np.random.default_rng([7, seed]), dict(space.first[0]) if space.first else {}
        self._distributions = distributions_of(space)
        self._optima: dict[str, float] = {}
        self._setting_weights: dict[str, float] = {}
        self._choice_effects: dict[str, dict[Any, float]] = {}
        for name, kind in self._distributions.items():
            if isinstance(kind, CategoricalDistribution):
                effects = rng.normal(0, 0.6, len(kind.choices)) * rng.choice([0.2, 1.0, 2.0])
                if name in first and rng.random() < 0.6:  # first settings are often good
                    first_index, best = kind.choices.index(first[name]), int(np.argmax(effects))
                    effects[[first_index, best]] = effects[[best, first_index]]
                self._choice_effects[name] = dict(zip(kind.choices, effects.tolist(), strict=True))
            else:
                centre = position_in_range(kind, first[name]) if name in first else 0.5
                self._optima[name] = float(np.clip(centre + rng.normal(0, 0.25), 0.05, 0.95))
                self._setting_weights[name] = float(rng.choice(_WEIGHTS))
        names = list(self._optima)
        self._ridges = [
            (*rng.choice(names, 2, replace=False), rng.choice([-1, 1]), rng.uniform(2, 8)) for _ in range(_RIDGES)
        ]

    def __call__(self, settings: Mapping[str, Any]) -> float:
        """Return the noiseless score of settings."""
        names = sorted(self._optima.keys() & settings.keys())
        offsets = {
            name: position_in_range(self._distributions[name], settings[name]) - self._optima[name] for name in names
        }
        penalty = sum(self._setting_weights[name] * _huber(offset) for name, offset in offsets.items())
        penalty += sum(
            weight * (offsets[first] + sign * offsets[second]) ** 2
            for first, second, sign, weight in self._ridges
            if first in offsets and second in offsets
        )
        choice_effect = sum(
            effects[settings[name]] for name, effects in self._choice_effects.items() if name in settings
        )
        return _SCALE * (choice_effect - penalty)

    def seconds(self, settings: Mapping[str, Any]) -> float:
        """Return how long a trial takes, relative to a trial in the middle of the space."""
        sizes = [name for name in ("distill.steps", "distill.student_steps") if name in settings]
        kinds = [self._distributions[name] for name in sizes]
        middle = math.prod(math.sqrt(kind.low * kind.high) for kind in kinds)  # type: ignore[attr-defined]
        return math.prod(settings[name] for name in sizes) / middle * (4 if settings.get("experts.width") else 1)


class Experts:
    """The experts that trials of a search read; each is trained once, to the last epoch that any trial reads."""

    def __init__(self, seconds: float) -> None:
        """Start without experts; `seconds` are those of an epoch."""
        self._seconds, self._epochs = seconds, dict[Expert, int]()

    def missing(self, settings: Mapping[str, Any]) -> dict[Expert, float]:
        """Return the seconds of training each expert of a trial as far as it is missing."""
        seconds = self._seconds * (4 if settings.get("experts.width") else 1)
        return {
            expert: seconds * (epoch - self._epochs.get(expert, 0))
            for expert, epoch in _experts_of(settings).items()
            if epoch > self._epochs.get(expert, 0)
        }

    def train(self, settings: Mapping[str, Any]) -> None:
        """Train what a trial is missing."""
        for expert, epoch in _experts_of(settings).items():
            self._epochs[expert] = max(epoch, self._epochs.get(expert, 0))


def _experts_of(settings: Mapping[str, Any]) -> dict[Expert, int]:
    """Return the last epoch that a trial reads of each of its experts."""
    recipe = f"{settings.get('experts.lr')} {settings.get('experts.width')}"
    last_epoch = settings.get("distill.max_start_epoch", 1) - 1 + settings.get("distill.target_epochs", 1)
    return {(recipe, expert): last_epoch for expert in range(settings.get("experts.count", 0))}


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Return the distributions of all settings that a space may suggest, by name."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    distributions: dict[str, BaseDistribution] = {}
    for _ in range(2 * DRAWS):
        trial = study.ask()
        space.settings(trial)
        distributions |= trial.distributions
    return dict(sorted(distributions.items()))


def first_settings(space: Space) -> list[dict[str, Any]]:
    """Return the space's first settings, reduced to those that the space asks for."""
    study = optuna.create_study()
    for first in space.first:
        study.enqueue_trial(dict(first))
    trials = [study.ask() for _ in space.first]
    for trial in trials:
        space.settings(trial)
    return [trial.params for trial in trials]


def position_in_range(distribution: BaseDistribution, value: float) -> float:
    """Return the position of a number in its range, from 0 to 1."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    numbers = (distribution.low, distribution.high, value)
    low, high, number = np.log(numbers) if distribution.log else numbers
    return float((number - low) / (high - low))


def search(space: Space, objective: Objective, sampler: str, seed: int, options: Options) -> tuple[float, int]:
    """Run one search; return its gain over the best first settings, and its number of completed trials."""
    rng, study = np.random.default_rng([3, seed]), optuna.create_study(direction="maximize")
    for first in () if options.cold else space.first:
        study.enqueue_trial(dict(first))
    experts = Experts(options.experts)

    def cost_of(settings: Mapping[str, Any]) -> Cost:
        return Cost(objective.seconds(settings), experts.missing(settings))

    if sampler == "per-second":
        queue_cheap_starts(study, space, seed, options.trials, cost_of)
    running: list[tuple[float, int, optuna.Trial]] = []
    now, asked_trials, values = 0.0, 0, {}

    def seconds_of(params: Mapping[str, Any]) -> float:
        trial, _ = trial_with_params(space, params)
        return amortised(cost_of(trial.params))

    def may_start() -> bool:
        limit = options.wanted if options.seconds else options.trials
        return (not options.seconds or now < options.seconds) and (not limit or asked_trials < limit)

    def renew() -> None:
        if sampler == "before":
            set_former_sampler(study, seed)
            return
        limited = options.seconds and options.wanted
        seconds_per_trial = (
            (options.seconds - now) * options.at_once / (options.wanted - asked_trials) if limited else 0.0
        )
        renew_sampler(study, seed, sampler, seconds_of=seconds_of, seconds_per_trial=seconds_per_trial)

    while may_start() or running:
        while may_start() and len(running) < options.at_once:
            renew()
            trial = study.ask()
            space.settings(trial)
            cost = cost_of(trial.params) if options.seconds else Cost(1.0, {})
            duration = rng.uniform(0.7, 1.3) * total([cost])
            experts.train(trial.params)
            trial.set_user_attr(studies.PRICE, cost.own)
            trial.set_user_attr(studies.REPORT, {"step": 1, "steps": 1})
            trial.set_user_attr(studies.HELD, duration)
            heapq.heappush(running, (now + duration, trial.number, trial))
            asked_trials += 1
        now, number, trial = heapq.heappop(running)
        if options.seconds and now > options.seconds:
            study.tell(trial, state=TrialState.FAIL)
            continue
        values[number] = objective(trial.params)
        study.tell(trial, values[number] + rng.normal(0, options.noise))
    return values[study.best_trial.number] - max(objective(first) for first in first_settings(space)), len(values)


def set_former_sampler(study: optuna.Study, seed: int) -> None:
    """Set the sampler that sweeps had before: TPE, whose start-up lasts until eight trials have finished."""
    asked_trials = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING)))
    study.sampler = TPESampler(
        seed=int(np.random.SeedSequence([seed, asked_trials]).generate_state(1)[0]),
        n_startup_trials=8,
        multivariate=True,
        group=True,
        constant_liar=True,
    )


def main(options: Options) -> int:
    """Run the searches, and print the table."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    space = load_space(options.space)
    table = Table("sampler", "gain", "trials", "CPU seconds a trial", box=None, pad_edge=False)
    for sampler in options.samplers:
        if sampler != "before" and sampler not in SAMPLERS and ":" not in sampler:
            print(f"There is no sampler {sampler!r}. The samplers: before, {', '.join(SAMPLERS)}.", file=sys.stderr)
            return 2
        start_time = time.process_time()
        seeds = range(options.first_seed, options.first_seed + options.repeats)
        results = [search(space, Objective(space, seed), sampler, seed, options) for seed in seeds]
        gains = np.array([gain for gain, _ in results])
        trials = [count for _, count in results]
        seconds = (time.process_time() - start_time) / sum(trials)
        error = gains.std(ddof=1) / len(gains) ** 0.5
        counts = f"{min(trials)} to {max(trials)}" if len(set(trials)) > 1 else str(trials[0])
        table.add_row(sampler, f"{gains.mean():.2f} ± {error:.2f}", counts, f"{seconds:.3f}")
    terminal().print(table)
    return 0


def _huber(distance: float) -> float:
    """Return a Huber loss: quadratic near 0, then linear."""
    size = abs(distance)
    return 4 * size**2 if size < _KINK else 2 * size - _KINK


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__, use_underscores=True)))
