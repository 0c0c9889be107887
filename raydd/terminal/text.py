"""Short texts for the terminal: a curve, settings, a count or a duration on one line, and scores as a table.

They use text only, so that they can be read over ssh too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from raydd.config import EvaluateConfig

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """Return the last values as bars, scaled from the smallest to the largest one shown; non-finite values are gaps."""
    shown = list(values)[-width:]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return ""
    low, value_range = min(finite), max(finite) - min(finite)

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return " "
        return _BARS[round((value - low) / value_range * (len(_BARS) - 1))] if value_range else _BARS[0]

    return "".join(map(bar, shown))


def brief(settings: Mapping[str, Any]) -> str:
    """Return settings on one line, with short numbers and without the prefix `distill.`."""

    def short(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{name.removeprefix('distill.')} {short(value)}" for name, value in settings.items())


def duration(seconds: float) -> str:
    """Format seconds as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def duration_between(low: float, high: float) -> str:
    """Format two durations as `20 to 40 min` or `50 s to 3 min`; as one duration if both read the same."""
    shortest, longest = duration(low), duration(high)
    if shortest == longest:
        return longest
    number, unit = shortest.split()
    return f"{number} to {longest}" if longest.endswith(f" {unit}") else f"{shortest} to {longest}"


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: `1 trial`, `2 trials`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def share_of_full(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], pairs: int, real_pairs: int) -> str:
    """Return a sentence on the mean r_mean of a set, and of as many random pairs, as a share of that of full data.

    Args:
        rows: scores of `synthetic` and of the baselines, as `Scores.as_json` gives them.
        pairs: number of synthetic pairs.
        real_pairs: number of real training pairs.

    Returns:
        The sentence; empty without a row of full data, or if the r_mean of full data is 0.
    """
    means = {name: row["r_mean"]["mean"] for name, row in rows.items()}
    if not means.get("full"):
        return ""
    share = {name: f"{100 * mean / means['full']:.0f} %" for name, mean in means.items()}
    sentence = f"{pairs} synthetic pairs keep {share['synthetic']} of what {real_pairs} real pairs give"
    return f"{sentence}; random pairs keep {share['random']}." if "random" in share else f"{sentence}."


def students_in_words(evaluate: EvaluateConfig) -> str:
    """Return the number of students of a score, and how their epoch was chosen if that was on the scored split."""
    seeds = count_of(evaluate.seeds, "student seed")
    best = f", best of {evaluate.checks} checks on {evaluate.split} itself"
    return f"{seeds}{best}" if evaluate.choice == "best-on-split" else seeds


def scores_table(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str, columns: Sequence[str] = ()) -> Table:
    """Return a table of 80 characters with mean and standard deviation of each metric.

    Args:
        rows: from the name of each row to what `Scores.as_json` gives.
        title: title of the table.
        columns: the metrics; by default `raydd.evaluate.retrieval.SHOWN`.
    """
    from raydd.evaluate.retrieval import SHOWN

    columns = columns or SHOWN
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("trained on", overflow="fold")  # not cut: names of encoders differ in the last letter
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]['mean']:.1f}±{row[column]['std']:.1f}" for column in columns))
    return table
