"""Coordinates which process makes which shared record, so that no trial computes what another one already computes.

One Ray actor grants claims. The process that claims a record makes it, and the others wait.

Claims only save time and are not needed for correctness: records are written whole, so if a claim is granted twice, the
record is merely made twice. If a holder falls silent (it was killed, or its node was lost), the next process that asks
gets its claims.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import ray

from raydd.cluster.graceful_exit import stop_requested
from raydd.progress import Leave

NAMESPACE = "raydd"
BEAT_SECONDS = 2.0
WAIT_SECONDS = 1.0  # between two checks of what others are making
PATIENCE_SECONDS = 30.0  # a holder that was silent for this long is considered dead


class Claims:
    """The ledger of claims. Times are in seconds."""

    def __init__(self, patience: float = PATIENCE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without claims.

        Args:
            patience: how long a holder may be silent.
            clock: returns the time, by which silence is measured.
        """
        self._patience, self._clock = patience, clock
        self._holders: dict[str, str] = {}
        self._beats: dict[str, tuple[float, str]] = {}

    def take(self, key: str, holder: str) -> bool:
        """Claim a key. Return False while another live holder has it."""
        self.beat(holder)
        owner = self._holders.get(key, holder)
        if owner != holder and self._is_alive(owner):
            return False
        self._holders[key] = holder
        return True

    def give(self, key: str, holder: str) -> None:
        """Give a claim back, if the holder still has it."""
        if self._holders.get(key) == holder:
            del self._holders[key]

    def beat(self, holder: str, doing: str = "") -> None:
        """Record a sign of life, with a text on what the holder is doing."""
        self._beats[holder] = (self._clock(), doing or self._beats.get(holder, (0.0, ""))[1])

    def leave(self, holder: str) -> None:
        """Forget a holder and give all its claims back."""
        self._beats.pop(holder, None)
        self._holders = {key: owner for key, owner in self._holders.items() if owner != holder}

    def doing(self, job: str) -> dict[str, str]:
        """Return what each live holder of a job last said it is doing, by the holder's name within the job."""
        descriptions = {holder: doing for holder, (_, doing) in self._beats.items() if holder.startswith(f"{job}: ")}
        return {
            holder.removeprefix(f"{job}: "): doing for holder, doing in descriptions.items() if self._is_alive(holder)
        }

    def _is_alive(self, holder: str) -> bool:
        last_beat = self._beats.get(holder)
        return last_beat is not None and self._clock() - last_beat[0] <= self._patience


class Claimant:
    """One holder's side of the ledger. It sends signs of life in the background as long as the process lives."""

    def __init__(self, ledger: Any, holder: str, beat_seconds: float = BEAT_SECONDS) -> None:
        """Join a ledger.

        Args:
            ledger: handle of the actor, see `open_claims`.
            holder: a unique name for this holder.
            beat_seconds: pause between two signs of life.
        """
        self._ledger, self._holder, self._pause = ledger, holder, beat_seconds
        self._doing = ""
        self._exited = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claims", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._exited.set()
        self._thread.join()
        _await_answer(self._ledger.leave.remote(self._holder))

    def progress(self, work: str, done: int, total: int) -> None:
        """Report progress, as a `raydd.progress.Progress`. It is sent with the next sign of life.

        Raises:
            Leave: the process was asked to end.
        """
        self._doing = f"{work} {done}/{total}"
        if stop_requested():
            raise Leave

    @contextlib.contextmanager
    def holding(self, key: str) -> Iterator[bool]:
        """Hold a claim inside the block; yield whether it was granted."""
        granted = bool(_await_answer(self._ledger.take.remote(key, self._holder)))
        try:
            yield granted
        finally:
            if granted:
                _await_answer(self._ledger.give.remote(key, self._holder))

    @contextlib.contextmanager
    def waiting_for(self, key: str, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
        """Hold a claim inside the block, after waiting until its present holder gives it back."""
        while True:
            with self.holding(key) as granted:
                if granted:
                    yield
                    return
            wait_for_others(wait_seconds)

    def _beat(self) -> None:
        while not self._exited.is_set():
            self._ledger.beat.remote(self._holder, self._doing)
            self._exited.wait(self._pause)


def wait_for_others(seconds: float = WAIT_SECONDS) -> None:
    """Wait while others make a record.

    Raises:
        Leave: the process was asked to end.
    """
    if stop_requested():
        raise Leave
    time.sleep(seconds)


def _await_answer(reference: ray.ObjectRef) -> Any:
    """Return the ledger's answer. Does not use `ray.get`, in which Ray gives a waiting task's CPUs to another task."""
    return reference.future().result()


def open_claims(store_root: str) -> Any:
    """Return the actor that keeps the claims on one store's records; start it if it does not run.

    The actor outlives the sweep that started it, since other sweeps on the cluster may use it too.
    """
    name = f"claims-{hashlib.sha256(store_root.encode()).hexdigest()[:16]}"
    actor_class = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)(Claims)
    return actor_class.options(name=name, namespace=NAMESPACE, get_if_exists=True, lifetime="detached").remote()
