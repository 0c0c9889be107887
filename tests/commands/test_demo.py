from types import SimpleNamespace
from typing import Any

from raydd.commands.demo import _why_scores_differ
from raydd.settings import load
from raydd.tuning.finals import Finalist


def concluded(*finalists: Finalist) -> Any:
    return SimpleNamespace(config=load(), finalists=finalists, finished=8)


def data(val: int, test: int) -> Any:
    return SimpleNamespace(val=SimpleNamespace(images=range(val)), test=SimpleNamespace(images=range(test)))


def test_the_three_scores_of_the_best_trial_are_explained():
    final = Finalist(7, {}, 52.82, {"r_mean": {"mean": 49.51}}, {"r_mean": {"mean": 35.98}}, "synthetic/0")
    said = _why_scores_differ(concluded(final), data(61, 122))
    assert said == (
        "Trial 7 has three scores: 52.8 on val as features, where it is the best of 8 trials; 49.5 on val as images; "
        "36.0 on test, which took part in no choice and has 122 images to choose among instead of 61."
    )


def test_without_finals_there_is_nothing_to_explain():
    assert _why_scores_differ(concluded(), data(61, 122)) == ""
