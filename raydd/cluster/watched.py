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

_PROCESS_NAMES = ("raylet", "gcs_server")
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
    processes = {process.name(): process for process in psutil.Process().children() if process.name() in _PROCESS_NAMES}
    stop, ended, main_thread = threading.Event(), list[str](), threading.get_ident()

    def message() -> str:
        return (
            f"Ray's process {ended[0]} ended on this machine: it was killed, or memory ran out. Finished work is kept: "
            f"the same command continues from there. Ray's logs are in {logs}."
        )

    def watch() -> None:
        while not stop.wait(_LOOK_SECONDS):
            ended.extend(name for name, process in processes.items() if not _is_running(process))
            if ended:
                signal.pthread_kill(main_thread, signal.SIGTERM)  # wakes the main thread from any wait
                if not stop.wait(_PATIENCE_SECONDS):
                    print(
                        f"{_SHOW_CURSOR if sys.stderr.isatty() else ''}raydd: {message()}", file=sys.stderr, flush=True
                    )
                    os._exit(2)
                return

    watcher = threading.Thread(target=watch, name="raydd-ray-watch", daemon=True)
    watcher.start()
    try:
        yield
    except BaseException as error:
        if ended:
            raise PlaceError(message()) from error
        raise
    finally:
        stop.set()
        watcher.join()


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
