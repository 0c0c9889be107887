from types import SimpleNamespace
from typing import Any

from raydd.commands.demo import _explain_scores
from raydd.settings import load
from raydd.tuning.finals import Finalist


def concluded(*finalists: Finalist) -> Any:
    return SimpleNamespace(config=load(), finalists=finalists, finished=8, scores={2: 51.0, 7: 52.82})


def data(val: int, test: int) -> Any:
    return SimpleNamespace(val=SimpleNamespace(images=range(val)), test=SimpleNamespace(images=range(test)))


def test_the_three_scores_of_the_best_trial_are_explained():
    final = Finalist(
        7, {}, 52.82, {"r_mean": {"mean": 49.51}}, {"r_mean": {"mean": 35.98}}, "synthetic/0", r_mean=49.51
    )
    said = _explain_scores(concluded(final), data(61, 122))
    assert said == (
        "Trial 7 has three scores: 52.8 on val as features, where it is the best of 8 trials; 49.5 on val as images; "
        "36.0 on test, which was not used for any choice and has 122 images to retrieve from instead of 61."
    )


def test_a_winner_that_was_not_the_best_trial_is_not_called_so():
    final = Finalist(2, {}, 51.0, {"r_mean": {"mean": 50.2}}, {"r_mean": {"mean": 37.1}}, "synthetic/0", 50.2)
    assert "51.0 on val as features, where it is one of 8 trials; " in _explain_scores(concluded(final), data(61, 122))


def test_without_finals_there_is_nothing_to_explain():
    assert _explain_scores(concluded(), data(61, 122)) == ""
