"""Draws a study's next trial in advance, while others run, if a draw would otherwise leave a slot empty for long."""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import optuna

from raydd.tuning import study as studies

_LONG = 0.02  # of a trial's time: longer draws are made in advance, without the trials that end in the meantime
_KNOWN = 4  # trials that must have ended before their median time is used

Drawn = tuple[optuna.Trial, dict[str, Any]]
"""A running trial of the study, and its settings."""


class DrawingAhead:
    """Draws trials when they are asked for; if trials are short, in advance, once the previous trial is handed out."""

    def __init__(self, draw: Callable[[], Drawn]) -> None:
        """Create it.

        Args:
            draw: draws one trial.
        """
        self._draw = draw
        self._held, self._took = deque[float](maxlen=16), deque[float](maxlen=16)
        self._ahead: Future[Drawn] | None = None
        self._thread = ThreadPoolExecutor(1, "drawing-ahead")

    def take(self) -> Drawn:
        """Return the trial that was drawn in advance; if there is none, draw one now."""
        future, self._ahead = self._ahead, None
        return future.result() if future else self._timed()

    def held(self, seconds: float) -> None:
        """Note for how long a trial that ended held its slot."""
        self._held.append(seconds)

    def begin(self) -> None:
        """Draw the next trial in the background, if draws are long compared with trials."""
        if self._ahead is None and len(self._held) >= _KNOWN and self._draws_are_long:
            self._ahead = self._thread.submit(self._timed)

    def drop(self) -> None:
        """Put a trial that was drawn in advance back into the study's queue."""
        if self._ahead is not None:
            trial, _ = self.take()
            studies.ask_again(trial.study, trial)

    @property
    def _draws_are_long(self) -> bool:
        return statistics.median(self._took or [math.inf]) > _LONG * statistics.median(self._held)

    def _timed(self) -> Drawn:
        start_time = time.monotonic()
        drawn = self._draw()
        self._took.append(time.monotonic() - start_time)
        return drawn
