"""What trials cost in seconds of one core, each priced once: how far it may come, and the experts that it reads."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raydd.config import Config
from raydd.cost.seconds import core_speed, expert_seconds, seconds_of_trial
from raydd.distill.draws import experts_at
from raydd.protocols import Workbench

GPU_SPEED = 1e12  # floating-point operations a second of one trial on a GPU, which small products do not fill
END = 100  # percent of the steps

Expert = tuple[str, int]
"""The record of a recipe, and an expert's number in it."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one core."""

    own: float
    """Of a trial's steps, and of the students that score it."""
    experts: Mapping[Expert, float]
    """Of each expert that it reads and the store lacks."""


def total(costs: Iterable[Cost]) -> float:
    """Seconds of several trials: an expert that some of them read is trained once, to the last epoch that any reads."""
    own, experts = 0.0, dict[Expert, float]()
    for cost in costs:
        own += cost.own
        for expert, seconds in cost.experts.items():
            experts[expert] = max(seconds, experts.get(expert, 0.0))
    return own + sum(experts.values())


class Price:
    """The price of one trial, wherever it ends."""

    def __init__(self, trial: Workbench[Any]) -> None:
        """Look at the store for the trial's experts.

        Args:
            trial: without cached features, nothing is known of its price: NaN.
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
            scored = parts.at_rungs(min(rungs, len(stops) - 1), config.sweep) + (parts.end if stop == END else 0)
            own = parts.steps * stop / END + scored
            count = experts_until(config, stop)
            self._costs[stop] = Cost(own, {(recipe, expert): seconds for expert in missing if expert < count})

    def until(self, stop: int) -> Cost:
        """What the trial costs if it is stopped at a rung, in percent of its steps, or comes to the `END`."""
        return self._costs[stop]

    def to_begin(self) -> Cost:
        """What the whole trial costs with no more experts than it reads before its first rung."""
        return Cost(self.until(END).own, self.until(self._first_stop).experts)


def experts_until(config: Config, percent: int) -> int:
    """From how many experts a trial has drawn after so many percent of its steps."""
    return experts_at(config.distill, max(0, config.distill.steps * percent // END - 1), config.experts.count)


def first_stop(config: Config) -> int:
    """The first point of a trial, in percent of its steps, at which it may be stopped."""
    return END if config.sweep.pruner == "none" else min(config.sweep.rungs, default=END)


def _speed_up(config: Config, image_width: int) -> float:
    """How much faster than one core a trial computes."""
    if not config.sweep.gpu_share:
        return 1.0
    return GPU_SPEED / core_speed(config.experts.width or image_width, config.distill.minibatch_size)
