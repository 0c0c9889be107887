"""Trajectory matching: a student of the synthetic pairs is to end where an expert does.

A step draws an expert, a start epoch and the student's minibatches and blends; the loss is how far the student ends
from the expert's later snapshot (`raydd.distill.matching`).
"""

from functools import partial
from typing import Any, ClassVar

from jaxtyping import Int
from torch import Tensor

from raydd.distill.draws import StepDraws, draw_step
from raydd.distill.experts import Experts
from raydd.distill.legs import Legs, most_bytes_on
from raydd.distill.matching import StudentRun
from raydd.distill.objectives.objective import LossOfPairs, Objective, ObjectiveInputs
from raydd.distill.trajectories import Trajectories

MATCHED = {"both-heads": ("image", "text"), "text-head": ("text",)}
DIVERGED = 1e3  # the loss is about 1 a head at the start; so far above, a run does not recover


class TrajectoryMatching(Objective):
    """The distance of a student's end from an expert's."""

    diverged: ClassVar[float] = DIVERGED

    def __init__(self, inputs: ObjectiveInputs) -> None:
        self._inputs = inputs
        self.experts: Trajectories[Any] = inputs.experts
        # Making a leg anew takes a quarter of a step on a CPU, and on a GPU longer than a step.
        self._legs = Legs(inputs.device, most_bytes_on(inputs.device)) if isinstance(self.experts, Experts) else None

    def draws(self, step: int) -> StepDraws:
        """What a step draws."""
        return draw_step(self._inputs.config, step, self.experts.count, self._inputs.noise)

    def used(self, step: int) -> Int[Tensor, "U"]:
        """The pairs of the student's minibatches."""
        return self.draws(step).plan.minibatches.flatten()

    def expert(self, step: int) -> int:
        """The expert whose trajectory is matched."""
        return self.draws(step).expert

    def draw(self, step: int) -> LossOfPairs:
        """The matching loss of the step's student."""
        inputs, config, draws = self._inputs, self._inputs.config, self.draws(step)
        run = StudentRun(
            draws.plan.to(inputs.device),
            inputs.loss,
            inputs.temperature,
            exact=config.gradient == "exact",
            matched=MATCHED[config.matched],
            merged=config.merged,
        )
        return partial(inputs.gradient, run, self._leg(draws.expert, draws.start_epoch))

    def _leg(self, expert: int, epoch: int) -> Any:
        """The expert's leg from this epoch, as the students' gradient takes it."""
        config = self._inputs.config
        if self._legs is not None:
            return self._legs.get(self.experts, expert, epoch, config.ahead)
        return self.experts.snapshot(expert, epoch), self.experts.snapshot(expert, epoch + config.target_epochs)
