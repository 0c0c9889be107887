"""The study's database. Calls are repeated while it is unavailable: restarting, failing over, or cut off."""

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

from raydd.errors import ConfigError, PlaceError
from raydd.place import sqlite_file, unopened_study
from raydd.secrets_hidden import hidden

PATIENCE_SECONDS = 300.0  # for which a call is repeated before giving up; a failover takes one or two minutes
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds; each pause is random, with a limit that doubles each time
_BUSY_SECONDS = 60  # for which to wait while another sweep writes to the same SQLite file
# File systems on which SQLite's write-ahead log can rely on locks and shared memory. Network file systems are not safe.
_LOCAL = ("apfs", "btrfs", "ext3", "ext4", "f2fs", "ntfs", "overlay", "tmpfs", "xfs", "zfs")
_LIBPQ = ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")
_READ_ONLY = "readonly database"  # in SQLite's message to a user who may not write the file

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


def is_temporary(error: BaseException | None) -> bool:
    """Whether an error says that the database was unavailable or locked, so that a later attempt may succeed."""
    error = _cause(error)
    connection_lost = isinstance(error, DBAPIError) and error.connection_invalidated
    # If reading trials fails, Optuna retries with a shorter query in the same transaction, which the lost connection
    # has broken.
    connection_lost = connection_lost or isinstance(error, PendingRollbackError)
    # SQLite also reports a missing table, and a file that may not be written, as an operational error.
    useless = any(text in str(error) for text in ("no such ", _READ_ONLY))
    return connection_lost or (isinstance(error, OperationalError | InterfaceError) and not useless)


def _cause(error: BaseException | None) -> BaseException | None:
    """Return SQLAlchemy's error, which Optuna wraps in one of its own."""
    return error.__cause__ if isinstance(error, StorageInternalError) else error


def patiently(call: Callable[..., Answer], *args: Any, **kwargs: Any) -> Answer:
    """Call a function, and repeat the call while the database is unavailable, for up to `PATIENCE_SECONDS` in all.

    Pauses between calls are random, and their limit doubles.

    Raises:
        PlaceError: the database was unavailable for longer.
        ConfigError: this user may only read the database.
    """
    repeated = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_temporary),
        wait=tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE),
        stop=tenacity.stop_after_delay(PATIENCE_SECONDS),
        before_sleep=_log_retry,
        reraise=True,
    )
    try:
        return repeated(call, *args, **kwargs)
    except Exception as error:
        if _READ_ONLY in str(_cause(error)):
            raise ConfigError(
                "The study's database can only be read by this user. Ask its owner for the right to write its file and "
                "the file's folder, or set place.study."
            ) from error
        if not is_temporary(error):
            raise
        raise PlaceError(
            f"The study's database has not answered for {PATIENCE_SECONDS / 60:.0f} minutes. Finished work is kept: "
            "start the database, and give the same command again."
        ) from error


class PatientStorage(RDBStorage):
    """Optuna's database storage, which repeats each call while the database is unavailable.

    A repeated call may have taken effect the first time, if only its answer was lost with the connection. This is
    harmless: setting a value twice changes nothing, `set_trial_state_values` recognises a trial that already ended, and
    a trial that was created twice is an orphan, which the next command cleans up.
    """

    def set_trial_state_values(self, trial_id: int, state: Any, values: Any = None) -> bool:
        """Set the state and values as Optuna does. No error if the trial already has exactly this end."""
        try:
            return _repeating(RDBStorage.set_trial_state_values)(self, trial_id, state, values)
        except UpdateFinishedTrialError:
            trial = self.get_trial(trial_id)
            if trial.state != state or (values is not None and trial.values != list(values)):
                raise
            return True


def _repeating(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def repeated(self: RDBStorage, *args: Any, **kwargs: Any) -> Any:
        return patiently(method, self, *args, **kwargs)

    return repeated


# The methods of a storage that Optuna calls. Its cache in front of the database calls the private ones.
_CALLS = (
    *(name for name in vars(RDBStorage) if name.startswith(("get_", "set_")) and name != "set_trial_state_values"),
    "create_new_study",
    "_create_new_trial",
    "_set_trial_param",
    "_get_trials",
    "_get_best_trial_id",
)
for _name in _CALLS:
    setattr(PatientStorage, _name, _repeating(getattr(RDBStorage, _name)))


def open_storage(address: str) -> RDBStorage:
    """Open the database at an address; create its tables if it is new.

    Raises:
        ConfigError: the database cannot be opened.
    """
    options: dict[str, Any] = {"pool_pre_ping": True}  # replaces connections that the server has closed
    scheme, file = address.partition("://")[0], sqlite_file(address)
    if scheme == "sqlite":
        options = {"connect_args": {"timeout": _BUSY_SECONDS}}
        if file and is_on_local_disk(file):
            options["connect_args"]["factory"] = _WriteAhead
    elif scheme in _LIBPQ:
        options["connect_args"] = {"connect_timeout": 10, "tcp_user_timeout": 30_000}  # if packets are dropped silently
    # Processes that create the tables of a new database at the same time get errors, but the tables are intact.
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
    except Exception as error:  # SQLAlchemy and every driver that an address can name have their own error types
        raise unopened_study(address, error) from error


class _WriteAhead(sqlite3.Connection):
    """A connection in SQLite's write-ahead mode: writes go to a log next to the database, without waiting for the disk.

    Drawing a trial of thirty settings makes thirty transactions: 0.08 s in this mode, and 0.4 s if each transaction
    waits for the disk. A killed process loses nothing. A machine that loses power may lose only the last transactions.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A connection that may not write, or whose file another process uses in the old mode, keeps the file's mode.
        with contextlib.suppress(sqlite3.OperationalError):
            self.execute("PRAGMA busy_timeout=0")
            self.execute("PRAGMA journal_mode=WAL")
            self.execute("PRAGMA synchronous=NORMAL")
        self.execute(f"PRAGMA busy_timeout={1000 * _BUSY_SECONDS}")


def is_on_local_disk(path: Path) -> bool:
    """Whether a file lies on a disk of this machine; False if its file system is not known. The file need not exist."""
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    return next((mounts[folder] for folder in path.resolve().parents if folder in mounts), "") in _LOCAL


def _log_retry(state: tenacity.RetryCallState) -> None:
    if state.attempt_number == 3:  # the first repetitions are not worth a warning
        error = state.outcome.exception() if state.outcome else None
        lines = hidden(str(_cause(error))).strip().splitlines()
        log.warning("The study's database does not answer (%s); trying again.", lines[0][-200:] if lines else error)
