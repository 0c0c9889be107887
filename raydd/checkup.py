"""The checks of `raydd doctor`: what a machine has, and what is missing, for a planned run."""

import importlib
import os
import platform
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import torch
from rich.filesize import decimal

from raydd.cluster.cluster_file import ENVIRONMENT, compare_versions
from raydd.config import Config
from raydd.cost.bytes import expert_bytes
from raydd.data import DataSet
from raydd.data.encoders import ImageEncoder, TextEncoder
from raydd.errors import RayddError
from raydd.place import device_of, mlflow_address, open_store, sees_gpu, sqlite_file, study_address, use_threads
from raydd.preflight import STORE_SECONDS, Check, Command, guarded, quick_checks
from raydd.progress import Progress, silent
from raydd.protocols import Workbench, open_workbench
from raydd.settings import with_settings

# Packages that a run without a sweep does not need, and what needs them.
_OPTIONAL = {
    "ray": "`raydd sweep`, `demo` and `experts --workers`",
    "optuna": "`raydd sweep` and `demo`",
    "mlflow": "tracking and `raydd board`",
}
_LOADING_CHECKS = ("reader", "encoders")  # quick checks that reading the data and loading the encoders repeat
_TRIAL_CHECKS = ("GPUs of trials", "study", "MLflow")  # checks on which the need of disk and memory does not depend
_OF_THIS_MACHINE = ("device", "GPUs", "shared memory")  # quick checks that say nothing about a cluster
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def examine(
    config: Config, command: Command = "run", cluster: Path | None = None, progress: Progress = silent
) -> Iterator[Check]:
    """Make all checks of a planned command. A failed check stops only the checks that depend on it.

    Args:
        config: all settings.
        command: the planned command.
        cluster: the file of the cluster that is to run the command, in whose environment
            (`raydd.cluster.cluster_file`) this is called; None for this machine.
        progress: receives the progress of reading the data.
    """
    use_threads(config.place)
    if cluster and config.place.ray == "local":
        config = with_settings(config, {"place.ray": "auto"})
    plan = _Plan(config, command, progress)
    yield Check("python", "ok", f"Python {platform.python_version()}, torch {torch.__version__}")
    if cluster:
        yield guarded("cluster", lambda: compare_versions(cluster, config))
        if not (file := cluster.parent / ENVIRONMENT).exists():
            text = f"there is no {file}, so store, study and MLflow are looked for where this machine has them."
            yield Check("environment", "warning", f"{text} `ray up` needs it: copy raydd.env.example and fill it in.")
    for package, purpose in _OPTIONAL.items():
        yield _check_package(package, purpose, needed=command != "run")
    required = [
        guarded("data", lambda: "; ".join(plan.data.summary())),
        guarded("image encoder", lambda: f"{plan.image.name}: {plan.image.size} pixels, {plan.image.width} wide"),
        guarded("text encoder", lambda: f"{plan.text.name}: {plan.text.width} wide"),
    ]
    required_texts = [check.text for check in required]
    quick = [
        guarded("device", lambda: _describe_device(config, command))
        if (check.name, check.state) == ("device", "ok")
        else check
        for check in quick_checks(config, command)
        if check.name not in _LOADING_CHECKS or (check.state == "missing" and check.text not in required_texts)
    ]
    if cluster:
        quick = [_on_cluster(check, config) for check in quick if check.name not in _OF_THIS_MACHINE]
    yield from quick
    if command == "sweep":
        yield guarded("space", lambda: f"{config.sweep.space}, sampler {config.sweep.sampler}{plan.check_space()}")
    yield from required
    if required[0].state == "ok":
        yield guarded("pairs", plan.check_pairs)
    missing = [
        check.name for check in (*quick, *required) if check.state == "missing" and check.name not in _TRIAL_CHECKS
    ]
    for name, size_check in (("disk", _check_disk), ("memory", _check_memory)):
        if cluster and (name == "memory" or not _in_bucket(config)):
            continue  # those of this machine do not matter
        if missing:
            yield Check(name, "warning", f"the need is unknown until {' and '.join(missing)} can be loaded")
        else:
            try:
                yield size_check(plan)
            except (RayddError, OSError) as error:
                yield Check(name, "warning", f"the need is unknown: {error}")


class _Plan:
    """The data and the encoders of the planned run, loaded when a check first asks for them."""

    def __init__(self, config: Config, command: Command, progress: Progress) -> None:
        self.config, self._command, self._progress = config, command, progress
        self._drawn_configs: Sequence[Config] = ()

    @cached_property
    def work(self) -> Workbench[Any]:
        return open_workbench(self.config, open_store(self.config.place, patience=STORE_SECONDS), self._progress)

    @property
    def data(self) -> DataSet:
        return self.work.data

    @property
    def image(self) -> ImageEncoder:
        return self.work.image_encoder

    @property
    def text(self) -> TextEncoder:
        return self.work.text_encoder

    def check_space(self) -> str:
        """Draw trials as the sweep will; return in words how many."""
        import optuna

        from raydd.tuning.samplers import find_sampler
        from search_spaces import draw_configs, load_space

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        find_sampler(self.config.sweep.sampler)(self.config.sweep.seed)
        self._drawn_configs = draw_configs(load_space(self.config.sweep.space), self.config)
        return f": {len(self._drawn_configs)} trials drawn, all valid"

    def check_pairs(self) -> str:
        """Compare the largest number of pairs of any distillation or selection with the number of training images."""
        pair_counts = [config.distill.pairs for config in (self.config, *self._drawn_configs)]
        if self._command == "compare":
            pair_counts = [count + 1 for count in self.config.compare.pairs]  # of selections, see `compare.pairs`
        self.work.require_enough_pairs(max(pair_counts))
        return f"{max(pair_counts)} of {len(self.data.train)} training images"


def _describe_device(config: Config, command: Command) -> str:
    """Describe the device, after trying it, and what this machine has."""
    on_cpu = command != "run" and config.sweep.gpus == 0 and config.place.device == "auto"
    device = "cpu" if on_cpu else device_of(config.place)
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count() if sees_gpu() else 0)]
    names = ", ".join(f"{gpu.name} with {decimal(gpu.total_memory)}" for gpu in gpus) or "no GPU"
    cores = len(os.sched_getaffinity(0))
    return f"{device}; {names}; {cores} CPU cores, {torch.get_num_threads()} threads a process"


def _check_package(name: str, purpose: str, *, needed: bool) -> Check:
    try:
        return Check(name, "ok", importlib.import_module(name).__version__)
    except ImportError as error:
        text = f"cannot be imported ({error}), but {purpose} need it. Run `pip install {name}`."
        return Check(name, "missing" if needed else "warning", text)


def _on_cluster(check: Check, config: Config) -> Check:
    """Return a check as it holds for a cluster: some places are the head's, and nodes have rights of their own."""
    if check.name == "store" and not _in_bucket(config):
        return Check("store", "ok", "a folder of the nodes, not checked here")
    if check.name == "study" and sqlite_file(study_address(config.place)):
        return Check("study", "ok", "SQLite on the head")
    if check.name == "MLflow" and _is_local(mlflow_address(config.place)):
        return Check("MLflow", "ok", "served by the head")
    if check.name in ("store", "study") and check.state == "missing":
        return Check(check.name, "warning", f"{check.text} Nodes may reach it although this machine does not.")
    return check


def _in_bucket(config: Config) -> bool:
    return "://" in (config.place.store or os.environ.get("RAYDD_STORE", ""))


def _is_local(address: str) -> bool:
    return bool(sqlite_file(address)) or urlsplit(address).hostname in ("127.0.0.1", "localhost")


def _check_disk(plan: _Plan) -> Check:
    work = plan.work
    cached, feature_size = work.is_prepared, work.prepared_bytes
    expert_size = expert_bytes(work.config, work.parameters)
    text = f"{decimal(feature_size)} of features{' (made)' if cached else ''}, {decimal(expert_size)} of experts"
    if work.store.folder is None:
        return Check("disk", "ok", f"{text}, in a bucket")
    free = psutil.disk_usage(str(work.store.folder)).free
    text = f"{text}; {decimal(free)} free"
    if expert_size + (0 if cached else feature_size) > free:
        return Check("disk", "missing", f"{text}. Make room, set place.store to another disk, or lower features.views.")
    return Check("disk", "ok", text)


def _check_memory(plan: _Plan) -> Check:
    work = plan.work
    needed, device = work.memory_bytes, work.device
    free, total = torch.cuda.mem_get_info(device) if device.startswith("cuda") else _machine_memory()
    text = f"about {decimal(needed)} at most, without a sweep; {decimal(free)} free of {decimal(total)}"
    if needed <= free:
        return Check("memory", "ok", text)
    return Check("memory", "warning" if needed <= total else "missing", f"{text}. Lower {work.memory_help}.")


def _machine_memory() -> tuple[int, int]:
    """Return free and total memory in bytes, within the limit of a container."""
    machine = psutil.virtual_memory()
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    total = machine.total if limit == "max" else min(machine.total, int(limit))
    return min(machine.available, total), total
