"""The page of a comparison: the table of methods, their cost, convergence and modality collapse."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from raydd.charts.chart import LEGEND_ABOVE, LIGHT, Chart, chart, curves
from raydd.code_version import code_version
from raydd.compare.table import AS_PUBLISHED_NOTE, COLLAPSE, CURVES, FILES, MARK
from raydd.errors import RecordError
from raydd.report.page import METRICS, Page, ScoreRow
from raydd.report.sets import MEASURES

Record = dict[str, Any]

_COSTS = {
    "seconds": ("seconds", 1.0),
    "cpu seconds": ("CPU seconds", 1.0),
    "stored bytes": ("size of the set, kB", 1e-3),
}


def comparison_page(folder: Path) -> Page:
    """Return the page of a comparison, which may still be running.

    Raises:
        RecordError: there is no comparison in the folder, or it has no row yet.
    """
    file = folder / FILES[1]
    if not file.is_file():
        raise RecordError(f"There is no comparison in {folder}. Check compare.name, or run `raydd compare`.")
    if not file.read_bytes().strip():  # its first sets have failed
        raise RecordError(f"The comparison in {folder} has no row yet. {folder / FILES[0]} says what failed.")
    rows = _read_table(file)
    ours = [row for row in rows if row["made by"] == "raydd"]
    best = max((row for row in ours if row["budget"]), key=lambda row: row["r_mean"], default=None)
    lead = f"{len(ours)} rows."
    if best:
        lead = f"The best of {lead[:-1]} is {_row_name(best)} with an r_mean of {best['r_mean']:.1f} percent."
    return Page(
        title=f"Comparison {folder.name}",
        lead=lead,
        facts={
            "data": ", ".join(sorted({row["data"] for row in ours})),
            "methods": ", ".join(dict.fromkeys(row["method"] for row in ours)),
            "encoders": ", ".join(sorted({f"{row['image encoder']}, {row['text encoder']}" for row in ours})),
        },
        results=[_score_row(row) for row in rows],
        results_note=_results_note(ours),
        fronts=[front for cost in _COSTS if (front := _cost_chart(ours, cost))],
        convergence=_convergence_charts(folder / CURVES),
        collapse=_collapse_charts(folder / COLLAPSE[0]),
        commands=("raydd compare --config FILE.yaml",),
        provenance={
            "page made by raydd": code_version(),
            "table": str(file),
            "records": str(len({record for row in ours for record in str(row["records"] or "").split()})),
        },
    )


def _read_table(file: Path) -> list[Record]:
    """Return the lines of a CSV table, with None for empty cells."""
    frame = pd.read_csv(file).astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


def _results_note(our_rows: Sequence[Record]) -> str:
    note = (
        "Percent, mean ± standard deviation over sets; the score of a set is the mean over its students. "
        f"Protocol of our rows: {'; '.join(dict.fromkeys(row['protocol'] for row in our_rows))}. "
        "Published rows use other encoders and selection rules; they only give the order of magnitude."
    )
    return f"{note} {MARK} {AS_PUBLISHED_NOTE}" if any(map(_as_published, our_rows)) else note


def _score_row(row: Record) -> ScoreRow:
    setup = f"{row['data']}, {_budget_text(row)}, {row['image encoder']} and {row['text encoder']}"
    if row["made by"] != "raydd":
        scores = {metric: f"{row[metric]:.1f}" for metric in METRICS}
        return ScoreRow(row["method"], scores, "published", f"{row['made by']}, {setup}, protocol {row['protocol']}")
    scores = {metric: f"{row[metric]:.1f}{_std_text(row, metric)}" for metric in METRICS}
    kind = "ours" if row["budget"] else "baseline"
    sets_text = f"{row['sets']:.0f} sets of {row['students each']:.0f} students"
    interval = f"r_mean {row['r_mean low']:.1f} to {row['r_mean high']:.1f} in 95 % of resamples"
    return ScoreRow(_row_name(row), scores, kind, f"{setup}, {row['split']}, {sets_text}, {interval}")


def _std_text(row: Record, metric: str) -> str:
    std = row[f"{metric} std"]
    return "" if std is None else f" ± {std:.1f}"


def _cost_chart(our_rows: Sequence[Record], cost: str) -> Chart | None:
    """Return a chart of r_mean against a cost, with one point for each row and one colour for each budget."""
    rows_with_cost = sorted((row for row in our_rows if row[cost] and row["budget"]), key=lambda row: -row["r_mean"])
    if not rows_with_cost:
        return None
    unit, scale = _COSTS[cost]
    figure = go.Figure()
    for number, budget in enumerate(sorted({row["budget"] for row in rows_with_cost})):
        rows = [row for row in rows_with_cost if row["budget"] == budget]
        figure.add_scatter(
            x=[row[cost] * scale for row in rows],
            y=[row["r_mean"] for row in rows],
            error_y={"array": [row["r_mean std"] or 0 for row in rows], "thickness": 1},
            text=[_row_name(row) for row in rows],
            name=f"{budget:.0f} pairs",
            mode="markers+text",
            textposition="top center",
            marker={"color": LIGHT[number % len(LIGHT)], "size": 9},
            hovertemplate="%{text}: %{y:.2f} at %{x:.4g}<extra></extra>",
        )
    figure.update_layout(xaxis={"title": unit, "type": "log"}, yaxis_title="r_mean, percent", legend=LEGEND_ABOVE)
    best_points = "; ".join(
        f"{_row_name(row)} {row['r_mean']:.1f} at {row[cost] * scale:.4g}" for row in rows_with_cost[:5]
    )
    return chart(
        f"front-{cost.split()[0]}", f"r_mean against {unit}", f"The best, with {unit}: {best_points}.", figure, 460
    )


def _convergence_charts(file: Path) -> Sequence[Chart]:
    """Return charts of val r_mean over steps and CPU seconds, with a line for each row, data set and budget."""
    if not file.is_file():
        return []
    points, charts = _means_over_sets(_read_table(file)), []
    for key, x_label in (("step", "distillation steps"), ("cpu_seconds", "CPU seconds")):
        lines: dict[str, list[tuple[float, float]]] = {}
        for point in points:
            lines.setdefault(str(point["row"]), []).append((point[key], point["r_mean"]))
        last_values = ", ".join(f"{row}: {line[-1][1]:.1f} after {line[-1][0]:.4g}" for row, line in lines.items())
        title = f"r_mean on val against {x_label}"
        caption = f"At the end, {last_values} {x_label}."
        charts.append(curves(f"convergence-{key.split('_')[0]}", title, lines, "r_mean, percent", caption, x_label))
    return charts


def _collapse_charts(file: Path) -> Sequence[Chart]:
    """Return a chart over the steps for each collapse measure, with a line for each row: the mean over its sets."""
    if not file.is_file():
        return []
    points, charts = _means_over_sets(_read_table(file)), []
    for name, description in MEASURES.items():
        key, lines = f"collapse/{name}", {}
        for point in points:
            if point.get(key) is not None:
                lines.setdefault(str(point["row"]), []).append((point["step"], point[key]))
        if lines:
            title = name.replace("_", " ")
            last_values = ", ".join(f"{row}: {line[-1][1]:.3f}" for row, line in lines.items())
            charts.append(
                curves(f"curve-{name}", title, lines, title, f"{description.capitalize()}. At the end, {last_values}.")
            )
    return charts


def _means_over_sets(points: Sequence[Record]) -> list[Record]:
    """Return the mean over the sets of a row at each step.

    With several data sets or budgets, the names of the rows also name theirs.
    """
    if len({(point["data"], point["pairs"]) for point in points}) > 1:
        points = [point | {"row": f"{point['row']} ({point['data']}, {point['pairs']})"} for point in points]
    frame = pd.DataFrame(points).drop(columns=["set"], errors="ignore").infer_objects()
    # Keep the order of the rows and sort the steps: a set misses the checks at which the student diverged.
    frame["row"] = pd.Categorical(frame["row"], categories=frame["row"].unique())
    by_step = frame.groupby(["row", "step"], observed=True)
    means = pd.DataFrame(by_step.mean(numeric_only=True)).reset_index().astype(object)
    return means.where(means.notna(), None).to_dict("records")


def _row_name(row: Record) -> str:
    name = f"{row['method']} {row['variant']}" if row.get("variant") else row["method"]
    return f"{name} {MARK}" if _as_published(row) else name


def _as_published(row: Record) -> bool:
    """Whether students of a row are chosen as the published code does; tables of earlier versions do not say."""
    return row.get("students") == "published"


def _budget_text(row: Record) -> str:
    return f"{row['budget']:.0f} pairs" if row["budget"] else "all pairs"
