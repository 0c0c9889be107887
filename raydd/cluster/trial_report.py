"""The report of a running trial: flat and picklable, the same for the study, the live table and MLflow."""

import dataclasses
import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from raydd.cpu_time import PROCESS, cpu_seconds
from raydd.memory import peak_bytes


@dataclass(frozen=True, kw_only=True)
class TrialReport:
    """The state of a trial at one step of its distillation."""

    step: int = 0
    """Distillation steps done."""
    steps: int = 0
    """Distillation steps in all."""
    rung: int = 0
    """The rung that the trial has reached, in percent of its steps; 0 if it is not at a rung, such as at the end."""
    r_mean: float = math.nan
    """Val r_mean in percent, averaged over the student seeds; at a rung by the rung's own scoring."""
    students: list[float] = field(default_factory=list)
    """Val r_mean of each student seed, or only of the closed-form student."""
    seconds: float = 0.0
    """Seconds that the distillation has taken so far, including those before an interruption."""
    bytes: int = 0
    """Size of the synthetic set."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """The metrics since the last report, each with its `step`."""
    record: str = ""
    """Folder of the synthetic set in the store, once it is complete."""
    node: str = ""
    """Host that the trial runs on."""
    gpu: str = ""
    """GPU that the trial runs on: its name and its number on the host; empty on a CPU."""
    peak_bytes: int = 0
    """Peak memory of the trial's process so far: GPU memory, or on a CPU the memory of the process."""
    process: str = ""
    """Unique id of the trial's process."""
    cpu_seconds: list[tuple[str, float]] = field(default_factory=list)
    """CPU seconds of the trial's process so far, for each part of the work (`raydd.cpu_time`), including other trials
    of the process. A list, since Tune would flatten a mapping."""
    slot: str = ""
    """Id of the slot in which the trial runs next to others; empty if it has a process of its own."""
    failure: str = ""
    """Why the trial cannot continue; empty if it can."""
    again: bool = False
    """Whether the failure is due to the store, the disk or a lost node, so that the same settings are run again: those
    that lose one process after another only a few times."""
    notice: bool = False
    """Whether the trial's machine was taken back with notice, such as a spot machine: then `again`, and no failure."""

    @classmethod
    def of(cls, result: Mapping[str, Any] | None) -> Self:
        """Return the report from a result of Ray Tune, which adds keys of its own."""
        names = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in (result or {}).items() if name in names})

    def from_here(self, device: str) -> Self:
        """Return the report with its origin filled in: this host and process, computing on `device`."""
        gpu = ""
        if device.startswith("cuda"):
            import torch

            gpu_numbers = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
            gpu = f"{torch.cuda.get_device_name(device)} ({gpu_numbers})"
        return dataclasses.replace(
            self,
            node=socket.gethostname(),
            gpu=gpu,
            peak_bytes=peak_bytes(device),
            process=PROCESS,
            cpu_seconds=list(cpu_seconds().items()),
        )

    def as_result(self) -> dict[str, Any]:
        """Return the report as a result for Ray Tune."""
        return dataclasses.asdict(self)

    @property
    def finished(self) -> bool:
        """Whether the distillation is complete."""
        return bool(self.record)

    def objective(self, name: str) -> float:
        """Return the value of one objective of the sweep: r_mean, seconds or bytes."""
        return float(getattr(self, name))
