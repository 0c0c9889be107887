"""The page of a comparison that `raydd compare` made: the table of methods, what each costs, how each collapses."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from raydd.board.comparison import COLLAPSE, FILES
from raydd.errors import RecordError
from raydd.report.charts import LEGEND_ABOVE, LIGHT, Chart, chart, curves
from raydd.report.page import METRICS, Page, ScoreRow
from raydd.report.sets import MEASURES

_COSTS = {"seconds": ("seconds", 1.0), "stored bytes": ("size of the set, kB", 1e-3)}


def comparison_page(folder: Path) -> Page:
    """The page of a comparison, finished or not.

    Raises:
        RecordError: there is no comparison in the folder.
    """
    file = folder / FILES[1]
    if not file.is_file():
        raise RecordError(f"There is no comparison in {folder}. `raydd compare` makes one; give its compare.name.")
    frame = pd.read_csv(file)
    ours = frame[frame["made by"] == "raydd"]
    best = ours.dropna(subset=["budget"]).sort_values("r_mean").tail(1)
    lead = "".join(
        f"The best of {len(ours)} rows is {_name(row)} with an r_mean of {row['r_mean']:.1f} percent."
        for _, row in best.iterrows()
    )
    return Page(
        title=f"Comparison {folder.name}",
        lead=lead,
        facts={
            "data": ", ".join(sorted(set(ours["data"]))),
            "methods": ", ".join(dict.fromkeys(ours["method"])),
            "encoders": ", ".join(
                sorted({f"{a}, {b}" for a, b in zip(ours["image encoder"], ours["text encoder"], strict=True)})
            ),
        },
        results=[_row(row) for _, row in frame.iterrows()],
        results_note="Percent, mean ± standard deviation over student seeds. Ours: frozen encoders, both heads "
        "trained. Published rows have other encoders and selection rules; they give the order of size.",
        fronts=[drawn for cost in _COSTS if (drawn := _front(ours, cost))],
        collapse=_collapse(folder / COLLAPSE[0]),
        commands=("raydd compare --config FILE.yaml",),
        provenance={"table": str(file), "records": str(ours["record"].nunique())},
    )


def _row(row: pd.Series) -> ScoreRow:
    mine = row["made by"] == "raydd"
    where = f"{row['data']}, {_budget(row)}, {row['image encoder']} and {row['text encoder']}"
    if not mine:
        return ScoreRow(
            str(row["method"]),
            {metric: f"{row[metric]:.1f}" for metric in METRICS},
            "published",
            f"{row['made by']}, {where}, protocol {row['protocol']}",
        )
    cells = {metric: f"{row[metric]:.1f} ± {row[f'{metric} std']:.1f}" for metric in METRICS}
    kind = "ours" if pd.notna(row["budget"]) else "baseline"
    return ScoreRow(_name(row), cells, kind, f"{where}, {row['split']}, {int(row['seeds'])} seeds")


def _front(ours: pd.DataFrame, cost: str) -> Chart | None:
    """r_mean against a cost, a point a row, a colour a budget."""
    priced = ours.dropna(subset=[cost, "budget"])
    if priced.empty:
        return None
    unit, scale = _COSTS[cost]
    figure = go.Figure()
    for number, (budget, rows) in enumerate(priced.groupby("budget")):
        figure.add_scatter(
            x=rows[cost] * scale,
            y=rows["r_mean"],
            error_y={"array": rows["r_mean std"], "thickness": 1},
            text=[_name(row) for _, row in rows.iterrows()],
            name=f"{budget:.0f} pairs",
            mode="markers+text",
            textposition="top center",
            marker={"color": LIGHT[number % len(LIGHT)], "size": 9},
            hovertemplate="%{text}: %{y:.2f} at %{x:.4g}<extra></extra>",
        )
    figure.update_layout(xaxis={"title": unit, "type": "log"}, yaxis_title="r_mean, percent", legend=LEGEND_ABOVE)
    ends = "; ".join(
        f"{_name(row)} {row['r_mean']:.1f} at {row[cost] * scale:.4g}"
        for _, row in priced.sort_values("r_mean", ascending=False).head(5).iterrows()
    )
    return chart(f"front-{cost.split()[0]}", f"r_mean against {unit}", f"The best, with {unit}: {ends}.", figure, 460)


def _collapse(file: Path) -> Sequence[Chart]:
    if not file.is_file():
        return []
    frame = pd.read_csv(file)
    drawn = []
    for name, words in MEASURES.items():
        key = f"collapse/{name}"
        if key not in frame:
            continue
        lines = {
            str(row): [
                (step, value) for step, value in zip(points["step"], points[key], strict=True) if math.isfinite(value)
            ]
            for row, points in frame.groupby("row")
        }
        title = name.replace("_", " ")
        ends = ", ".join(f"{row} {points[-1][1]:.3f}" for row, points in lines.items() if points)
        drawn.append(curves(f"curve-{name}", title, lines, title, f"{words.capitalize()}. Ends: {ends}."))
    return drawn


def _name(row: pd.Series) -> str:
    variant = row.get("variant")
    return f"{row['method']} {variant}" if isinstance(variant, str) and variant else str(row["method"])


def _budget(row: pd.Series) -> str:
    return f"{row['budget']:.0f} pairs" if pd.notna(row["budget"]) else "all pairs"
