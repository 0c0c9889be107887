"""Finds out why no machine starts: the cloud's answer to Ray's autoscaler.

Ray's status counts failed launches but does not show their reasons (Ray 2.60). The autoscaler's log has them.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from raydd.cluster.growth import autoscaler_log
from raydd.meanwhile import meanwhile

LOOK_SECONDS = 10.0  # between two reads of the log
_FAILURE = re.compile(r"Failed to launch \d+ nodes? of type \S+: (.+)|->RAY_INSTALL_FAILED \(.*?\): (.+)")


class LaunchFailures:
    """Reads failed launches from the autoscaler's log of this session, from now on.

    Finds nothing if the cluster's head is another machine.
    """

    def __init__(self, log: Path | None = None) -> None:
        """Begin at the end of the log.

        Args:
            log: the log file; by default, that of the cluster that this process is connected to.
        """
        self._log = log or autoscaler_log()
        self._bytes_read = self._log.stat().st_size if self._log and self._log.is_file() else 0
        self.last = ""
        """The newest reason; empty while no launch has failed."""

    def look(self) -> str:
        """Read the new part of the log, and return the newest reason."""
        if self._log and self._log.is_file():
            with self._log.open("rb") as file:
                file.seek(self._bytes_read)
                tail = file.read()
            complete_lines = tail[: tail.rfind(b"\n") + 1]  # a line that is still being written is read next time
            self._bytes_read += len(complete_lines)
            for match in _FAILURE.finditer(complete_lines.decode(errors="replace")):
                self.last = match[1] or match[2]
        return self.last


@contextlib.contextmanager
def report_launch_failures(
    failures: LaunchFailures, say: Callable[[str], None], pause: float = LOOK_SECONDS
) -> Iterator[None]:
    """Report each new reason why no machine started, once, until the block ends.

    Args:
        failures: reads the reasons.
        say: called with each message, from another thread.
        pause: seconds between two reads.
    """
    reported = set()

    def watch() -> None:
        if (reason := failures.look()) and reason not in reported:
            reported.add(reason)
            say(f"A machine has not started; Ray keeps asking for it. The autoscaler's error: {reason}")

    with meanwhile(watch, pause, "launch failures"):
        yield
