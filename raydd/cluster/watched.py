"""A Ray of this machine's own, one of whose processes is killed: Ray itself would wait for it, or end in silence."""

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
_SHOW_CURSOR = "\x1b[?25h"  # which a live table has hidden
_PATIENCE_SECONDS = 20.0  # less than the 60 after which Ray ends this process itself, without a sentence


@contextlib.contextmanager
def ray_is_watched(logs: Path) -> Iterator[None]:
    """Break off the block, by SIGTERM, if a process ends on which all of a local Ray rests.

    To be used in the main thread, where SIGTERM raises KeyboardInterrupt. A question to a gcs_server that is gone hears
    no signal: a block that has not ended some seconds later is ended with its whole process, as kill -9 would do.

    Args:
        logs: where Ray's logs are, as the user is told.

    Raises:
        PlaceError: one of them ended, killed by somebody or by the machine.
    """
    watched = {one.name(): one for one in psutil.Process().children() if one.name() in _NAMES}
    over, lost, main = threading.Event(), list[str](), threading.get_ident()

    def sentence() -> str:
        return (
            f"Ray's process {lost[0]} ended on this machine, killed or for lack of memory. What is finished is "
            f"kept: the same command goes on from there. Ray's logs are in {logs}."
        )

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            lost.extend(name for name, one in watched.items() if not _runs(one))
            if lost:
                signal.pthread_kill(main, signal.SIGTERM)  # which wakes it, whatever it sleeps in
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
