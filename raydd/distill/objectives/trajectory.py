"""Trajectory matching: a student that trains on the synthetic pairs should end where an expert does.

A step draws an expert, a start epoch and the student's minibatches and blends. The loss is how far the student ends
from the expert's later snapshot (`raydd.distill.matching`).
"""

from functools import partial
from typing import Any, ClassVar

from jaxtyping import Int
from torch import Tensor

from raydd.distill.draws import StepDraws, draw_step
from raydd.distill.encoder_experts import KeptNetworks
from raydd.distill.experts import Experts
from raydd.distill.legs import Legs, most_bytes_on
from raydd.distill.matching import StudentRun
from raydd.distill.objectives.objective import LossOfPairs, Objective, ObjectiveInputs
from raydd.distill.trajectories import Trajectories

MATCHED = {"both-heads": ("image", "text"), "text-head": ("text",)}
DIVERGED = 1e3  # the loss is about 1 per head at the start; a run this far above does not recover


class TrajectoryMatching(Objective):
    """The distance between a student's end and an expert's later snapshot."""

    diverged: ClassVar[float] = DIVERGED

    def __init__(self, inputs: ObjectiveInputs) -> None:
        self._inputs = inputs
        self.experts: Trajectories[Any] = inputs.experts
        # Legs are cached: making one takes a quarter of a step on a CPU, and longer than a step on a GPU.
        self._legs = Legs.on(inputs.device) if isinstance(self.experts, Experts) else None
        self._networks = (
            KeptNetworks(self.experts, inputs.device, most_bytes_on(inputs.device))
            if self._legs is None and inputs.device != "cpu"
            else None
        )

    def draws(self, step: int) -> StepDraws:
        """Return the random draws of a step."""
        return draw_step(self._inputs.config, step, self.experts.count, self._inputs.noise)

    def used(self, step: int) -> Int[Tensor, "U"]:
        """Return the pairs of the student's minibatches."""
        return self.draws(step).plan.minibatches.flatten()

    def expert(self, step: int) -> int:
        """Return the expert whose trajectory is matched."""
        return self.draws(step).expert

    def draw(self, step: int) -> LossOfPairs:
        """Return the matching loss of the step's student."""
        inputs, config, draws = self._inputs, self._inputs.config, self.draws(step)
        run = StudentRun(
            draws.plan,
            inputs.loss,
            inputs.temperature,
            exact=config.gradient == "exact",
            matched=MATCHED[config.matched],
            merged=config.merged,
        )
        return partial(inputs.gradient, run, self._read_leg(draws.expert, draws.start_epoch))

    def _read_leg(self, expert: int, epoch: int) -> Any:
        """Return the expert's leg from this epoch, in the form that the students' gradient takes."""
        config = self._inputs.config
        if self._legs is not None:
            return self._legs.get(self.experts, expert, epoch, config.ahead)
        read = self.experts.snapshot if self._networks is None else self._networks.get
        return read(expert, epoch), read(expert, epoch + config.target_epochs)
