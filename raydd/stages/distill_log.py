"""The log of a distillation: metrics of each step, and collapse measures at intervals; kept with its checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

Points = list[dict[str, float]]
_STEPS, _COLLAPSE = "curve.", "collapse."  # prefixes of the columns


@dataclass
class Log:
    """The log of one distillation."""

    steps: Points = field(default_factory=list)
    """Metrics of each step."""
    collapse: Points = field(default_factory=list)
    """Collapse measures, with the `step` after which they were taken."""

    def last_means(self, count: int) -> dict[str, float]:
        """Return the means of the metrics over the last `count` steps."""
        steps = self.steps[-count:] if count else []
        return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]} if steps else {}

    def means_before(self, step: int, every: int) -> Points:
        """Return the metrics' means over each `every` steps before `step`, with the last `step` of each interval."""
        ends = range(every, step, every) if every else ()
        return [{"step": end, **Log(self.steps[end - every : end]).last_means(every)} for end in ends]

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(step["seconds"] for step in self.steps)

    @property
    def cpu_seconds(self) -> float | None:
        """CPU time of all steps; None if steps of an older checkpoint have none."""
        cpu_times = [step.get("cpu_seconds") for step in self.steps]
        known_times = [seconds for seconds in cpu_times if seconds is not None]
        return sum(known_times) if len(known_times) == len(cpu_times) else None

    def tensors(self) -> dict[str, Tensor]:
        """Return the log as tensors, one per column."""
        return _to_tensors(self.steps, _STEPS) | _to_tensors(self.collapse, _COLLAPSE)

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """Read the log that `tensors` returned; tensors of other names are ignored."""
        return cls(_from_tensors(tensors, _STEPS), _from_tensors(tensors, _COLLAPSE))


def without_log(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint without those of the log."""
    return {name: value for name, value in tensors.items() if not name.startswith((_STEPS, _COLLAPSE))}


def _to_tensors(points: Sequence[dict[str, float]], prefix: str) -> dict[str, Tensor]:
    names = points[0] if points else {}
    return {prefix + name: torch.tensor([point[name] for point in points], dtype=torch.float64) for name in names}


def _from_tensors(tensors: dict[str, Tensor], prefix: str) -> Points:
    columns = {name.removeprefix(prefix): value.tolist() for name, value in tensors.items() if name.startswith(prefix)}
    return [dict(zip(columns, point, strict=True)) for point in zip(*columns.values(), strict=True)]
