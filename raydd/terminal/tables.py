"""Scores as a table on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

COLUMNS = ("IR@1", "IR@5", "IR@10", "TR@1", "TR@5", "TR@10", "r_mean")


def scores_table(
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str, columns: Sequence[str] = COLUMNS
) -> Table:
    """Mean ± standard deviation of each metric; a row is what `Scores.as_json` gives."""
    table = Table(title=title)
    table.add_column("trained on")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]['mean']:.1f} ± {row[column]['std']:.1f}" for column in columns))
    return table
