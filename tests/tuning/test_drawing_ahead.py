import time

import optuna
import pytest
from optuna.trial import TrialState

from raydd.tuning import study as studies
from raydd.tuning.drawing_ahead import DrawingAhead


class Draws:
    """Draws that take a while each."""

    def __init__(self, seconds):
        self.study, self.seconds = optuna.create_study(), seconds

    def __call__(self):
        time.sleep(self.seconds)
        trial = self.study.ask()
        settings = {"x": trial.suggest_float("x", 0, 1)}
        trial.set_user_attr(studies.SETTINGS, settings)
        return trial, settings


def states(draws):
    return [trial.state for trial in draws.study.trials]


def waits(trials, held, count):
    """Seconds for which each of some trials is waited for, while one that takes `held` seconds runs beside it."""
    found = []
    for _ in range(count):
        began = time.monotonic()
        trials.take()
        found.append(time.monotonic() - began)
        trials.begin()
        time.sleep(held)
        trials.note_held(held)
    return found


def test_short_trials_do_not_wait_for_their_draws():
    assert max(waits(DrawingAhead(Draws(0.05)), 0.1, 8)[5:]) < 0.03


def test_long_trials_are_drawn_when_they_are_asked_for():
    draws = Draws(0.01)
    trials = DrawingAhead(draws)
    for _ in range(6):
        trials.take()
        trials.note_held(1.0)
        trials.begin()
    assert len(draws.study.trials) == 6


def test_what_was_drawn_ahead_and_not_taken_waits_in_the_study():
    draws = Draws(0.01)
    trials = DrawingAhead(draws)
    waits(trials, 0.001, 5)
    trials.begin()
    trials.drop()
    trials.drop()
    assert states(draws)[5:] == [TrialState.FAIL, TrialState.WAITING]


def test_an_error_of_a_draw_ahead_is_raised_where_the_trial_is_taken():
    def draw():
        if len(drawn) == 5:
            raise ConnectionError("the database is away")
        drawn.append(1)
        return optuna.create_study().ask(), {}

    drawn = []
    trials = DrawingAhead(draw)
    for _ in range(5):
        trials.take()
        trials.note_held(1e-9)
    trials.begin()
    with pytest.raises(ConnectionError, match="away"):
        trials.take()
