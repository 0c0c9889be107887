"""The GPUs of a cluster: whether a sweep uses them, and whether torch can use them on each machine."""

import contextlib
import math
import socket
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, ObjectLostError, RayError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydd.cluster.connect import reason_of
from raydd.cluster.growth import growth
from raydd.cluster.launch_failures import LaunchFailures
from raydd.config import Config, PlaceConfig
from raydd.device import FULL, device_of, require_one_device, sees_gpu
from raydd.errors import ConfigError, PlaceError
from raydd.settings import with_settings

MACHINE_SECONDS = 1800.0  # within which a cluster must start its first machine with a GPU
BUSY_SECONDS = 20.0  # within which a machine whose GPUs are all free reports them
ANSWER_SECONDS = 60.0  # within which the others do; a machine whose GPUs are all in use does not answer


@dataclass(frozen=True)
class Cards:
    """The GPUs of one machine."""

    host: str
    names: tuple[str, ...]
    bytes: tuple[int, ...]
    """Memory of each GPU."""
    fault: str = ""
    """Why torch cannot use the GPUs; empty if it can."""


_NONE = "A GPU is asked for (sweep.gpus, --gpus), but Ray sees none"
_LOST = (NodeDiedError, WorkerCrashedError, ObjectLostError)  # errors of a task whose machine was lost
_AGAIN_SECONDS = 1.0  # between losing one machine and asking for the next
_LOOK_SECONDS = 10.0  # between two looks whether a machine with a GPU may still come
_RAY_PARTS = 10_000  # Ray rounds shares of a GPU to this many parts
_SMALLEST_PART = 1 / _RAY_PARTS
_cards_by_node: dict[str, Cards] = {}  # by Ray's id of the machine; a machine's GPUs do not change
_holders: dict[str, Any] = {}  # by Ray's id of the machine: the actor that holds its GPUs


def gpus_now() -> float:
    """Return how many GPUs the cluster has."""
    return ray.cluster_resources().get("GPU", 0.0)


def gpus_to_come() -> float:
    """Return how many GPUs the cluster has, or may have once it has grown."""
    return max(gpus_now(), growth().gpus)


def gpu_may_come() -> bool:
    """Whether the cluster has a GPU, or may start a machine with one."""
    return bool(gpus_to_come()) or growth().unknown


def wanted_gpus(config: Config, address: str) -> float:
    """Return `sweep.gpus` as a number. If it is auto: -1 (a share by memory) if there is a usable GPU, otherwise 0.

    Args:
        config: as the user gave it.
        address: address of the Ray cluster. For `local`, torch is asked and not Ray; otherwise, the cluster that this
            process is connected to.

    Raises:
        ConfigError: GPUs are asked for, but `place.device` is the CPU; or auto, and Ray cannot tell if a GPU may come.
    """
    require_one_device(config)
    if config.sweep.gpus != "auto":
        return config.sweep.gpus
    if config.place.device == "cpu":
        return 0.0
    if address == "local":
        return -1.0 if sees_gpu() else 0.0
    if not gpus_to_come() and gpu_may_come():
        raise ConfigError(
            "sweep.gpus (or --gpus) is auto, but Ray sees no GPU yet, and does not say whether the machines that may "
            "still come have one. Set it to -1 (--gpus: 1) if they have, to 0 if not."
        )
    return -1.0 if gpus_to_come() else 0.0


@contextlib.contextmanager
def share_of_worker(config: Config, requested: float | Literal["auto"], workers: int, address: str) -> Iterator[float]:
    """Yield the GPUs of each worker: as requested, or for auto an equal share of the cluster's GPUs.

    Inside the block, workers get no GPUs that torch cannot use, see `faulty_held`.

    Args:
        config: settings of the work; with `place.device` cpu, auto means none.
        requested: GPUs of each worker, or auto.
        workers: number of workers.
        address: address of the Ray cluster, as in `wanted_gpus`.

    Raises:
        ConfigError: GPUs are asked for, but the cluster has none that torch can use.
    """
    if requested != "auto":
        share = requested
    elif gpu_count := int(wanted_gpus(with_settings(config, {"sweep.gpus": "auto"}), address) and gpus_to_come()):
        share = part_of_gpu(math.ceil(workers / gpu_count))
    else:
        share = 0.0
    if share:
        usable_cards()
    with faulty_held():
        yield share


def cores_beside(share: float) -> int:
    """Return the CPU cores for each worker that has this share of a GPU.

    A machine's cores, except one, are divided among its GPUs. If machines differ, the smallest result is used, since
    Ray asks all machines for the same number.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0.0) >= 1]
    cores_per_worker = [int((machine.get("CPU", 0.0) - 1) * share / machine["GPU"]) for machine in machines if share]
    return max(1, min(cores_per_worker, default=1))


def part_of_gpu(count: int) -> float:
    """Return the share of a GPU with which Ray fits `count` workers on it."""
    return math.floor(_RAY_PARTS / count) / _RAY_PARTS


def usable_cards() -> list[Cards]:
    """Return the GPUs of each machine that answers and whose GPUs torch can use.

    A cluster without a GPU gets `MACHINE_SECONDS` to start a machine with one, if it may start one. The request makes
    it start one.

    Raises:
        ConfigError: no machine with a GPU started, or torch cannot use the GPUs of any machine.
    """
    deadline = time.monotonic() + MACHINE_SECONDS
    while True:
        if not _gpu_nodes():
            _await_gpu_machine(deadline)
        nodes = _gpu_nodes()
        machines, machine_lost = _query_cards(nodes)
        if usable := [machine for machine in machines if not machine.fault]:
            return usable
        if machines or (nodes and not machine_lost) or time.monotonic() > deadline:
            raise ConfigError(
                next(
                    (machine.fault for machine in machines),
                    f"{_NONE} that answers. Other work may hold them all: `ray status` shows it. Wait for that work, "
                    "or set it to auto or 0.",
                )
            )
        time.sleep(_AGAIN_SECONDS)


def _await_gpu_machine(deadline: float) -> None:
    """Ask for a machine with a GPU until one has answered. If it is lost while it answers, ask again.

    Raises:
        ConfigError: none may come, or none has answered before the deadline.
    """
    failures, task = LaunchFailures(), None
    while gpu_may_come():
        task = task or _look_task(1).remote(1)
        try:
            ray.get(task, timeout=max(0.0, min(_LOOK_SECONDS, deadline - time.monotonic())))
            return
        except GetTimeoutError as error:
            if time.monotonic() < deadline:
                continue
            ray.cancel(task)
            if reason := failures.look():
                raise ConfigError(
                    f"{_NONE}, and no machine with one came, since Ray's autoscaler met this: {reason} "
                    "Fix the cause (cluster/README.md names the usual ones), and give the same command again."
                ) from error
            raise ConfigError(
                f"{_NONE}, and no machine with one came within {MACHINE_SECONDS:.0f} s. Set it to auto or 0, or find "
                "out why none starts: run `ray status` on the head."
            ) from error
        except _LOST:
            task = None
            time.sleep(_AGAIN_SECONDS)
        except RayError:  # a machine is there; it is asked again, by its name
            return
    raise ConfigError(f"{_NONE}, and it can start no machine with one. Set it to auto or 0.")


def faults() -> list[str]:
    """Return why torch cannot use the GPUs of the machines that `usable_cards` left out."""
    return [machine.fault for machine in _cards_by_node.values() if machine.fault]


class _Holder:
    """An actor that holds GPUs and does nothing."""


def held() -> frozenset[str]:
    """Return Ray's ids of the machines whose GPUs are reserved now, so that trials do not get them."""
    return frozenset(_holders)


def hold(machines: Collection[Cards]) -> None:
    """Reserve the GPUs of these machines, so that trials do not get them, until the block of `faulty_held` ends."""
    for node, count in _gpu_nodes().items():
        if node not in _holders and _cards_by_node.get(node) in machines:
            strategy: Any = NodeAffinitySchedulingStrategy(node, soft=False)
            holder_class: Any = ray.remote(num_cpus=0, num_gpus=count, scheduling_strategy=strategy)(_Holder)
            _holders[node] = holder_class.remote()


@contextlib.contextmanager
def faulty_held() -> Iterator[None]:
    """Reserve the GPUs of machines that `usable_cards` left out inside the block."""
    before = held()
    hold([machine for machine in _cards_by_node.values() if machine.fault])
    try:
        yield
    finally:
        for node in held() - before:
            ray.kill(_holders.pop(node))


def _gpu_nodes() -> dict[str, int]:
    """Return how many GPUs each machine has, by Ray's id of the machine."""
    gpu_counts = {node["NodeID"]: node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]}
    return {node_id: int(count) for node_id, count in gpu_counts.items() if count >= 1}


def _query_cards(nodes: dict[str, int]) -> tuple[list[Cards], bool]:
    """Return the GPUs of the machines that answer, and whether a machine was lost while it answered.

    A machine on which other work holds a GPU cannot answer for all its GPUs at once, so it answers for one of them.
    """
    tasks = {
        _look_task(count, node_id=node_id).remote(count): node_id
        for node_id, count in nodes.items()
        if node_id not in _cards_by_node or (FULL in _cards_by_node[node_id].fault and node_id not in _holders)
    }
    ready: list[Any] = []
    if tasks:
        ready, busy = ray.wait(list(tasks), num_returns=len(tasks), timeout=BUSY_SECONDS)
        _cancel(busy)
        parts = {_look_task(_SMALLEST_PART, node_id=tasks[task]).remote(1): tasks[task] for task in busy}
        tasks |= parts
        if parts:
            answered, pending = ray.wait(list(parts), num_returns=len(parts), timeout=ANSWER_SECONDS)
            # If others use all GPUs, wait for the first that is free.
            if not (ready or answered or _cards_by_node.keys() & nodes.keys()):
                answered, pending = ray.wait(pending, timeout=MACHINE_SECONDS)
            _cancel(pending)
            ready += answered
    machine_lost = False
    hosts = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()}
    for task in ready:
        node = tasks[task]
        try:
            _cards_by_node[node] = ray.get(task)
        except _LOST:
            machine_lost = True
        except RayError as error:  # such as a machine without raydd
            host = hosts.get(node, node)
            fault = f"{host} cannot say which GPUs it has: {reason_of(error)}"
            _cards_by_node[node] = Cards(host, (), (), fault)
    return [_cards_by_node[node_id] for node_id in nodes if node_id in _cards_by_node], machine_lost


def _cancel(tasks: Sequence[Any]) -> None:
    for task in tasks:
        ray.cancel(task)


def _look_task(gpus: float, node_id: str = "") -> Any:
    strategy: Any = NodeAffinitySchedulingStrategy(node_id, soft=False) if node_id else "DEFAULT"
    return ray.remote(num_cpus=0, num_gpus=gpus, scheduling_strategy=strategy, max_retries=0)(look)


def look(count: int) -> Cards:
    """Return the GPUs that Ray gave to this process. Runs in a Ray worker."""
    import torch

    host = socket.gethostname()
    try:
        devices = [device_of(PlaceConfig(device=f"cuda:{number}")) for number in range(count)]
    except (ConfigError, PlaceError) as error:
        return Cards(host, (), (), str(error))
    cards = [torch.cuda.get_device_properties(device) for device in devices]
    return Cards(host, tuple(card.name for card in cards), tuple(card.total_memory for card in cards))
