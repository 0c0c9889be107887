"""What a machine has and lacks for a planned run: the checks of `raydd doctor`."""

import importlib
import os
import platform
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from rich.filesize import decimal

from raydd.config import Config
from raydd.cost.bytes import expert_bytes
from raydd.data import DataSet
from raydd.data.encoders import ImageEncoder, TextEncoder
from raydd.errors import RayddError
from raydd.place import device_of, home, open_store, use_threads
from raydd.progress import Progress, silent
from raydd.protocols import Workbench, open_workbench

# What a run without a sweep does not need, and who does.
_OPTIONAL = {
    "ray": "`raydd sweep`, `demo` and `experts --workers`",
    "optuna": "`raydd sweep` and `demo`",
    "mlflow": "tracking and `raydd board`",
}
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    state: Literal["ok", "warning", "missing"]
    """Enough, to be known, or more than the run can do without."""
    text: str
    """What is there; where that is not enough, what to do."""


def examine(config: Config, progress: Progress = silent) -> Iterator[Check]:
    """All checks of a planned run; one that fails stops none of the others, but those that need what it looked for."""
    use_threads(config.place)
    plan = _Plan(config, progress)
    yield Check("python", "ok", f"Python {platform.python_version()}, torch {torch.__version__}")
    yield _guarded("device", lambda: _device(config))
    for package, use in _OPTIONAL.items():
        yield _package(package, use)
    needed = [
        _guarded("store", lambda: _store(config)),
        _guarded("data", lambda: "; ".join(plan.data.summary())),
        _guarded("image encoder", lambda: f"{plan.image.name}: {plan.image.size} pixels, {plan.image.width} wide"),
        _guarded("text encoder", lambda: f"{plan.text.name}: {plan.text.width} wide"),
    ]
    yield from needed
    lacking = [check.name for check in needed if check.state == "missing"]
    for name, size_check in (("disk", _disk), ("memory", _memory)):
        if lacking:
            yield Check(name, "warning", f"the need is not known before {' and '.join(lacking)} can be had")
        else:
            yield size_check(plan)


class _Plan:
    """The data and the encoders of the planned run, loaded when a check first asks for them."""

    def __init__(self, config: Config, progress: Progress) -> None:
        self.config, self._progress = config, progress

    @cached_property
    def work(self) -> Workbench[Any]:
        return open_workbench(self.config, open_store(self.config.place), self._progress)

    @property
    def data(self) -> DataSet:
        return self.work.data

    @property
    def image(self) -> ImageEncoder:
        return self.work.image_encoder

    @property
    def text(self) -> TextEncoder:
        return self.work.text_encoder


def _guarded(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except (RayddError, OSError, ValueError, ImportError) as error:
        kind = "" if isinstance(error, RayddError) else f"{type(error).__name__}: "
        return Check(name, "missing", kind + " ".join(str(error).split()))


def _device(config: Config) -> str:
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = ", ".join(f"{gpu.name} with {decimal(gpu.total_memory)}" for gpu in gpus) or "no GPU"
    cores = len(os.sched_getaffinity(0))
    return f"{device_of(config.place)}; {names}; {cores} CPU cores, {torch.get_num_threads()} threads a process"


def _package(name: str, use: str) -> Check:
    try:
        return Check(name, "ok", importlib.import_module(name).__version__)
    except ImportError as error:
        return Check(name, "warning", f"cannot be imported ({error}), and {use} need it. Run `pip install {name}`.")


def _store(config: Config) -> str:
    try:
        store = open_store(config.place)
        name, content = f"probe-{secrets.token_hex(8)}", secrets.token_bytes(16)
        store.write(name, content)
        same = store.read(name) == content
        store.remove(name)
    except (OSError, ValueError) as error:
        where = config.place.store or os.environ.get("RAYDD_STORE") or home(config.place)
        raise RayddError(f"{where} cannot be written ({error}). Set place.store and place.home to what can.") from error
    if not same:
        raise RayddError(f"{store.root} gives back other bytes than were written. Set place.store to another place.")
    return f"{store.root} can be written and read"


def _disk(plan: _Plan) -> Check:
    work = plan.work
    made, features = work.is_prepared, work.prepared_bytes
    experts = expert_bytes(work.config, work.parameters)
    text = f"{decimal(features)} of features{' (made)' if made else ''}, {decimal(experts)} of experts"
    if work.store.folder is None:
        return Check("disk", "ok", f"{text}, in a bucket")
    free = psutil.disk_usage(str(work.store.folder)).free
    text = f"{text}; {decimal(free)} free"
    if experts + (0 if made else features) > free:
        return Check("disk", "missing", f"{text}. Make room, set place.store to another disk, or lower features.views.")
    return Check("disk", "ok", text)


def _memory(plan: _Plan) -> Check:
    work = plan.work
    need, device = work.memory_bytes, work.device
    free, total = torch.cuda.mem_get_info(device) if device.startswith("cuda") else _machine_memory()
    text = f"about {decimal(need)} at most, without a sweep; {decimal(free)} free of {decimal(total)}"
    if need <= free:
        return Check("memory", "ok", text)
    return Check("memory", "warning" if need <= total else "missing", f"{text}. Lower {work.memory_help}.")


def _machine_memory() -> tuple[int, int]:
    """Free and total memory, within what a container may take."""
    machine = psutil.virtual_memory()
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    total = machine.total if limit == "max" else min(machine.total, int(limit))
    return min(machine.available, total), total
