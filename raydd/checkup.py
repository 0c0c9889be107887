"""The checks of `raydd doctor`: what a machine has, and what is missing, for a planned run."""

import importlib
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import torch
from rich.filesize import decimal

from raydd.cluster.cluster_file import ENVIRONMENT, compare_versions
from raydd.config import Config
from raydd.cost.bytes import expert_bytes
from raydd.device import device_of, sees_gpu, use_threads
from raydd.distill.methods import find_method
from raydd.errors import RayddError
from raydd.place import mlflow_address, open_store, sqlite_file, study_address
from raydd.preflight import STORE_SECONDS, Check, Command, State, guarded, quick_checks
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
    yield Check("python", "ok", f"Python {platform.python_version()}, torch {torch.__version__}")
    if cluster:
        yield guarded("cluster", lambda: compare_versions(cluster, config))
        if not (file := cluster.parent / ENVIRONMENT).exists():
            text = f"there is no {file}, so store, study and MLflow are looked for where this machine has them."
            yield Check("environment", "warning", f"{text} `ray up` needs it: copy raydd.env.example and fill it in.")
    for package, purpose in _OPTIONAL.items():
        yield _check_package(package, purpose, needed=command != "run")
    if command == "compare":
        comparison = _Comparison(config, progress)
        planned = [guarded("rows", comparison.check_rows)]
        plans = comparison.plans
    else:
        plan = _Plan(config, progress)
        planned = [guarded("space", plan.check_space)] if command == "sweep" else []
        plans = [plan]
    required = [check for plan in plans for check in plan.required_checks()]
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
    yield from planned
    yield from required
    loaded = {check.name for check in required if check.state == "ok"}
    yield from (guarded(plan.named("pairs"), plan.check_pairs) for plan in plans if plan.named("data") in loaded)
    missing = [
        check.name for check in (*quick, *required) if check.state == "missing" and check.name not in _TRIAL_CHECKS
    ]
    reason = f" until {' and '.join(missing)} can be loaded" if missing else ""
    for plan in plans:
        if not cluster or _in_bucket(config):
            yield _sized(plan.named("disk"), partial(_check_disk, plan), reason)
        if not cluster:  # the memory of this machine does not matter to a cluster
            yield _sized(plan.named("memory"), partial(_check_memory, plan), reason)


def _sized(name: str, check: Callable[[], tuple[State, str]], unknown: str) -> Check:
    """Compare a need with what there is, unless the need is unknown for a reason."""
    if unknown:
        return Check(name, "warning", f"the need is unknown{unknown}")
    try:
        return Check(name, *check())
    except (RayddError, OSError) as error:
        return Check(name, "warning", f"the need is unknown: {error}")


class _Plan:
    """The data and the encoders that a command will use, loaded when a check first asks for them.

    Args:
        config: all settings.
        progress: receives the progress of reading the data.
        name: name of the data set, if there are several.
        pairs: numbers of pairs that the command will make or select; `distill.pairs` is the only one by default.
    """

    def __init__(self, config: Config, progress: Progress, name: str = "", pairs: Sequence[int] = ()) -> None:
        self.config, self._progress, self._name = config, progress, name
        self._pairs = pairs or (config.distill.pairs,)

    @cached_property
    def work(self) -> Workbench[Any]:
        return open_workbench(self.config, open_store(self.config.place, patience=STORE_SECONDS), self._progress)

    def named(self, check: str) -> str:
        """Return the name of a check, with that of the data set if there are several."""
        return f"{check} of {self._name}" if self._name else check

    def required_checks(self) -> Iterator[Check]:
        """Read the data and load the encoders."""
        yield guarded(self.named("data"), lambda: "; ".join(self.work.data.summary()))
        yield guarded(self.named("image encoder"), self._load_image_encoder)
        yield guarded(self.named("text encoder"), self._load_text_encoder)

    def _load_image_encoder(self) -> str:
        encoder = self.work.image_encoder
        return f"{encoder.name}: {encoder.size} pixels, {encoder.width} wide"

    def _load_text_encoder(self) -> str:
        encoder = self.work.text_encoder
        return f"{encoder.name}: {encoder.width} wide"

    def check_space(self) -> str:
        """Draw trials as the sweep will, and remember their numbers of pairs."""
        sweep, drawn = self.config.sweep, _drawn_from(self.config.sweep.space, self.config)
        self._pairs = [config.distill.pairs for config in (self.config, *drawn)]
        return f"{sweep.space}, sampler {sweep.sampler}: {len(drawn)} trials drawn, all valid"

    def check_pairs(self) -> str:
        """Compare the largest number of pairs with the number of training images."""
        self.work.require_enough_pairs(max(self._pairs))
        return f"{max(self._pairs)} of {len(self.work.data.train)} training images"


class _Comparison:
    """The rows of a planned comparison, and what each of its data sets needs."""

    def __init__(self, config: Config, progress: Progress) -> None:
        self._config, self._progress = config, progress
        self.plans: list[_Plan] = []
        """One plan for each data set, once `check_rows` has found them."""

    def check_rows(self) -> str:
        """Plan all rows, and draw trials of each method that is to be tuned."""
        from raydd.compare.plans import FULL, TUNED, configs_by_data, row_plans

        bases = configs_by_data(self._config)
        rows = {name: row_plans(base, name) for name, base in bases.items()}
        tuned = [row for plans in rows.values() for row in plans if row.variant == TUNED]
        for name, base in bases.items():
            pairs = [row.config.distill.pairs for row in rows[name] if row.kind != FULL]
            self.plans.append(_Plan(base, self._progress, name if len(bases) > 1 else "", pairs))
        for row in tuned:
            _drawn_from(find_method(row.method).space, row.config)
        text = str(sum(map(len, rows.values())))
        return (
            f"{text}, and {len(tuned)} of them are tuned by {self._config.compare.trials} trials each"
            if tuned
            else text
        )


def _drawn_from(space: str, config: Config) -> list[Config]:
    """Draw trials from a search space as a sweep will.

    Raises:
        ConfigError: the space, the sampler or a trial is invalid.
    """
    import optuna

    from raydd.tuning.samplers import find_sampler
    from search_spaces import draw_configs, load_space

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    find_sampler(config.sweep.sampler)(config.sweep.seed)
    return draw_configs(load_space(space), config)


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


def _check_disk(plan: _Plan) -> tuple[State, str]:
    work = plan.work
    cached, feature_size = work.is_prepared, work.prepared_bytes
    expert_size = expert_bytes(work.config, work.parameters)
    text = f"{decimal(feature_size)} of features{' (made)' if cached else ''}, {decimal(expert_size)} of experts"
    if work.store.folder is None:
        return "ok", f"{text}, in a bucket"
    free = psutil.disk_usage(str(work.store.folder)).free
    text = f"{text}; {decimal(free)} free"
    if expert_size + (0 if cached else feature_size) > free:
        return "missing", f"{text}. Make room, set place.store to another disk, or lower features.views."
    return "ok", text


def _check_memory(plan: _Plan) -> tuple[State, str]:
    work = plan.work
    needed, device = work.memory_bytes, work.device
    free, total = torch.cuda.mem_get_info(device) if device.startswith("cuda") else _machine_memory()
    text = f"about {decimal(needed)} at most, without a sweep; {decimal(free)} free of {decimal(total)}"
    if needed <= free:
        return "ok", text
    return "warning" if needed <= total else "missing", f"{text}. Lower {work.memory_help}."


def _machine_memory() -> tuple[int, int]:
    """Return free and total memory in bytes, within the limit of a container."""
    machine = psutil.virtual_memory()
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    total = machine.total if limit == "max" else min(machine.total, int(limit))
    return min(machine.available, total), total
