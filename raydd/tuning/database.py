"""The study's database, asked again while it is away: restarted, failed over, or cut off by the network."""

import contextlib
import functools
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import tenacity
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError, PendingRollbackError

from raydd.errors import PlaceError
from raydd.place import sqlite_file, unopened_study
from raydd.secrets_hidden import hidden

PATIENCE_SECONDS = 300.0  # how long a call is repeated before the database is given up; a failover takes one or two
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds; each pause is random, up to twice the one before
_BUSY_SECONDS = 60  # to wait while another sweep writes into the same SQLite file
# File systems whose locks and shared memory SQLite's write-ahead log may rely on. Over a network it may not.
_LOCAL = ("apfs", "btrfs", "ext3", "ext4", "f2fs", "ntfs", "overlay", "tmpfs", "xfs", "zfs")
_LIBPQ = ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


def passes(error: BaseException | None) -> bool:
    """Whether the database was away or locked, which a later attempt may not meet."""
    if isinstance(error, StorageInternalError):  # in which Optuna wraps what SQLAlchemy raises
        error = error.__cause__
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    # Optuna asks again by a shorter query where reading trials fails, in the transaction that died with its connection.
    lost = lost or isinstance(error, PendingRollbackError)
    # SQLite calls a table that is missing operational too, which no patience brings.
    return lost or (isinstance(error, OperationalError | InterfaceError) and "no such " not in str(error))


def patiently(call: Callable[..., Answer], *args: Any, **kwargs: Any) -> Answer:
    """Repeat a call while the database is away: random pauses that double, for `PATIENCE_SECONDS` in all.

    Raises:
        PlaceError: it was away for longer.
    """
    repeated = tenacity.Retrying(
        retry=tenacity.retry_if_exception(passes),
        wait=tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE),
        stop=tenacity.stop_after_delay(PATIENCE_SECONDS),
        before_sleep=_say,
        reraise=True,
    )
    try:
        return repeated(call, *args, **kwargs)
    except Exception as error:
        if not passes(error):
            raise
        raise PlaceError(
            f"The study's database has not answered for {PATIENCE_SECONDS / 60:.0f} minutes. What is finished is kept: "
            "start the database, and give the same command again."
        ) from error


class PatientStorage(RDBStorage):
    """Optuna's storage in a database, each of whose calls is repeated while the database is away.

    A call whose answer was lost with the connection may have been heard. Setting a value twice does no harm, the end
    of a trial is known again below, and a trial that was created twice is an orphan, which the next command puts right.
    """

    def set_trial_state_values(self, trial_id: int, state: Any, values: Any = None) -> bool:
        """As Optuna's; a trial that has just this end is not ended again."""
        try:
            return _again(RDBStorage.set_trial_state_values)(self, trial_id, state, values)
        except UpdateFinishedTrialError:
            ended = self.get_trial(trial_id)
            if ended.state != state or (values is not None and ended.values != list(values)):
                raise
            return True


def _again(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def repeated(self: RDBStorage, *args: Any, **kwargs: Any) -> Any:
        return patiently(method, self, *args, **kwargs)

    return repeated


# What Optuna calls of a storage, from outside and, in its cache before the database, by private names.
_CALLS = (
    *(name for name in vars(RDBStorage) if name.startswith(("get_", "set_")) and name != "set_trial_state_values"),
    "create_new_study",
    "_create_new_trial",
    "_set_trial_param",
    "_get_trials",
    "_get_best_trial_id",
)
for _name in _CALLS:
    setattr(PatientStorage, _name, _again(getattr(RDBStorage, _name)))


def open_storage(address: str) -> RDBStorage:
    """The database at an address, its tables made if it is new.

    Raises:
        ConfigError: it cannot be opened.
    """
    options: dict[str, Any] = {"pool_pre_ping": True}  # a connection that the server closed meanwhile is replaced
    scheme, file = address.partition("://")[0], sqlite_file(address)
    if scheme == "sqlite":
        options = {"connect_args": {"timeout": _BUSY_SECONDS}}
        if file and is_on_local_disk(file):
            options["connect_args"]["factory"] = _WriteAhead
    elif scheme in _LIBPQ:
        options["connect_args"] = {"connect_timeout": 10, "tcp_user_timeout": 30_000}  # a network that swallows all
    # Processes that make the tables of a new database at once break each other's making, not the tables.
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(DatabaseError),
        wait=tenacity.wait_random(0.2, 1.0),
        stop=tenacity.stop_after_attempt(4),
        reraise=True,
    )
    try:
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
        return attempts(lambda: PatientStorage(address, engine_kwargs=options))
    except Exception as error:  # SQLAlchemy and each driver have their own error types, and an address can name any
        raise unopened_study(address, error) from error


class _WriteAhead(sqlite3.Connection):
    """A connection that appends what it writes to a log beside the database, and waits for no disk.

    Drawing a trial of thirty settings is thirty transactions: 0.08 s so, and 0.4 s where each waits for the disk. A
    process that is killed loses nothing; a machine that loses its power may lose the last transactions, and no more.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What may not write, or finds the file in use by a process of the old kind, goes on in the file's own mode.
        with contextlib.suppress(sqlite3.OperationalError):
            self.execute("PRAGMA busy_timeout=0")
            self.execute("PRAGMA journal_mode=WAL")
            self.execute("PRAGMA synchronous=NORMAL")
        self.execute(f"PRAGMA busy_timeout={1000 * _BUSY_SECONDS}")


def is_on_local_disk(path: Path) -> bool:
    """Whether a file, which need not exist, lies on a disk of this machine; not if its file system is not known."""
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    return next((mounts[folder] for folder in path.resolve().parents if folder in mounts), "") in _LOCAL


def _say(state: tenacity.RetryCallState) -> None:
    if state.attempt_number == 3:  # the first repetitions are nothing to speak of
        error = state.outcome.exception() if state.outcome else None
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        said = hidden(str(cause)).strip().splitlines()
        log.warning("The study's database does not answer (%s); trying again.", said[0][-200:] if said else error)
