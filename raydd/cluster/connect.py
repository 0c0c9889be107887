"""Connects to a Ray cluster: a local one that runs as long as the sweep, or one that is already running."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import AuthenticationError, RayError

from raydd.cluster.growth import growth
from raydd.cluster.launch_failures import LaunchFailures, report_launch_failures
from raydd.cluster.watched import ray_is_watched
from raydd.errors import ConfigError, PlaceError, RayddError
from raydd.plain_files import private_folder
from raydd.secrets_hidden import hidden

Item = TypeVar("Item")
log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 128 * 2**20  # small, since trials share data through files of the store, mapped into memory
_SESSIONS = "s"  # folder inside the private folder; a short name, because of the limit below
_interrupted = threading.Event()
_LONGEST_FOLDER = 40  # characters; Ray puts sockets below the folder, whose paths may have at most 107


@contextlib.contextmanager
def cluster(address: str, home: Path, say: Callable[[str], None] = log.warning) -> Iterator[None]:
    """Connect to Ray inside the block. An existing connection is used and stays open.

    Args:
        address: `local` starts a cluster on this machine's loopback; any other value is the address of a cluster.
        home: where a local cluster keeps its logs.
        say: called with a message when the cluster's autoscaler cannot start a machine, from another thread.

    Raises:
        ConfigError: there is no cluster at the address, or it refuses this process: another version, a wrong token.
        PlaceError: a local cluster does not start.
    """
    if ray.is_initialized():
        yield
        return
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the live table shows why a trial failed
    folder = _session_folder(home) if address == "local" else None
    if folder:
        try:
            with _without_log_level_message():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=str(folder),
                )
        except Exception as error:  # Ray raises a plain Exception if its processes take more than 30 seconds to start
            raise PlaceError(
                f"Ray does not start on this machine ({' '.join(str(error).split())[:200]}). "
                f"Give the same command again when the machine is less busy; Ray's logs are in {folder}."
            ) from error
    else:
        try:
            with _without_log_level_message():
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except (ConnectionError, RuntimeError, RayError) as error:
            raise _not_joined(address, error) from error
    in_main_thread = threading.current_thread() is threading.main_thread()
    watch = ray_is_watched(folder) if folder and in_main_thread else contextlib.nullcontext()
    failures = contextlib.nullcontext() if folder else report_launch_failures(LaunchFailures(), say)
    with _terminated_as_interrupted():
        try:
            with watch, failures:
                yield
        finally:
            ray.shutdown()


def _not_joined(address: str, error: Exception) -> ConfigError:
    """Return the error for a cluster that cannot be joined."""
    if isinstance(error, AuthenticationError):  # its text has several sentences on Ray's own commands
        return ConfigError(
            f"The Ray cluster at place.ray {address!r} refuses this process ({hidden(error.message).rstrip('.')}). "
            "Set $RAY_AUTH_MODE to token, and $RAY_AUTH_TOKEN to the cluster's token."
        )
    text = hidden(" ".join(str(error).split()))[:300].rstrip(".")
    if isinstance(error, ConnectionError):
        return ConfigError(
            f"There is no Ray cluster at place.ray {address!r} ({text}). "
            "Start one (`ray start --head`), or set place.ray to local."
        )
    return ConfigError(
        f"The Ray cluster at place.ray {address!r} cannot be joined ({text}). Use the cluster's versions of Ray and "
        "Python here, or run the command on the cluster's head with `ray submit`."
    )


@contextlib.contextmanager
def _without_log_level_message() -> Iterator[None]:
    """Hide the message of Ray's C++ code about its log level. All other output is printed at the end of the block."""
    try:
        stderr_fd = sys.__stderr__.fileno() if sys.__stderr__ else None
    except (OSError, ValueError):  # stderr is closed, or not a file, as in a notebook
        stderr_fd = None
    if stderr_fd is None:
        yield
        return
    with tempfile.TemporaryFile() as captured:
        saved_fd = os.dup(stderr_fd)
        os.dup2(captured.fileno(), stderr_fd)
        try:
            yield
        finally:
            os.dup2(saved_fd, stderr_fd)
            os.close(saved_fd)
            captured.seek(0)
            for line in captured:
                if b"Set ray log level from environment variable" not in line:
                    os.write(stderr_fd, line)


def _session_folder(home: Path) -> Path:
    """Return the folder for Ray's logs and sockets: in the home, or if that path is too long, in the temporary folder.

    Ray makes its folder readable for every user of the machine, and its logs contain the output of trials. So Ray's
    folder is put inside a folder that only its owner may enter.
    """
    folder = home / "ray"
    if len(str(folder / _SESSIONS)) > _LONGEST_FOLDER:
        folder = Path(tempfile.gettempdir()) / f"raydd-ray-{os.getuid()}"
    try:
        return private_folder(private_folder(folder) / _SESSIONS)
    except PermissionError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}. Set place.home to a shorter path, which is then used instead."
        ) from error


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, which a scheduler or a cloud sends before it takes the machine, end the block as Ctrl-C does.

    Python drops an exception that a signal handler raises inside a callback of the garbage collector. So both signals
    are also noted, and `heed_interrupt` raises the exception that was dropped. If several SIGTERM arrive, only the
    first counts, since the next one would interrupt the shutdown. Several arrive, for example, if a whole process group
    is signalled and the parent signals its children too.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def interrupt(number: int, _: object) -> None:
        if number == signal.SIGTERM and _interrupted.is_set():
            return
        _interrupted.set()
        raise KeyboardInterrupt

    old_handlers = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # SIGINT is not ignored or handled otherwise
        old_handlers[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        _interrupted.clear()


def heed_interrupt() -> None:
    """Raise an interrupt that Python dropped. To be called now and then while a cluster works.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM came, and Python dropped its exception.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


def forget_interrupt() -> None:
    """Clear the noted interrupt. To be called after handling a KeyboardInterrupt, so that it is not raised again."""
    _interrupted.clear()


def require_room(cpus: float, gpus: float, held: Collection[str] = ()) -> None:
    """Refuse trials of a size for which no machine has room, neither one that runs nor one that may still start.

    Args:
        cpus: CPU cores of a trial.
        gpus: GPUs of a trial, or a share of one.
        held: machines whose GPUs no trial gets, see `raydd.cluster.gpus.held`.

    Raises:
        ConfigError: not even one trial fits.
    """
    if slots_to_come(cpus, gpus, held):
        return
    resources = ray.cluster_resources()
    raise ConfigError(
        f"A trial asks for {cpus:g} CPUs and {gpus:g} GPUs, but Ray has {resources.get('CPU', 0):g} CPUs and "
        f"{resources.get('GPU', 0):g} GPUs{_largest_machine()}. Lower sweep.cpus or sweep.gpus."
    )


def slots_to_come(cpus: float, gpus: float, held: Collection[str] = ()) -> int:
    """Return how many trials of this size may fit on the cluster, including machines that it may still start.

    If it is unknown what may start, the answer is one more than fit now. Trials that wait for room are what makes a
    cluster start machines, so it then grows step by step.
    """
    limit = growth()
    room = sorted((_count_fitting(machine, cpus, gpus) for machine in limit.machines), reverse=True)
    most = max(0, limit.most - len(held)) if gpus else limit.most
    return max(slots_now(cpus, gpus, held) + limit.unknown, sum(room[:most]))


def slots_now(cpus: float, gpus: float, held: Collection[str] = ()) -> int:
    """Return how many trials of this size fit on the machines that are running now; may be 0."""
    nodes = [node for node in ray.nodes() if node["Alive"] and not (gpus and node.get("NodeID") in held)]
    return sum(_count_fitting(node["Resources"], cpus, gpus) for node in nodes)


def _count_fitting(resources: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Return how many trials of this size fit on a machine. A share of a GPU must lie on one GPU."""
    by_cpus = int(resources.get("CPU", 0.0) / cpus)
    if not gpus:
        return by_cpus
    gpu_count = resources.get("GPU", 0.0)
    return min(by_cpus, int(gpu_count) * int(1 / gpus) if gpus < 1 else int(gpu_count / gpus))


def _largest_machine() -> str:
    """Return in words what the largest of several machines has, which limits a trial; empty if there is only one."""
    machines = [*(node["Resources"] for node in ray.nodes() if node["Alive"]), *growth().machines]
    if len(machines) < 2:
        return ""
    cpus, gpus = (max(machine.get(kind, 0.0) for machine in machines) for kind in ("CPU", "GPU"))
    return f", {cpus:g} and {gpus:g} at most on one machine that runs or may start"


def share_of_node(cpus: float, count: int) -> float:
    """Return the CPU cores for each of `count` tasks: tasks divide a single machine; on a cluster each gets `cpus`."""
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    return max(cpus, nodes[0] // count) if len(nodes) == 1 else cpus


def outcomes(
    items_by_task: Mapping[ray.ObjectRef, Item], on_wait: Callable[[], None] = lambda: None
) -> Iterator[tuple[Item, Any, str]]:
    """Yield the outcomes of tasks that run side by side, in the order in which they end.

    Args:
        items_by_task: the item that each task is for; no task may return None.
        on_wait: called about once a second, and before each outcome is yielded.

    Yields:
        The item of the task, its result, and an empty reason; or the item, None, and the reason why the task failed.

    Raises:
        PlaceError: at the end, if a store or a database was unavailable for longer than a task waits for it.
    """
    pending, place_error = dict(items_by_task), ""
    while pending:
        ready, _ = ray.wait(list(pending), timeout=1.0)
        heed_interrupt()
        on_wait()
        for reference in ready:
            item = pending.pop(reference)
            try:
                result, reason = ray.get(reference), ""
            except RayError as error:  # the stage's own error comes wrapped in one of Ray's
                result, reason = None, reason_of(error)
                place_error = place_error or (reason if isinstance(cause_of(error), PlaceError) else "")
            yield item, result, reason
    if place_error:  # a result without the failed tasks would not be what the command asked for
        raise PlaceError(f"Not all was made: {place_error} Finished work is kept: give the same command again.")


def cause_of(error: Exception) -> Exception:
    """Return the error that a task raised, without the errors of Ray or Ray Train that wrap it."""
    return getattr(error, "cause", None) or getattr(error, "_base_exc", None) or error


def reason_of(error: Exception) -> str:
    """Return the type and the last line of the error that a task ended with, with secrets redacted."""
    cause = cause_of(error)
    return hidden(f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1] if str(cause).strip() else ''}")


def workers_error(error: Exception) -> RayddError:
    """Return the error for the user when a worker failed: the worker's own, if it is one of raydd's.

    Args:
        error: what the worker raised, or what Ray, Ray Data or Ray Train raised for it.
    """
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})  # of a WorkerGroupError
    failure = next(iter(failures.values()), getattr(error, "controller_failure", error))
    if isinstance(cause := cause_of(failure), RayddError):
        return cause
    return PlaceError(
        f"A worker failed: {reason_of(failure).rstrip('.')}. Finished work is kept: correct the cause and give the "
        "same command again; --debug shows the traceback."
    )
