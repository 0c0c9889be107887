"""Watches a local Ray for killed processes. Ray itself would wait for such a process, or end without a message."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

from raydd.errors import PlaceError

_NAMES = ("raylet", "gcs_server")
_LOOK_SECONDS = 1.0
_SHOW_CURSOR = "\x1b[?25h"  # a live table has hidden the cursor
_PATIENCE_SECONDS = 20.0  # less than the 60 s after which Ray ends this process itself, without a message


@contextlib.contextmanager
def ray_is_watched(logs: Path) -> Iterator[None]:
    """Interrupt the block by SIGTERM if a process ends that the whole local Ray depends on.

    To be used in the main thread, where SIGTERM must raise KeyboardInterrupt. A call that waits for a dead gcs_server
    does not react to signals. So if the block has not ended some seconds later, the whole process is ended, as by
    kill -9.

    Args:
        logs: folder of Ray's logs, for the message.

    Raises:
        PlaceError: one of these processes ended, killed by someone or for lack of memory.
    """
    watched = {one.name(): one for one in psutil.Process().children() if one.name() in _NAMES}
    over, lost, main = threading.Event(), list[str](), threading.get_ident()

    def sentence() -> str:
        return (
            f"Ray's process {lost[0]} ended on this machine: it was killed, or memory ran out. Finished work is kept: "
            f"the same command continues from there. Ray's logs are in {logs}."
        )

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            lost.extend(name for name, one in watched.items() if not _runs(one))
            if lost:
                signal.pthread_kill(main, signal.SIGTERM)  # wakes the main thread from any wait
                if not over.wait(_PATIENCE_SECONDS):
                    print(
                        f"{_SHOW_CURSOR if sys.stderr.isatty() else ''}raydd: {sentence()}", file=sys.stderr, flush=True
                    )
                    os._exit(2)
                return

    watching = threading.Thread(target=watch, name="raydd-ray-watch", daemon=True)
    watching.start()
    try:
        yield
    except BaseException as error:
        if lost:
            raise PlaceError(sentence()) from error
        raise
    finally:
        over.set()
        watching.join()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
