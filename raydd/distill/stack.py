"""The stacked variables of many distillations, and one step of all of them (see `raydd.distill.population`).

Letters: K distillations, M metrics, N synthetic pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.device import sent
from raydd.distill.draws import StepDraws
from raydd.distill.engine import Distillation, metrics_by_name
from raydd.distill.heads_gradient import Plans, StudentRuns, matching_losses
from raydd.distill.legs import Leg
from raydd.distill.objectives.trajectory import DIVERGED, MATCHED
from raydd.distill.outer_step import OuterStep, StepNumbers
from raydd.distill.units import Units


class Stack:
    """The variables and moments of K distillations, each stacked along a leading axis of K."""

    def __init__(self, members: Mapping[int, Distillation], device: str) -> None:
        self.slots, self._members, self._device = list(members), list(members.values()), device
        first = self._members[0]
        self._config = first.config
        self._variables = {
            name: self._stack_members(lambda member, name=name: member.variables[name]) for name in first.variables
        }
        self._moments = {
            name: {
                key: self._stack_members(lambda member, name=name, key=key: member.moments[name][key])
                for key in moments
            }
            for name, moments in first.moments.items()
        }
        units = {
            name: self._stack_members(lambda member, name=name: member.units.by_name[name])[:, None]
            for name in first.units.by_name
        }
        self._units = Units(units, first.units.log_rates)
        low, high = (self._stack_members(lambda member, end=end: member.outer.range[end])[:, None] for end in range(2))
        self._outer = OuterStep(first.outer.adam, first.outer.blocks, (low, high))
        scales = [(member.temperature, member.start.similarity.alpha) for member in self._members]
        self._temperature, self._alpha = self._to_device(scales)[..., None, None].unbind(1)
        self._alive = torch.ones(len(self._members), dtype=torch.bool, device=device)
        self._metric_names: list[str] = []
        self._unread_metrics: list[Float[Tensor, "M K"]] = []

    def step(self, draws: Sequence[StepDraws], legs: Sequence[Leg]) -> None:
        """Take one step of all distillations."""
        config = self._config
        pairs = {name: value.detach() for name, value in self._units.values(self._variables).items()}
        rates = pairs["rates"]
        plans = Plans.of([step_draws.plan for step_draws in draws], self._device, rates.dtype)
        kind, matched = self._members[0].start.similarity.kind, MATCHED[config.matched]
        exact, loss = config.gradient == "exact", self._members[0].loss
        run = StudentRuns(plans, loss, self._temperature, kind, self._alpha, exact, matched, config.merged)
        for name in self._moments:
            pairs[name].requires_grad_()
        losses = matching_losses(run, legs, pairs)
        rates = rates.detach()
        gradients = self._units.at_variables(losses.gradients, rates)
        norms = {name: gradient.reshape(len(gradient), -1).norm(dim=1) for name, gradient in gradients.items()}
        named_metrics = metrics_by_name(losses, norms, rates.unbind(1), self._variables)
        self._metric_names, metrics = list(named_metrics), torch.stack(list(named_metrics.values()))
        self._unread_metrics.append(metrics)
        self._alive = self._alive & metrics.isfinite().all(0) & (metrics[0] <= DIVERGED)
        self._move_variables(gradients)

    def take_metrics(self) -> dict[int, list[dict[str, float]]]:
        """Return the metrics of all steps since the last call, by slot."""
        if not self._unread_metrics:
            return {}
        steps_by_slot = torch.stack(self._unread_metrics).permute(2, 0, 1).tolist()
        self._unread_metrics = []
        return {
            slot: [dict(zip(self._metric_names, step, strict=True)) for step in steps]
            for slot, steps in zip(self.slots, steps_by_slot, strict=True)
        }

    def hand_back(self) -> None:
        """Copy to each distillation its variables and moments."""
        with torch.no_grad():
            for number, member in enumerate(self._members):
                for name, moments in self._moments.items():
                    member.variables[name].copy_(self._variables[name][number])
                    member.moments[name] = {key: moment[number].clone() for key, moment in moments.items()}

    def _move_variables(self, gradients: Mapping[str, Tensor]) -> None:
        """Move the variables down their gradients, as `Distillation` does; failed distillations stay as they are."""
        rows = [[astuple(member.next_move(name)) for name in gradients] for member in self._members]
        numbers_by_variable = self._to_device(rows).permute(1, 2, 0)
        for (name, gradient), numbers in zip(gradients.items(), numbers_by_variable, strict=True):
            variable, moments = self._variables[name], self._moments[name]
            shape = [-1, *[1] * (variable.ndim - 1)]
            step_numbers = StepNumbers(*(number.view(shape) for number in numbers))
            updated, new_moments = self._outer.apply(name, variable, gradient, moments, step_numbers)
            alive = self._alive.view(shape)
            self._variables[name] = torch.where(alive, updated, variable)
            self._moments[name] = {key: torch.where(alive, value, moments[key]) for key, value in new_moments.items()}
        for member in self._members:
            member.count_step(gradients)

    def _to_device(self, rows: Sequence[Sequence[Any]]) -> Float[Tensor, "K *numbers"]:
        """Return numbers as a tensor on the device, in the variables' precision."""
        return sent(torch.tensor(rows, dtype=self._variables["rates"].dtype), self._device)

    def _stack_members(self, select: Callable[[Distillation], Tensor]) -> Tensor:
        """Stack the same tensor of all distillations."""
        return torch.stack([select(member).detach() for member in self._members])
