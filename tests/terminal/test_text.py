import math

import pytest

from raydd.terminal.text import brief, duration, sparkline


@pytest.mark.parametrize(
    ("values", "shown"),
    [([], ""), ([1.0], "▁"), ([1, 2, 3, 8], "▁▂▃█"), ([2, 2], "▁▁"), ([0, math.nan, 7], "▁ █"), ([math.inf], "")],
)
def test_the_bars_lie_between_the_least_and_the_greatest(values, shown):
    assert sparkline(values) == shown


def test_the_last_values_are_those_shown():
    assert sparkline([9, 9, 1, 2], width=2) == "▁█"


def test_short_words():
    assert brief({"distill.image_lr": 0.123456, "experts.lr": 0.2, "distill.rank": 5}) == (
        "image_lr 0.123, experts.lr 0.2, rank 5"
    )
    assert [duration(seconds) for seconds in (45, 720, 12600)] == ["45 s", "12 min", "3.5 h"]
