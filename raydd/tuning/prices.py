"""Predicts what trials cost, in seconds of one core: their own work up to a rung or the end, and missing experts."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raydd.config import Config
from raydd.cost.seconds import core_speed, expert_seconds, seconds_of_trial
from raydd.distill.draws import experts_at
from raydd.protocols import Workbench

GPU_SPEED = 1e12  # assumed floating-point operations a second of a trial on a GPU, which small products do not fill
END = 100  # percent of the steps
READERS = 10  # trials among which the seconds of a new expert are divided, since a search stays near a good recipe

Expert = tuple[str, int]
"""The fingerprint of an experts' record, and the number of an expert in it."""


@dataclass(frozen=True)
class Cost:
    """The cost of a trial, in seconds of one core."""

    own: float
    """Seconds of the trial's steps and of the students that score it."""
    experts: Mapping[Expert, float]
    """Seconds of training each expert that the trial reads and that is missing from the store."""


def amortised(cost: Cost) -> float:
    """Return the seconds of a trial as a choice among trials should count them: its own, and a part of its new experts.

    Later trials read these experts too. If the first of them counted with all, a search would hardly ever leave the
    experts that it has.
    """
    return cost.own + sum(cost.experts.values()) / READERS


def total(costs: Iterable[Cost]) -> float:
    """Return the seconds of several trials. A shared expert is trained once, to the last epoch that any trial reads."""
    own_seconds, experts = 0.0, dict[Expert, float]()
    for cost in costs:
        own_seconds += cost.own
        for expert, seconds in cost.experts.items():
            experts[expert] = max(seconds, experts.get(expert, 0.0))
    return own_seconds + sum(experts.values())


class Price:
    """The cost of one trial for each rung where it may be stopped, and for its end."""

    def __init__(self, trial: Workbench[Any]) -> None:
        """Compute the costs, and look up which of the trial's experts are missing from the store.

        Args:
            trial: workbench of the trial. Without cached features its costs are not known: NaN.
        """
        config, widths = trial.config, trial.feature_widths
        self._first_stop, stops = first_stop(config), (*config.sweep.rungs, END)
        self._costs = dict.fromkeys(stops, Cost(math.nan, {}))
        if not widths:
            return
        speed_up = _speed_up(config, widths[0])
        parts, missing = seconds_of_trial(config, *widths) / speed_up, list[int]()
        recipe, seconds = "", 0.0
        if config.distill.reads_experts and (missing := trial.missing_experts):
            recipe = trial.experts_record.fingerprint
            seconds = expert_seconds(config, *widths, len(trial.captions.train.texts)) / speed_up
        for rungs, stop in enumerate(stops, start=1):
            scoring = parts.at_rungs(min(rungs, len(stops) - 1), config.sweep) + (parts.end if stop == END else 0)
            own_seconds = parts.steps * stop / END + scoring
            count = experts_until(config, stop)
            self._costs[stop] = Cost(own_seconds, {(recipe, expert): seconds for expert in missing if expert < count})

    def until(self, stop: int) -> Cost:
        """Return the trial's cost if it is stopped at a rung, given in percent of its steps, or runs to the `END`."""
        return self._costs[stop]

    def to_begin(self) -> Cost:
        """Return the cost of the complete trial, but with only the experts that it reads before its first rung."""
        return Cost(self.until(END).own, self.until(self._first_stop).experts)


def experts_until(config: Config, percent: int) -> int:
    """Return how many experts a trial has read after the given percent of its steps."""
    return experts_at(config.distill, max(0, config.distill.steps * percent // END - 1), config.experts.count)


def first_stop(config: Config) -> int:
    """Return the first point at which a trial may be stopped, in percent of its steps."""
    return END if config.sweep.pruner == "none" else min(config.sweep.rungs, default=END)


def _speed_up(config: Config, image_width: int) -> float:
    """Return how many times faster than one core a trial computes."""
    if not config.sweep.gpu_share:
        return 1.0
    return GPU_SPEED / core_speed(config.experts.width or image_width, config.distill.minibatch_size)
