"""One driver a sweep: a mark in the study that says who runs it, renewed as long as that process lives.

Trials that are RUNNING while nobody holds the mark are orphans; with two drivers, each would take the other's for such.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil

from raydd.errors import ConfigError

BEAT_SECONDS = 10.0
PATIENCE_SECONDS = 60.0  # a driver on another machine, silent for so long, is taken for dead

_DRIVER = "driver"


@contextlib.contextmanager
def driving(study: optuna.Study, beat_seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Be the study's only driver inside the block.

    Raises:
        ConfigError: another process drives this sweep.
    """
    if mark := _living(study):
        raise ConfigError(
            f"The sweep {study.study_name!r} is being run by process {mark['pid']} on {mark['host']}. "
            "Wait for it, end it, or give this one another sweep.name."
        )
    study.set_user_attr(_DRIVER, _mark())
    left = threading.Event()

    def beat() -> None:
        while not left.wait(beat_seconds):
            study.set_user_attr(_DRIVER, _mark())

    thread = threading.Thread(target=beat, name="driving", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
        study.set_user_attr(_DRIVER, None)


def is_driven(study: optuna.Study) -> bool:
    """Whether a process that runs this sweep still lives."""
    return _living(study) is not None


def _living(study: optuna.Study) -> dict[str, Any] | None:
    """The mark of the driver that runs this sweep; None if there is none, or if it is dead."""
    mark = study.user_attrs.get(_DRIVER)
    return mark if mark and _lives(mark) else None


def _mark() -> dict[str, Any]:
    process = psutil.Process()
    return {"host": _host(), "pid": os.getpid(), "begun": process.create_time(), "beat": time.time()}


def _lives(mark: dict[str, Any]) -> bool:
    if mark["host"] != _host():
        return time.time() - mark["beat"] < PATIENCE_SECONDS
    try:
        return abs(psutil.Process(mark["pid"]).create_time() - mark["begun"]) < 1.0  # a number may have been reused
    except psutil.NoSuchProcess:
        return False


def _host() -> str:
    """Where process numbers mean the same processes: this machine, and in it this container."""
    return f"{socket.gethostname()} ({Path('/proc/self/ns/pid').readlink()})"
