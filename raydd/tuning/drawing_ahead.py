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
        self._held_seconds, self._draw_seconds = deque[float](maxlen=16), deque[float](maxlen=16)
        self._next_draw: Future[Drawn] | None = None
        self._executor = ThreadPoolExecutor(1, "drawing-ahead")

    def take(self) -> Drawn:
        """Return the trial that was drawn in advance; if there is none, draw one now."""
        future, self._next_draw = self._next_draw, None
        return future.result() if future else self._draw_timed()

    def note_held(self, seconds: float) -> None:
        """Note for how long a trial that ended held its slot."""
        self._held_seconds.append(seconds)

    def begin(self) -> None:
        """Draw the next trial in the background, if draws are long compared with trials."""
        if self._next_draw is None and len(self._held_seconds) >= _KNOWN and self._draws_are_long:
            self._next_draw = self._executor.submit(self._draw_timed)

    def drop(self) -> None:
        """Put a trial that was drawn in advance back into the study's queue."""
        if self._next_draw is not None:
            trial, _ = self.take()
            studies.ask_again(trial.study, trial)

    @property
    def _draws_are_long(self) -> bool:
        return statistics.median(self._draw_seconds or [math.inf]) > _LONG * statistics.median(self._held_seconds)

    def _draw_timed(self) -> Drawn:
        start_time = time.monotonic()
        drawn = self._draw()
        self._draw_seconds.append(time.monotonic() - start_time)
        return drawn
