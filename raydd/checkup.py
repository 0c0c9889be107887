"""What a machine has and lacks for a planned run: the checks of `raydd doctor`."""

import importlib
import math
import os
import platform
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import psutil
import torch

from raydd.config import Config
from raydd.data import DataSet
from raydd.data.encoders import ImageEncoder, TextEncoder, load_image_encoder, load_text_encoder
from raydd.data.encoding import workers_for
from raydd.data.feature_shards import views_in
from raydd.data.features import features_record
from raydd.errors import RayddError
from raydd.forecast import expert_bytes, feature_bytes, graph_bytes, memory_bytes
from raydd.place import device_of, home, images_at_once, open_store, use_threads
from raydd.progress import Progress, silent
from raydd.stages import pairs

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
    def data(self) -> DataSet:
        return pairs(self.config, open_store(self.config.place), self._progress)

    @cached_property
    def image(self) -> ImageEncoder:
        return load_image_encoder(self.config.encoders, device_of(self.config.place))

    @cached_property
    def text(self) -> TextEncoder:
        return load_text_encoder(self.config.encoders, device_of(self.config.place))


def _guarded(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except (RayddError, OSError, ValueError, ImportError) as error:
        kind = "" if isinstance(error, RayddError) else f"{type(error).__name__}: "
        return Check(name, "missing", kind + " ".join(str(error).split()))


def _device(config: Config) -> str:
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = ", ".join(f"{gpu.name} with {_size(gpu.total_memory)}" for gpu in gpus) or "no GPU"
    cores = len(os.sched_getaffinity(0))
    return f"{device_of(config.place)}; {names}; {cores} CPU cores, {torch.get_num_threads()} threads a process"


def _package(name: str, use: str) -> Check:
    try:
        return Check(name, "ok", importlib.import_module(name).__version__)
    except ImportError as error:
        return Check(name, "warning", f"cannot be imported ({error}), and {use} need it. Run `pip install {name}`.")


def _store(config: Config) -> str:
    try:
        home(config.place).mkdir(parents=True, exist_ok=True)
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
    config, data = plan.config, plan.data
    store = open_store(config.place)
    made = features_record(config, data.fingerprint, store).complete
    features = feature_bytes(
        len(data.train),
        len(data.val) + len(data.test),
        views_in("train", config.features),
        plan.image.width,
        sum(len(split.captions) for split in data.splits),
        plan.text.width,
    )
    experts = expert_bytes(config, plan.image.width, plan.text.width)
    text = f"{_size(features)} of features{' (made)' if made else ''}, {_size(experts)} of experts"
    if store.folder is None:
        return Check("disk", "ok", f"{text}, in a bucket")
    free = psutil.disk_usage(str(store.folder)).free
    text = f"{text}; {_size(free)} free"
    if experts + (0 if made else features) > free:
        return Check("disk", "missing", f"{text}. Make room, set place.store to another disk, or lower features.views.")
    return Check("disk", "ok", text)


def _memory(plan: _Plan) -> Check:
    device = device_of(plan.config.place)
    on_gpu = device.startswith("cuda")
    need = memory_bytes(
        plan.config,
        plan.image.width,
        plan.text.width,
        size=plan.image.size,
        graph=graph_bytes(plan.image.module, plan.image.size, device),
        images=images_at_once(plan.config.place, device) * (1 if on_gpu else torch.get_num_threads()),
        workers=0 if on_gpu else workers_for(device),
    )
    free, total = torch.cuda.mem_get_info(device) if on_gpu else _machine_memory()
    text = f"about {_size(need)} at most, without a sweep; {_size(free)} free of {_size(total)}"
    if need <= free:
        return Check("memory", "ok", text)
    state = "warning" if need <= total else "missing"
    return Check("memory", state, f"{text}. Lower place.encode_batch, or distil in the space features.")


def _machine_memory() -> tuple[float, float]:
    """Free and total memory, within what a container may take."""
    machine = psutil.virtual_memory()
    text = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    total = min(machine.total, math.inf if text == "max" else float(text))
    return min(machine.available, total), total


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
