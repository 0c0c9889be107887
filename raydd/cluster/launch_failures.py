"""Why no machine comes: what the cloud answered when Ray's autoscaler asked it for one.

Ray counts failed launches in its status and leaves out their reasons (2.60); the autoscaler's log has them.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ray._private import worker

from raydd.cluster.meanwhile import meanwhile

LOOK_SECONDS = 10.0  # between two looks at the log
_FAILURE = re.compile(r"Failed to launch \d+ nodes? of type \S+: (.+)|->RAY_INSTALL_FAILED \(.*?\): (.+)")


class LaunchFailures:
    """What the autoscaler's log of this session says from now on; nothing where the head is another machine."""

    def __init__(self, log: Path | None = None) -> None:
        """Begin at the end of the log.

        Args:
            log: the file; by default that of the cluster that this process has joined.
        """
        self._log = log or _log_of_this_cluster()
        self._read = self._log.stat().st_size if self._log and self._log.is_file() else 0
        self.last = ""
        """The newest reason; empty while every machine came."""

    def look(self) -> str:
        """Read what the log has become; gives the newest reason."""
        if self._log and self._log.is_file():
            with self._log.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # a line that is being written is read next time
            self._read += len(whole)
            for found in _FAILURE.finditer(whole.decode(errors="replace")):
                self.last = found[1] or found[2]
        return self.last


def _log_of_this_cluster() -> Path | None:
    node = worker._global_node  # None for a client (ray://)
    return Path(node.get_logs_dir_path()) / "monitor.log" if node else None


@contextlib.contextmanager
def telling(failures: LaunchFailures, say: Callable[[str], None], pause: float = LOOK_SECONDS) -> Iterator[None]:
    """Say each new reason why no machine came, once, as long as the block lasts.

    Args:
        failures: where they are read.
        say: is called from a thread of its own.
        pause: seconds between two looks.
    """
    told = set()

    def watch() -> None:
        if (reason := failures.look()) and reason not in told:
            told.add(reason)
            say(f"No machine came; Ray keeps asking for one. The autoscaler's error: {reason}")

    with meanwhile(watch, pause, "launch failures"):
        yield
