"""Who makes which shared record: one Ray actor that grants claims, so that no trial computes what another one does.

Whoever claims a record makes it, the others wait.

A claim is only a courtesy: a record is written by whoever finishes it, whole, so a claim granted twice costs time and
nothing else. A holder that falls silent (killed, its node lost) loses its claims to whoever asks next.
"""

import contextlib
import functools
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import ray

from raydd.cluster.graceful_exit import told_to_leave
from raydd.config import Config, SweepConfig
from raydd.distill.trajectories import Trajectories
from raydd.place import open_store, use_threads
from raydd.progress import Leave
from raydd.protocols import Listings, Opened, Workbench, open_workbench
from raydd.store import fingerprint

NAMESPACE = "raydd"
BEAT_SECONDS = 2.0
WAIT_SECONDS = 1.0  # between two looks at what others are making
PATIENCE_SECONDS = 30.0  # a holder silent for so long is taken for dead


class Claims:
    """The ledger of claims. Times are in seconds."""

    def __init__(self, patience: float = PATIENCE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with no claim.

        Args:
            patience: how long a holder may be silent.
            clock: what silence is measured by.
        """
        self._patience, self._clock = patience, clock
        self._holders: dict[str, str] = {}
        self._beats: dict[str, tuple[float, str]] = {}

    def take(self, key: str, holder: str) -> bool:
        """Claim a key; False while another living holder has it."""
        self.beat(holder)
        owner = self._holders.get(key, holder)
        if owner != holder and self._lives(owner):
            return False
        self._holders[key] = holder
        return True

    def give(self, key: str, holder: str) -> None:
        """Give a claim back, if it still is the holder's."""
        if self._holders.get(key) == holder:
            del self._holders[key]

    def beat(self, holder: str, doing: str = "") -> None:
        """Sign of life, with a word on what the holder is doing."""
        self._beats[holder] = (self._clock(), doing or self._beats.get(holder, (0.0, ""))[1])

    def leave(self, holder: str) -> None:
        """Forget a holder and give all its claims back."""
        self._beats.pop(holder, None)
        self._holders = {key: owner for key, owner in self._holders.items() if owner != holder}

    def doing(self, job: str) -> dict[str, str]:
        """What each living holder of a job last said it is doing, by its name within the job."""
        mine = {holder: doing for holder, (_, doing) in self._beats.items() if holder.startswith(f"{job}: ")}
        return {holder.removeprefix(f"{job}: "): doing for holder, doing in mine.items() if self._lives(holder)}

    def _lives(self, holder: str) -> bool:
        last = self._beats.get(holder)
        return last is not None and self._clock() - last[0] <= self._patience


class Claimant:
    """One holder's side of the ledger, which beats in the background as long as the process lives."""

    def __init__(self, ledger: Any, holder: str, beat_seconds: float = BEAT_SECONDS) -> None:
        """Join a ledger.

        Args:
            ledger: the handle of the actor, see `open_claims`.
            holder: a name of one's own.
            beat_seconds: pause between two signs of life.
        """
        self._ledger, self._holder, self._pause = ledger, holder, beat_seconds
        self._doing = ""
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claims", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        _answer(self._ledger.leave.remote(self._holder))

    def progress(self, work: str, done: int, total: int) -> None:
        """Say what is being done; a `raydd.progress.Progress`, sent along with the next sign of life.

        Raises:
            Leave: the process is told to end.
        """
        self._doing = f"{work} {done}/{total}"
        if told_to_leave():
            raise Leave

    @contextlib.contextmanager
    def holding(self, key: str) -> Iterator[bool]:
        """Hold a claim for the length of the block; yields whether it was granted."""
        granted = bool(_answer(self._ledger.take.remote(key, self._holder)))
        try:
            yield granted
        finally:
            if granted:
                _answer(self._ledger.give.remote(key, self._holder))

    @contextlib.contextmanager
    def waiting_for(self, key: str, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
        """Hold a claim for the length of the block, waiting until whoever has it gives it back."""
        while True:
            with self.holding(key) as granted:
                if granted:
                    yield
                    return
            _wait(wait_seconds)

    def _beat(self) -> None:
        while not self._left.is_set():
            self._ledger.beat.remote(self._holder, self._doing)
            self._left.wait(self._pause)


def _wait(seconds: float) -> None:
    """Wait for what others are making.

    Raises:
        Leave: the process is told to end.
    """
    if told_to_leave():
        raise Leave
    time.sleep(seconds)


def _answer(reference: ray.ObjectRef) -> Any:
    """What the ledger answers. Not by `ray.get`: while a task waits there, Ray gives its CPUs to another one."""
    return reference.future().result()


def open_claims(store_root: str) -> Any:
    """The actor that keeps the claims on one store's records, started if it is not there.

    It outlives the sweep that started it, since another sweep of the cluster may rely on it.
    """
    name = f"claims-{hashlib.sha256(store_root.encode()).hexdigest()[:16]}"
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)(Claims)
    return actor.options(name=name, namespace=NAMESPACE, get_if_exists=True, lifetime="detached").remote()


def job_of(sweep: SweepConfig) -> str:
    """What a sweep's holders have before their names: others of the same store have a trial 3 too."""
    return f"sweep {sweep.name}"


@contextlib.contextmanager
def shared_work(config: Config, who: str, listings: Listings, claims: Any) -> Iterator[Workbench[Any]]:
    """The workbench of a Ray worker, with features in the store, and experts there when a distillation step needs them.

    So a trial that is stopped early has waited for few experts.

    Args:
        config: all settings, places spelt out.
        who: what it is for, in words for the terminal.
        listings: the data sets that the driver has read, so that no worker asks a reader.
        claims: handle of `Claims`' actor.
    """
    with joined_work(config, who, listings, claims) as (work, claimant):
        share_features(work, claimant)
        yield work


@contextlib.contextmanager
def joined_work(config: Config, who: str, listings: Listings, claims: Any) -> Iterator[tuple[Workbench[Any], Claimant]]:
    """The workbench of a Ray worker, before anything is made for it, and the worker's side of the ledger.

    Experts of it, and of what it is changed to, are there when a distillation step needs them.

    Args:
        config: as of `shared_work`, and so are the others.
    """
    use_threads(config.place)
    with Claimant(claims, f"{job_of(config.sweep)}: {who}") as claimant:
        work = open_workbench(config, open_store(config.place), claimant.progress, Opened(listings))
        work.opened.fetch = functools.partial(_fetch, claimant)
        yield work, claimant


def share_making(work: Workbench[Any], claimant: Claimant) -> None:
    """Have what a distillation reads in the store, made together with everybody who needs the same."""
    share_features(work, claimant)
    experts = work.open_experts()
    _share_experts(work, claimant, experts, range(experts.count))


def share_features(work: Workbench[Any], claimant: Claimant) -> None:
    """Have the features in the store, made once for everybody who needs the same."""
    config = work.config
    sections = {"data": config.data, "encoders": config.encoders, "features": config.features}
    with claimant.waiting_for(f"features {fingerprint('features', 1, sections, {})}"):
        work.prepare()


def _fetch(claimant: Claimant, work: Workbench[Any], experts: Trajectories[Any], expert: int) -> None:
    # While another worker trains it, one before it, which is needed as well, sooner or later.
    _share_experts(work, claimant, experts, [expert], range(expert))


def _share_experts(
    work: Workbench[Any],
    claimant: Claimant,
    experts: Trajectories[Any],
    needed: Sequence[int],
    others: Sequence[int] = (),
) -> None:
    """Have the needed experts in the store, each trained by whoever claims it; `others` if all are claimed."""
    epochs = work.config.distill.expert_epochs
    while any(not experts.has_all(expert, epochs) for expert in needed):
        missing = [expert for expert in (*needed, *others) if not experts.has_all(expert, epochs)]
        if not any(_trained(work, experts, claimant, expert) for expert in missing):
            _wait(WAIT_SECONDS)


def _trained(work: Workbench[Any], experts: Trajectories[Any], claimant: Claimant, expert: int) -> bool:
    with claimant.holding(f"experts {experts.record.fingerprint} {expert}") as granted:
        if granted:
            work.train_experts(experts, [expert], work.config.distill.expert_epochs)
    return granted
