import io
import math

import pytest
from rich.console import Console

from raydd.config import EvaluateConfig
from raydd.evaluate.retrieval import SHOWN
from raydd.terminal.text import brief, duration, scores_table, share_of_full, sparkline, students_in_words


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


def test_what_a_set_is_worth_is_said_in_a_sentence():
    rows = {name: {"r_mean": {"mean": mean}} for name, mean in (("synthetic", 36.0), ("random", 20.0), ("full", 40.0))}
    assert share_of_full(rows, 50, 494) == (
        "50 synthetic pairs keep 90 % of what 494 real pairs give; random pairs keep 50 %."
    )
    del rows["random"]
    assert share_of_full(rows, 50, 494) == "50 synthetic pairs keep 90 % of what 494 real pairs give."
    rows["full"] = {"r_mean": {"mean": 0.0}}
    assert share_of_full(rows, 50, 494) == ""
    del rows["full"]
    assert share_of_full(rows, 50, 494) == ""


def test_scores_that_were_chosen_on_their_own_split_are_told():
    assert students_in_words(EvaluateConfig(seeds=1)) == "1 student seed"
    assert students_in_words(EvaluateConfig(split="test", choice="best-on-split", checks=11)) == (
        "5 student seeds, best of 11 checks on test itself"
    )


def test_a_table_of_scores_fits_a_terminal_of_80_columns():
    row = {column: {"mean": 54.321, "std": 12.34} for column in SHOWN}
    console = Console(file=io.StringIO(), width=80)
    console.print(scores_table({"synthetic": row, "random": row}, "test, 50 pairs, 5 seeds, percent"))
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    assert [line.split() for line in lines if line.startswith("synthetic")] == [["synthetic", *["54.3±12.3"] * 7]]


def test_rows_that_differ_in_the_last_letter_of_a_long_name_are_told_apart():
    row = {metric: {"mean": 54.321, "std": 1.2} for metric in SHOWN}
    console = Console(file=io.StringIO(), width=80)
    names = [f"its photographs, efficientnet-lite{number}" for number in (0, 1)]
    console.print(scores_table(dict.fromkeys(names, row), "test, 50 pairs, 5 seeds, percent"))
    shown = "".join(line.split("54.3")[0] for line in console.file.getvalue().splitlines()).replace(" ", "")
    assert [name.replace(" ", "") in shown for name in names] == [True, True]
