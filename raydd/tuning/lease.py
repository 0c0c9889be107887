"""Allows only one driver for each sweep: a mark in the study says which process runs the sweep.

The driver renews its mark as long as it lives. RUNNING trials without a live mark are treated as orphans; two drivers
would each treat the other's trials as orphans. The mark is an attribute of the study. It is always replaced by one SQL
statement that names the mark to be replaced, so if two drivers find the study free, only one of them gets it.
"""

import _thread
import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import psutil
import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from raydd.cluster.connect import forget_interrupt
from raydd.errors import ConfigError
from raydd.tuning.database import patiently

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
PATIENCE_SECONDS = 90.0  # a driver on another machine that was silent for this long is considered dead

_DRIVER = "driver"
_ENDED = ("Z", "X", "x")  # states in /proc of a process that has ended
_FREE = "null"  # the mark, as JSON, of a study without a driver
_MARKS = sql.table("study_user_attributes", sql.column("study_id"), sql.column("key"), sql.column("value_json"))


@contextlib.contextmanager
def driving(study: optuna.Study, beat_seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Make this process the study's only driver inside the block.

    Raises:
        ConfigError: another process runs this sweep, or took it over while this one was cut off from the database.
    """
    mark = _acquire(study, beat_seconds)
    finished, lost = threading.Event(), threading.Event()

    def beat() -> None:
        nonlocal mark
        while not finished.wait(beat_seconds):
            try:
                renewed = _renew(study, mark)
            except Exception as error:  # the database was unavailable for too long; the next beat tries again
                log.warning("The sweep's mark cannot be renewed (%s); trying again.", type(error).__name__)
                continue
            if renewed is None:
                lost.set()
                _thread.interrupt_main()
                return
            mark = renewed

    thread = threading.Thread(target=beat, name="driving", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
        forget_interrupt()
    finally:
        finished.set()
        thread.join()
        _replace_mark(study, mark, _FREE)
    if lost.is_set():  # also without a KeyboardInterrupt: a shell may have started this process with SIGINT ignored
        raise _driven_elsewhere(study)


def is_driven(study: optuna.Study) -> bool:
    """Whether a live process runs this sweep."""
    mark = study.user_attrs.get(_DRIVER)
    return bool(mark) and _is_alive(mark)


def require_undriven(study: optuna.Study) -> None:
    """Refuse a sweep that a live process runs, before any work is done for it; `driving` checks again.

    Raises:
        ConfigError: another process runs this sweep.
    """
    if is_driven(study):
        raise _driven_elsewhere(study)


def _acquire(study: optuna.Study, beat_seconds: float) -> str:
    """Put this process's mark into a study that has no driver or whose driver is dead."""
    while True:
        current_mark = _read_mark(study)
        if (
            current_mark
            and (holder := json.loads(current_mark))
            and (_is_alive(holder) or _renews_its_mark(study, current_mark, holder, beat_seconds))
        ):
            raise _driven_elsewhere(study)
        if _replace_mark(study, current_mark, mark := _new_mark()):
            return mark


def _renews_its_mark(study: optuna.Study, mark: str, holder: Mapping[str, Any], beat_seconds: float) -> bool:
    """Whether a driver on another machine renews its mark while this process watches, since clocks may differ."""
    if holder.get("where") == _process_namespace():
        return False
    end = time.monotonic() + 2.5 * beat_seconds
    while time.monotonic() < end:
        if _read_mark(study) != mark:
            return True
        time.sleep(beat_seconds / 10)
    return False


def _renew(study: optuna.Study, mark: str) -> str | None:
    """Renew the mark and return it; None if the study has another driver's mark."""
    if _replace_mark(study, mark, renewed := _renewed_mark(mark)):
        return renewed
    current = _read_mark(study)  # may be this process's own: a write may have succeeded although its answer was lost
    return current if current and (json.loads(current) or {}).get("driver") == json.loads(mark)["driver"] else None


def _driven_elsewhere(study: optuna.Study) -> ConfigError:
    mark = study.user_attrs.get(_DRIVER) or {"pid": "unknown", "host": "another machine"}
    return ConfigError(
        f"The sweep {study.study_name!r} is being run by process {mark['pid']} on {mark['host']}. "
        "Wait for that process, end it, or give this sweep another sweep.name."
    )


def _read_mark(study: optuna.Study) -> str | None:
    """Return the mark as it is written in the database; None if there never was one."""
    query = sql.select(_MARKS.c.value_json).where(*_mark_row(study))

    def read() -> str | None:
        with _engine(study).connect() as connection:
            return connection.execute(query).scalar_one_or_none()

    return patiently(read)


def _replace_mark(study: optuna.Study, old_mark: str | None, new_mark: str) -> bool:
    """Replace one mark by another; False if the study no longer has the old mark."""
    if old_mark is None:
        statement = sql.insert(_MARKS).values(study_id=study._study_id, key=_DRIVER, value_json=new_mark)
    else:
        statement = (
            sql.update(_MARKS).where(*_mark_row(study), _MARKS.c.value_json == old_mark).values(value_json=new_mark)
        )

    def write() -> bool:
        try:
            with _engine(study).begin() as connection:
                return connection.execute(statement).rowcount == 1
        except IntegrityError:  # another process wrote the first mark
            return False

    # The write may have succeeded although its answer was lost.
    return patiently(write) or _read_mark(study) == new_mark


def _mark_row(study: optuna.Study) -> tuple[sql.ColumnElement[bool], ...]:
    return _MARKS.c.study_id == study._study_id, _MARKS.c.key == _DRIVER


def _engine(study: optuna.Study) -> sql.Engine:
    storage: Any = study._storage
    return getattr(storage, "_backend", storage).engine  # behind Optuna's cache


def _new_mark() -> str:
    process = {
        "host": socket.gethostname(),
        "where": _process_namespace(),
        "pid": os.getpid(),
        "begun": _process_start(os.getpid()),
    }
    return json.dumps({**process, "driver": secrets.token_hex(4), "beat": time.time()})


def _renewed_mark(mark: str) -> str:
    return json.dumps({**json.loads(mark), "beat": time.time()})


def _is_alive(mark: Mapping[str, Any]) -> bool:
    if mark.get("where") != _process_namespace():
        return time.time() - mark["beat"] < PATIENCE_SECONDS
    try:
        return _process_start(mark["pid"]) == mark["begun"]  # the process number may have been reused
    except psutil.NoSuchProcess:
        return False


def _process_start(pid: int) -> float:
    """Return when a process began: on Linux in ticks since the machine's start, so that clock changes do not matter.

    Raises:
        psutil.NoSuchProcess: it has ended, also if its parent has not asked for its exit code yet.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            raise psutil.NoSuchProcess(pid) from None
        return process.create_time()
    if state in _ENDED:
        raise psutil.NoSuchProcess(pid)
    return float(fields[18])


def _process_namespace() -> str:
    """Return an id of the place where process numbers are unique: this boot of this machine, and this container."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()
