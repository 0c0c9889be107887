"""The variables of many distillations under one another, and one step of all of them: see `population`.

Letters: K distillations, M metrics, N synthetic pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.distill.block_adam import AdamMoments
from raydd.distill.draws import StepDraws
from raydd.distill.engine import SMALLEST_RATE, SQUARE_DECAY, Distillation
from raydd.distill.legs import Leg
from raydd.distill.objectives.trajectory import DIVERGED, MATCHED
from raydd.distill.side_by_side import BatchedRun, Plans, StepLosses, matchings
from raydd.place import sent


class Stack:
    """The variables and moments of some distillations, each under one another along a leading axis of K."""

    def __init__(self, members: Mapping[int, Distillation], device: str) -> None:
        self.slots, self._members, self._device = list(members), list(members.values()), device
        first = self._members[0]
        self._config, self._adam = first.config, first.config.optimizer == "adam"
        self._learned = [name for name, variable in first.variables.items() if variable.requires_grad]
        self._blocks = {"image"} if self._adam and first.image.block else set()
        self._variables = {name: self._of(lambda own, name=name: own.variables[name]) for name in first.variables}
        self._moments = {name: self._begun(name) for name in self._learned}
        self._units = {name: self._of(lambda own, name=name: own.units[name])[:, None] for name in first.units}
        self._range = self._of(lambda own: own.range)[:, :, None].unbind(1)
        told = [(own.temperature, own.start.similarity.alpha) for own in self._members]
        self._temperature, self._alpha = self._tensor(told)[..., None, None].unbind(1)
        self._alive = torch.ones(len(self._members), dtype=torch.bool, device=device)
        self._names: list[str] = []
        self._history: list[Float[Tensor, "M K"]] = []

    def step(self, draws: Sequence[StepDraws], legs: Sequence[Leg]) -> None:
        """Take one step of all."""
        config = self._config
        rates = self._variables["rates"]
        plans = Plans.of([own.plan for own in draws], self._device, rates.dtype, blended=config.blend != "none")
        kind, matched = self._members[0].start.similarity.kind, MATCHED[config.matched]
        exact, loss = config.gradient == "exact", self._members[0].loss
        run = BatchedRun(plans, loss, self._temperature, kind, self._alpha, exact, matched, config.merged)
        rates = rates.exp() if self._adam else rates
        pairs = {name: value * self._units.get(name, 1.0) for name, value in self._variables.items()}
        pairs = {name: value.detach() for name, value in (pairs | {"rates": rates}).items()}
        for name in self._learned:
            pairs[name].requires_grad_()
        found = matchings(run, legs, pairs)
        slopes: dict[str, Any] = {**self._units, **({"rates": rates} if self._adam else {})}
        gradients = {name: gradient * slopes.get(name, 1.0) for name, gradient in found.gradients.items()}
        metrics = self._metrics(found, gradients, rates)
        self._history.append(metrics)
        self._alive = self._alive & metrics.isfinite().all(0) & (metrics[0] <= DIVERGED)
        self._move(gradients)
        for own in self._members:
            own.done += 1

    def reported(self) -> dict[int, list[dict[str, float]]]:
        """Metrics of all steps since this was last asked for, by slot."""
        if not self._history:
            return {}
        columns = torch.stack(self._history).permute(2, 0, 1).tolist()
        self._history = []
        return {
            slot: [dict(zip(self._names, step, strict=True)) for step in steps]
            for slot, steps in zip(self.slots, columns, strict=True)
        }

    def hand_back(self) -> None:
        """Give each distillation its variables and moments."""
        with torch.no_grad():
            for number, own in enumerate(self._members):
                for name in self._moments if own.done else ():
                    own.variables[name].copy_(self._variables[name][number])
                    own.optimizer.state[own.variables[name]] = self._moments_of(name, number, own)

    def _metrics(
        self, found: StepLosses, gradients: Mapping[str, Tensor], rates: Float[Tensor, "K 2"]
    ) -> Float[Tensor, "M K"]:
        """What a step reports: see `Distillation`."""
        reported = {
            "loss": found.loss,
            **found.fractions,
            "student_loss/first": found.student_losses[0],
            "student_loss/last": found.student_losses[-1],
            **{
                f"gradient/{name}": gradients[name].flatten(1).norm(dim=1)
                if gradients[name].ndim > 1
                else gradients[name].abs()
                for name in self._variables
                if name in gradients
            },
            "rate/image": rates[:, 0],
            "rate/text": rates[:, 1],
            **{
                name.replace("loss.", "loss_parameter/"): value
                for name, value in self._variables.items()
                if name.startswith("loss.")
            },
        }
        self._names = list(reported)
        return torch.stack(list(reported.values()))

    def _move(self, gradients: Mapping[str, Tensor]) -> None:
        """Move each variable of those that are alive down its gradient, as `Distillation` does."""
        numbers = iter(self._numbers(list(gradients)))
        momentum, of_mean, of_square, pull = (next(numbers) for _ in range(4))
        for name, gradient in gradients.items():
            variable, moments = self._variables[name], self._moments[name]

            def over(number: Tensor, like: Tensor = variable) -> Tensor:
                return number.view(-1, *[1] * (like.ndim - 1))

            rate = over(next(numbers))
            if self._adam:
                square = gradient.square()
                square = square.mean((1, 2), keepdim=True) if name in self._blocks else square
                after = AdamMoments(moments["mean"], moments["square"]).after(
                    gradient, square, first=over(momentum), second=SQUARE_DECAY
                )
                new = {"mean": after.mean, "square": after.square}
                moved = variable - rate * after.direction(over(of_mean), over(of_square))
            else:
                new = {"momentum_buffer": over(momentum) * moments["momentum_buffer"] + gradient}
                moved = variable - rate * new["momentum_buffer"]
            if name == "rates" and not self._adam:
                moved = moved.clamp(min=SMALLEST_RATE)
            if name == "image":
                moved = moved.lerp(moved.clamp(*self._range), over(pull))
            alive = over(self._alive)
            self._variables[name] = torch.where(alive, moved, variable)
            self._moments[name] = {key: torch.where(alive, value, moments[key]) for key, value in new.items()}

    def _numbers(self, names: Sequence[str]) -> Sequence[Float[Tensor, "K"]]:
        """Momentum, the moments' corrections and the pull of the next step, and each variable's learning rate."""
        rows = []
        for own in self._members:
            momentum, step = own.config.momentum, own.done + 1
            numbers = [momentum, 1 - momentum**step, 1 - SQUARE_DECAY**step, own.pull]
            rows.append(numbers + [own.lr(name) * own.schedule for name in names])
        return self._tensor(rows).unbind(1)

    def _tensor(self, rows: Sequence[Sequence[float]]) -> Float[Tensor, "K _"]:
        """Numbers on the device, in the variables' precision."""
        return sent(torch.tensor(rows, dtype=self._variables["rates"].dtype), self._device)

    def _of(self, part: Callable[[Distillation], Tensor]) -> Tensor:
        """The same part of all distillations, under one another."""
        return torch.stack([part(own).detach() for own in self._members])

    def _begun(self, name: str) -> dict[str, Tensor]:
        """A variable's moments, zeros where it has not moved yet."""
        variable = self._variables[name]
        keys = ("mean", "square") if self._adam else ("momentum_buffer",)
        moments = {key: torch.zeros_like(variable) for key in keys}
        if name in self._blocks:
            moments["square"] = variable.new_zeros(len(variable), 1, 1)
        for number, own in enumerate(self._members):
            for key, moment in own.optimizer.state.get(own.variables[name], {}).items():
                if key in moments:
                    moments[key][number] = moment
        return moments

    def _moments_of(self, name: str, number: int, own: Distillation) -> dict[str, Tensor]:
        """One distillation's moments as its own optimiser keeps them."""
        if not self._adam and not own.config.momentum:
            return {}
        moments = {key: value[number].clone() for key, value in self._moments[name].items()}
        if name in self._blocks:
            moments["square"] = moments["square"].view(())
        return moments | ({"step": torch.tensor(float(own.done))} if self._adam else {})
