"""What a cluster may grow to: the machines that its autoscaler may start.

Ray has a function for this (`get_max_resources_from_cluster_config`), but no part of Ray 2.60 gives it the answer. The
autoscaler's log, on the head, begins with what the autoscaler reads: its file, or on Kubernetes the settings
themselves.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private import worker
from ray.autoscaler.v2.utils import is_autoscaler_v2

_BEGINNING_BYTES = 2**20  # of the log
_COMMAND = re.compile(r"onitor started with command: (.*)")
_FILE = re.compile(r"--autoscaling-config=([^']+)")
_SETTINGS = re.compile(r"Using Autoscaling Config: \n(.+?)(?=\n\d{4}-\d\d-\d\d |\Z)", re.DOTALL)


@dataclass(frozen=True)
class Growth:
    """The machines that a cluster may start, besides its head."""

    machines: tuple[Mapping[str, float], ...] = ()
    """Resources of each machine that may be started, or has been."""
    most: int = 0
    """How many of them may run at once."""
    unknown: bool = False
    """Whether a machine may come whose resources are unknown before it has joined."""

    @property
    def gpus(self) -> float:
        """The most GPUs that the machines may have together."""
        return sum(sorted((machine.get("GPU", 0.0) for machine in self.machines), reverse=True)[: self.most])


def growth() -> Growth:
    """Return what the autoscaler of the connected cluster may start; nothing if there is no autoscaler."""
    settings = _autoscaler_settings()
    if settings is None:
        return Growth(unknown=True)
    most = settings.get("max_workers", 0)
    kinds: Mapping[str, Any] = settings.get("available_node_types", {})
    machines = [
        dict(kind.get("resources") or {})
        for name, kind in kinds.items()
        for _ in range(kind.get("max_workers", 0 if name == settings.get("head_node_type") else most))
    ]
    workers = sum(node["Alive"] for node in ray.nodes()) - 1
    return Growth(tuple(machines), most, unknown=workers < most and not all(machines))


def autoscaler_log() -> Path | None:
    """Return where the cluster's head has the autoscaler's log; None for a client (ray://)."""
    node = worker._global_node
    return Path(node.get_logs_dir_path()) / "monitor.log" if node else None


def _autoscaler_settings() -> dict[str, Any] | None:
    """Return the cluster's settings; empty without an autoscaler, None if there is one that this process cannot see."""
    log, beginning = autoscaler_log(), ""
    if log and log.is_file():  # this machine is the head
        with log.open("rb") as file:
            beginning = file.read(_BEGINNING_BYTES).decode(errors="replace")
    commands, settings = _COMMAND.findall(beginning), _SETTINGS.findall(beginning)
    path = _FILE.search(commands[-1]) if commands else None
    if commands and not path:
        return {}  # Ray starts a monitor on every head, also where no machine can be started
    if path and (config := Path(path[1]).expanduser()).is_file():
        return yaml.safe_load(config.read_text(encoding="utf-8"))  # `ray up --no-restart` may have changed it
    if settings:
        return yaml.safe_load(settings[-1])
    return None if is_autoscaler_v2() else {}
