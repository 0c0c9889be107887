"""The distillation loop: learn synthetic pairs on which students train as they would on all real pairs.

A distillation step of trajectory matching (as in RepBlend; other methods with this objective differ in its settings):
1. draw an expert, a start epoch, and the student's minibatches and blends;
2. train a student from the expert's start snapshot for T steps on the synthetic pairs, and take the gradient of the
   matching loss: how far the student ends from the expert's later snapshot;
3. move the synthetic pairs, their similarity matrix, the students' learning rates and the loss's own parameters down
   that gradient.

Other objectives (`raydd.distill.objectives`) replace 1 and 2 by another loss.

Letters: N synthetic pairs, d and e the widths of the image and the text encoder.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.config import DistillConfig
from raydd.distill.draws import step_seed
from raydd.distill.heads_gradient import StepLosses
from raydd.distill.image_variables import DistillationStep, ImageVariable
from raydd.distill.losses import find_loss
from raydd.distill.matching import LearnedPairs, StepLoss, read_numbers
from raydd.distill.objectives import OBJECTIVES, ObjectiveInputs, RealPairs
from raydd.distill.objectives.trajectory import DIVERGED
from raydd.distill.outer_step import OuterStep, StepNumbers
from raydd.distill.synthetic import SyntheticSet
from raydd.distill.trajectories import Trajectories
from raydd.distill.units import Units, positive
from raydd.errors import NonFiniteError, RecordError


class Distillation:
    """A distillation in progress: its variables, their moments, and the number of steps done."""

    def __init__(
        self,
        start: SyntheticSet,
        experts: Trajectories[Any],
        config: DistillConfig,
        image: ImageVariable,
        *,
        text_spread: Float[Tensor, "2 e"],
        temperature: float,
        real: RealPairs | None = None,
        device: str = "cpu",
    ) -> None:
        """Initialise the learned variables from the start set.

        Args:
            start: real pairs to start from, or a synthetic set to continue from.
            experts: the trajectories to match, of the networks that students train; other objectives may read none
                of them.
            config: the distillation's settings.
            image: what is learned of the images.
            text_spread: mean and standard deviation of each dimension of the real text features; under Adam, the
                standard deviation is the unit of the learned text features.
            temperature: tau of the students.
            real: features of the real training pairs; all objectives except trajectory matching read them.
            device: where to compute.

        Raises:
            RecordError: pixels are to be learned, but the start set has none.
            ConfigError: `config.loss` is a user's own loss and fails, or the objective needs real pairs and has none.
        """
        self.config, self.device, self.done = config, device, 0
        self.start, self.temperature = start, temperature
        self.experts: Trajectories[Any] = experts
        self.image: ImageVariable = image
        adam = config.optimizer == "adam"
        text_unit = text_spread[1] if adam else torch.ones_like(text_spread[1])
        image_start = image.begin(start, config)
        units = {"image": positive(image_start.unit).to(device), "text": positive(text_unit).to(device)}
        self.units = Units(units, log_rates=adam)
        low, high = image_start.range.to(device) / units["image"]
        self.outer = OuterStep(adam, frozenset(["image"] if image.block else []), (low, high))
        self._pull = image_start.pull
        self.loss = find_loss(config.loss)
        noise = None if image.noise is None else (image.noise, text_spread)
        inputs = ObjectiveInputs(
            config, temperature, self.loss, self.experts, image.student_gradient, noise, real, device
        )
        self.objective = OBJECTIVES[config.objective](inputs)
        loss_parameters = start.loss_parameters if start.loss == config.loss else {}
        rates = torch.tensor([start.rate_image, start.rate_text])
        values = {
            "image": image_start.value.to(device),
            "text": start.text_features.to(device),
            "rates": rates,
            **{f"similarity.{name}": factor for name, factor in start.similarity.factors.items()},
            **{f"loss.{name}": value for name, value in self.loss.tensors(loss_parameters, rates).items()},
            **{f"objective.{name}": value for name, value in self.objective.learned.items()},
        }
        variables = self.units.variables(values)
        self.variables = {name: value.float().to(device).clone() for name, value in variables.items()}
        self.moments = {
            name: self.outer.initial_moments(name, v) for name, v in self.variables.items() if self.lr(name) > 0
        }
        self.moves = dict.fromkeys(self.moments, 0)

    def step(self) -> dict[str, float]:
        """Take one distillation step; return the losses, the gradients' norms and the students' learning rates.

        Raises:
            NonFiniteError: the loss or a gradient is NaN or infinite, or the loss diverged; no variable has changed.
        """
        step, pairs = self._draw_next_step(), self._current_pairs()
        step_loss, rates = self.image.loss(step, pairs), pairs.rates.detach()
        value_gradients = {name: step_loss.gradients[name] for name in self.moments if name in step_loss.gradients}
        gradients = self.units.at_variables(value_gradients, rates)
        metrics = self._step_metrics(step_loss, gradients, rates)
        require_finite(self.done, metrics, self.objective.diverged)
        self._move_variables(gradients)
        return metrics

    def synthetic(self) -> SyntheticSet:
        """Return the current set, on the CPU."""
        pairs = self._current_pairs()
        with torch.no_grad():
            pixels, image = self.start.pixels, self.start.image_features
            if "image" in self.moments:
                pixels, image = self.image.pixels_and_features(pairs.images)
            factors = {name: factor.detach().cpu().clone() for name, factor in pairs.similarity.factors.items()}
            rate_image, rate_text = pairs.rates.tolist()
            return replace(
                self.start,
                image_features=image.cpu().clone(),
                text_features=pairs.texts.detach().cpu().clone(),
                similarity=self.start.similarity.with_factors(factors),
                rate_image=rate_image,
                rate_text=rate_text,
                loss=self.config.loss,
                pixels=pixels,
                loss_parameters={name: float(value.detach()) for name, value in pairs.loss.items()},
            )

    def state(self) -> dict[str, Tensor]:
        """Return what `resume` needs to continue (on a CPU bit for bit): variables, moments, number of steps done."""
        state = {f"variable.{name}": _copy(value) for name, value in self.variables.items()}
        for name, moments in self.moments.items():
            state |= {f"moment.{key}.{name}": _copy(moment) for key, moment in moments.items()}
            state[f"moment.step.{name}"] = torch.tensor(float(self.moves[name]))
        return state | {"done": torch.tensor(self.done)} | self.image.state()

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Raises:
            RecordError: the state belongs to other settings.
        """
        for name, value in self.variables.items():
            stored = state.get(f"variable.{name}")
            if stored is None or stored.shape != value.shape:
                raise RecordError(
                    f"The checkpoint's {name} does not fit these settings. Delete the checkpoint and start again."
                )
            value.copy_(stored)
        for name, initial in self.moments.items():
            # Checkpoints of earlier versions may lack moments of variables that had not moved, and under SGD the count.
            loaded = {key: state.get(f"moment.{key}.{name}", moment) for key, moment in initial.items()}
            self.moments[name] = {key: moment.to(self.device).expand_as(initial[key]) for key, moment in loaded.items()}
            self.moves[name] = int(state.get(f"moment.step.{name}", 0))
        self.done = int(state["done"])
        self.image.resume(state, self.device)

    def _draw_next_step(self) -> DistillationStep:
        """Draw the next step."""
        config, next_step = self.config, self.done + 1
        last_of_encoding = next_step % config.steps_per_encoding == 0 or next_step == config.steps
        seed = step_seed(config, self._first_of_encoding)
        return DistillationStep(self.objective.draw(self.done), last_of_encoding, self._used_pairs, seed)

    @property
    def _first_of_encoding(self) -> int:
        """The first step of the current encoding, that is since learned pixels last moved."""
        return self.done - self.done % self.config.steps_per_encoding

    def _used_pairs(self) -> Int[Tensor, "U"]:
        """Return the pairs that the distillation steps of the current encoding use."""
        steps = range(self._first_of_encoding, self._first_of_encoding + self.config.steps_per_encoding)
        return torch.cat([self.objective.used(step) for step in steps]).unique()

    def _current_pairs(self) -> LearnedPairs:
        """Return the current synthetic pairs as leaf tensors; the learned ones require a gradient."""
        values = {name: value.detach() for name, value in self.units.values(self.variables).items()}
        for name in self.moments:
            values[name].requires_grad_()
        return LearnedPairs.of(values, self.start.similarity)

    def _step_metrics(
        self, step_loss: StepLoss, gradients: Mapping[str, Tensor], rates: Float[Tensor, "2"]
    ) -> dict[str, float]:
        norms = {name: gradient.norm() for name, gradient in gradients.items()} | step_loss.norms
        return read_numbers(metrics_by_name(step_loss, norms, rates, self.variables))

    def _move_variables(self, gradients: Mapping[str, Tensor]) -> None:
        """Move each variable down its gradient, and pull out-of-range values back."""
        for name, gradient in gradients.items():
            variable, moments = self.variables[name], self.moments[name]
            updated = self.outer.apply(name, variable, gradient, moments, self.next_move(name))
            self.variables[name], self.moments[name] = updated
        self.count_step(gradients)

    def count_step(self, moved_names: Iterable[str]) -> None:
        """Count one more step as done, in which these variables have moved."""
        self.done += 1
        for name in moved_names:
            self.moves[name] += 1

    def take_back(self, steps: int) -> None:
        """Count the last steps as not done, since no variable moved in them."""
        self.done -= steps
        self.moves = {name: max(0, moves - steps) for name, moves in self.moves.items()}

    def next_move(self, name: str) -> StepNumbers:
        """Return the numbers of a variable's next step."""
        config, rate = self.config, self.lr(name) * self.schedule
        return StepNumbers.of_step(self.moves[name] + 1, rate=rate, momentum=config.momentum, pull=self._pull)

    @property
    def schedule(self) -> float:
        """LR multiplier of the outer learning rates in the next step."""
        if self.config.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * self.done / self.config.steps)) / 2

    def lr(self, name: str) -> float:
        """Return the outer learning rate of a variable."""
        config = self.config
        return {
            "image": config.image_lr,
            "text": config.text_lr,
            "similarity": config.similarity_lr,
            "rates": config.rate_lr,
            "loss": config.rate_lr,
            "objective": config.rate_lr,
        }[name.partition(".")[0]]


@dataclass(frozen=True)
class DistillPoint:
    """The state of a distillation after some steps, for reports."""

    step: int
    """Steps done."""
    steps: int
    """Total number of steps."""
    metrics: dict[str, float]
    """Losses, gradient norms and the students' learning rates: means over the steps since the last point."""
    synthetic: SyntheticSet
    collapse: Sequence[Mapping[str, float]] = ()
    """Collapse measures since the last point, if they are computed, each with its `step`."""
    earlier: Sequence[Mapping[str, float]] = ()
    """Metrics of the points before an interruption, each with its `step`; only on the first point after it."""
    fitted_val: dict[str, float] | None = None
    """At the end, if learning rates were just fitted: val scores of the student with seed 0 at these rates."""
    keep: Callable[[], None] = lambda: None
    """Stores a checkpoint of these steps, for callers that may be interrupted while they report this point. The end
    is stored anyway."""


def metrics_by_name(
    losses: StepLoss | StepLosses, norms: Mapping[str, Any], rates: Sequence[Any] | Tensor, variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the metrics of a step by name: numbers, or K numbers each for K distillations side by side.

    Args:
        losses: the step's losses.
        norms: norms of the gradients, by variable.
        rates: the students' learning rates.
        variables: all variables; of these, parameters of the loss and of the objective are reported.
    """
    ends = (("first", 0), ("last", -1)) if losses.student_losses else ()
    rate_image, rate_text = rates
    return {
        "loss": losses.loss,
        **losses.fractions,
        **{f"student_loss/{end}": losses.student_losses[index] for end, index in ends},
        **{f"gradient/{name}": norms[name] for name in variables if name in norms},
        "rate/image": rate_image,
        "rate/text": rate_text,
        **{
            name.replace("loss.", "loss_parameter/").replace("objective.", "objective/"): value
            for name, value in variables.items()
            if name.startswith(("loss.", "objective."))
        },
    }


def _copy(value: Tensor) -> Tensor:
    """Copy a value to the CPU, so that it stays the same when a population later writes to the variable in place."""
    return value.to("cpu", copy=True)


def require_finite(step: int, metrics: Mapping[str, float], limit: float = DIVERGED) -> None:
    """Check the metrics of a step. A loss above `limit` has diverged.

    Raises:
        NonFiniteError: a metric is NaN or infinite, or the loss diverged.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise NonFiniteError(
                f"Step {step}: {name} is {value}. Lower the learning rates of distill, or distill.start_rate."
            )
    if metrics["loss"] > limit:
        raise NonFiniteError(
            f"Step {step}: the matching loss diverged to {metrics['loss']:.3g}. Lower distill.start_rate."
        )
