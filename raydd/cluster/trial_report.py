"""What a trial tells while it runs: one flat, picklable report for the study, the live table and MLflow alike."""

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
    """The rung that the trial has reached, in percent of its steps; 0 for none, as at the end."""
    r_mean: float = math.nan
    """Mean retrieval on val over the student seeds, in percent; at a rung by the rung's own scoring."""
    students: list[float] = field(default_factory=list)
    """The same of each student seed, or of the closed-form student alone."""
    seconds: float = 0.0
    """Seconds that the distillation took so far, those before an interruption included."""
    bytes: int = 0
    """Size of the synthetic set."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """The metrics since the last report, each with its `step`."""
    record: str = ""
    """Folder of the synthetic set in the store, once it is complete."""
    node: str = ""
    """Host that the trial runs on."""
    gpu: str = ""
    """GPU that it runs on: its name and, on that host, its number; empty on a CPU."""
    peak_bytes: int = 0
    """Peak memory of its process so far: the GPU's, or on a CPU the process's own."""
    process: str = ""
    """Its process, in a word that no other has."""
    cpu_seconds: list[tuple[str, float]] = field(default_factory=list)
    """Parts of the work (`raydd.cpu_time`), and CPU seconds of its process for each so far, other trials included. Tune
    would take a mapping apart."""
    failure: str = ""
    """Why the trial cannot go on; empty while all is well."""
    again: bool = False
    """Whether the store, the disk or a lost node failed, so that the same settings are to be tried again."""

    @classmethod
    def of(cls, result: Mapping[str, Any] | None) -> Self:
        """The report inside a result of Ray Tune, which adds keys of its own."""
        names = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in (result or {}).items() if name in names})

    def from_here(self, device: str) -> Self:
        """The report with where it comes from: this process, computing on `device`."""
        gpu = ""
        if device.startswith("cuda"):
            import torch

            numbers = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
            gpu = f"{torch.cuda.get_device_name(device)} ({numbers})"
        return dataclasses.replace(
            self,
            node=socket.gethostname(),
            gpu=gpu,
            peak_bytes=peak_bytes(device),
            process=PROCESS,
            cpu_seconds=list(cpu_seconds().items()),
        )

    def as_result(self) -> dict[str, Any]:
        """The report as Ray Tune takes it."""
        return dataclasses.asdict(self)

    @property
    def finished(self) -> bool:
        """Whether the distillation came to its end."""
        return bool(self.record)

    def objective(self, name: str) -> float:
        """The value of one objective of the sweep: r_mean, seconds or bytes."""
        return float(getattr(self, name))
