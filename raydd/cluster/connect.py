"""Ray's cluster: one of this machine's own for the length of a sweep, or one that runs already."""

import contextlib
import logging
import os
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray._private.state import state as cluster_state
from ray.exceptions import RayError

from raydd.cluster.watched import ray_is_watched
from raydd.errors import ConfigError, PlaceError
from raydd.secrets_hidden import hidden

Item = TypeVar("Item")

OBJECT_STORE_BYTES = 128 * 2**20  # small: what trials share lies in the store's files, mapped into memory
_SESSIONS = "s"  # the folder in the closed one; short, for the limit below
GPUS_HELD = set[str]()  # Ray's ids of machines whose GPUs are no trial's, see `raydd.cluster.gpus.faulty_held`
_interrupted = threading.Event()
_LONGEST_FOLDER = 40  # characters; Ray puts sockets below it, whose paths end at 107


@contextlib.contextmanager
def cluster(address: str, home: Path) -> Iterator[None]:
    """Be connected to Ray inside the block; a connection that is there already is used and left as it is.

    Args:
        address: `local` starts a cluster on this machine's loopback, anything else joins the one it names.
        home: where a local cluster keeps its logs.

    Raises:
        ConfigError: there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the live table tells why a trial failed
    folder = _session_folder(home) if address == "local" else None
    if folder:
        try:
            with _without_chatter():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=str(folder),
                )
        except Exception as error:  # Ray raises a bare one where its processes take more than 30 seconds
            raise PlaceError(
                f"Ray does not start on this machine ({' '.join(str(error).split())[:200]}). "
                f"Give the same command again when less runs here; Ray's logs are in {folder}."
            ) from error
    else:
        try:
            with _without_chatter():
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except ConnectionError as error:
            raise ConfigError(
                f"There is no Ray cluster at place.ray {address!r} ({str(error).splitlines()[0]}) "
                "Start one (`ray start --head`), or set place.ray to local."
            ) from error
    in_main = threading.current_thread() is threading.main_thread()
    watch = ray_is_watched(folder) if folder and in_main else contextlib.nullcontext()
    with _terminated_as_interrupted():
        try:
            with watch:
                yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep what Ray's C++ says of its own log level off the terminal; all else that it writes comes at the end."""
    try:
        error = sys.__stderr__.fileno() if sys.__stderr__ else None
    except (OSError, ValueError):  # closed, or no file at all, as in a notebook
        error = None
    if error is None:
        yield
        return
    with tempfile.TemporaryFile() as said:
        before = os.dup(error)
        os.dup2(said.fileno(), error)
        try:
            yield
        finally:
            os.dup2(before, error)
            os.close(before)
            said.seek(0)
            for line in said:
                if b"Set ray log level from environment variable" not in line:
                    os.write(error, line)


def _session_folder(home: Path) -> Path:
    """Where Ray keeps its logs and sockets: in the home, or where that path is too long in the folder for such things.

    Ray opens the folder that it is given to every user of the machine, and the logs hold what the trials say: so it is
    given one inside a folder that only its owner may enter.
    """
    closed = home / "ray"
    if len(str(closed / _SESSIONS)) > _LONGEST_FOLDER:
        closed = Path(tempfile.gettempdir()) / f"raydd-ray-{os.getuid()}"
    for folder in (closed, closed / _SESSIONS):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
            raise ConfigError(
                f"{folder} belongs to somebody else. Set place.home to a shorter path, to be used instead."
            )
        folder.chmod(0o700)
    return closed / _SESSIONS


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, which a scheduler or a cloud sends before it takes the machine, end the block as Ctrl-C does.

    Python drops an exception that a signal raises inside a callback of its garbage collector, so both are noted too:
    `heed_interrupt` raises what was dropped. Of several SIGTERM, as where a whole process group is told and the parent
    tells its children too, the first alone counts: the next would break off the end that is under way.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def interrupt(number: int, _: object) -> None:
        if number == signal.SIGTERM and _interrupted.is_set():
            return
        _interrupted.set()
        raise KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, and nobody else's
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _interrupted.clear()


def heed_interrupt() -> None:
    """To be called now and then while a cluster works.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM came, and Python dropped it.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


def forget_interrupt() -> None:
    """To be called where a KeyboardInterrupt was caught and answered, so that none is raised for it once more."""
    _interrupted.clear()


def slots(cpus: float, gpus: float) -> int:
    """How many trials of this size the cluster's resources hold now.

    Raises:
        ConfigError: not even one.
    """
    held = ray.cluster_resources()
    if not (room := slots_now(cpus, gpus)):
        raise ConfigError(
            f"A trial asks for {cpus:g} CPUs and {gpus:g} GPUs, but Ray holds {held.get('CPU', 0):g} CPUs and "
            f"{held.get('GPU', 0):g} GPUs{_at_most()}. Lower sweep.cpus or sweep.gpus."
        )
    return room


def slots_to_come(cpus: float, gpus: float) -> int:
    """How many trials of this size the cluster may hold: on the machines that it has, or that it may start."""
    # What its autoscaler may grow to; None where there is none.
    most = cluster_state.get_max_resources_from_cluster_config() or {}
    return max(slots_now(cpus, gpus), _room(most, cpus, gpus))


def slots_now(cpus: float, gpus: float) -> int:
    """How many trials of this size the machines that are there hold; may be none."""
    nodes = [node for node in ray.nodes() if node["Alive"] and not (gpus and node.get("NodeID") in GPUS_HELD)]
    return sum(_room(node["Resources"], cpus, gpus) for node in nodes)


def _room(resources: Mapping[str, float], cpus: float, gpus: float) -> int:
    """How many trials of this size fit on a machine: a share of a GPU is part of one GPU."""
    of_cores = int(resources.get("CPU", 0.0) / cpus)
    if not gpus:
        return of_cores
    there = resources.get("GPU", 0.0)
    return min(of_cores, int(there) * int(1 / gpus) if gpus < 1 else int(there / gpus))


def _at_most() -> str:
    """What the largest of several machines holds, by which a trial is bounded; empty where there is one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return ""
    cpus, gpus = (max(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    return f", {cpus:g} and {gpus:g} at most on one machine"


def share_of_node(cpus: float, count: int) -> float:
    """CPU cores for each of `count` tasks: a single machine is shared out whole, elsewhere each has `cpus`."""
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    return max(cpus, nodes[0] // count) if len(nodes) == 1 else cpus


def outcomes(
    waiting: Mapping[ray.ObjectRef, Item], on_wait: Callable[[], None] = lambda: None
) -> Iterator[tuple[Item, Any, str]]:
    """What becomes of tasks that run side by side, in the order in which they end.

    Args:
        waiting: what each task is for; no task gives None.
        on_wait: called about once a second, and before what has ended is told.

    Yields:
        What the task is for, and its result, or None and the reason why it failed.

    Raises:
        PlaceError: at the end, if a store or a database was away for longer than a task waits for it.
    """
    left, away = dict(waiting), ""
    while left:
        ready, _ = ray.wait(list(left), timeout=1.0)
        heed_interrupt()
        on_wait()
        for reference in ready:
            item = left.pop(reference)
            try:
                result, reason = ray.get(reference), ""
            except RayError as error:  # the stage's own error comes wrapped in one of Ray's
                result, reason = None, reason_of(error)
                away = away or (reason if isinstance(cause_of(error), PlaceError) else "")
            yield item, result, reason
    if away:  # a result without these would not be that of the command
        raise PlaceError(f"Not all was made: {away} What is made is kept: give the same command again.")


def cause_of(error: Exception) -> Exception:
    """What a task raised, which Ray and Ray Train wrap in errors of their own; the error itself if it wraps none."""
    return getattr(error, "cause", None) or getattr(error, "_base_exc", None) or error


def reason_of(error: Exception) -> str:
    """The last line of the error that a task ended with."""
    cause = cause_of(error)
    return hidden(f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1] if str(cause).strip() else ''}")
