"""The table of methods as Markdown, CSV and HTML.

Scores are mean ± standard deviation over sets. The best is bold, and rows not significantly below it are marked.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from raydd.code_version import code_version
from raydd.compare.rows import Row
from raydd.evaluate.bootstrap import RESAMPLES
from raydd.evaluate.published import Published, published_rows
from raydd.evaluate.retrieval import SHOWN
from raydd.evaluate.significance import LEVEL, p_values_against_best, rises
from raydd.protocols import trains
from raydd.store.files import write_whole

FILES = ("compare.md", "compare.csv", "compare.html")
COLLAPSE = ("collapse.csv", "collapse.html")
CURVES = "curves.csv"
LIKE, UNTESTED, MARK, ELSEWHERE, RISING = "≈", "°", "†", "‡", "↗"
AS_PUBLISHED_NOTE = (
    "students chosen as the method's published code does: mostly the best of 6 or 11 checks on the scored split itself."
)
_COST_COLUMNS = ("95 %", "sets", "steps", "rise", "CPU s", "s", "peak MiB", "floats", "kB")


_COST_FIELDS = ("steps", "seconds", "cpu_seconds", "peak_bytes", "stored_numbers", "stored_bytes")


@dataclass(frozen=True)
class _Table:
    """All rows of one data set and one budget, ready to be laid out."""

    title: str
    texts: pd.DataFrame
    best: pd.DataFrame
    """Whether each cell is the best of its column."""


def write_comparison(rows: Sequence[Row], failed: dict[str, str], folder: Path) -> list[Path]:
    """Write the table in all three formats, the curves and the collapse measures; return the files.

    Readers of a running comparison see whole files.

    Args:
        rows: the rows that are made so far.
        failed: rows or sets that could not be made, with the reason.
        folder: where to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = [_build_table(rows, data, pairs) for data, pairs in _data_and_budgets(rows)]
    notes = [*(_footnotes(rows) if rows else []), *(f"{name}: failed, {reason}" for name, reason in failed.items())]
    contents = _to_markdown(tables, notes), _csv_rows(rows).to_csv(index=False), _to_html(tables, notes)
    paths = [folder / name for name in FILES]
    for path, content in zip(paths, contents, strict=True):
        write_whole(path, content.encode())
    return paths + write_curves(rows, folder) + write_collapse(rows, folder)


def write_curves(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write val r_mean over steps and CPU seconds of every set as CSV; nothing if no set has a curve."""
    points = [
        {**_row_keys(row), "set": made_set.number, **point}
        for row in rows
        for made_set in row.sets
        for point in made_set.curve
    ]
    if not points:
        return []
    write_whole(folder / CURVES, pd.DataFrame(points).to_csv(index=False).encode())
    return [folder / CURVES]


def _row_keys(row: Row) -> dict[str, Any]:
    return {"data": row.plan.data, "pairs": row.plan.pairs, "row": row.plan.name}


def write_collapse(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the collapse measures over the steps as CSV, and their means over sets as a figure.

    Nothing is written if no set has collapse measures.
    """
    import plotly.express as px

    points = [
        {**_row_keys(row), "set": made_set.number, **point}
        for row in rows
        for made_set in row.sets
        for point in made_set.collapse
    ]
    if not points:
        return []
    frame, paths = pd.DataFrame(points), [folder / name for name in COLLAPSE]
    write_whole(paths[0], frame.to_csv(index=False).encode())
    frame["row"] += " (" + frame["data"] + ", " + frame["pairs"].astype(str) + ")"
    long = frame.drop(columns=["data", "pairs", "set"]).melt(["row", "step"], var_name="measure")
    long = pd.DataFrame(long.groupby(["row", "step", "measure"], sort=False).mean(numeric_only=True)).reset_index()
    long = long.sort_values("step", kind="stable")  # sets may have different steps
    long["measure"] = long["measure"].str.removeprefix("collapse/").str.replace("_", " ")
    figure = px.line(long, x="step", y="value", color="row", facet_col="measure", facet_col_wrap=2, height=1000)
    figure.update_yaxes(matches=None, showticklabels=True)
    figure.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2]))
    write_whole(paths[1], figure.to_html().encode())
    return paths


def _data_and_budgets(rows: Sequence[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row.plan.data, row.plan.pairs) for row in rows if row.plan.pairs))


def _build_table(rows: Sequence[Row], data: str, pairs: int) -> _Table:
    """Return the table of one budget, with the published scores of each method below its rows.

    Full data comes last; it is not compared with the other rows.
    """
    rivals = [row for row in rows if (row.plan.data, row.plan.pairs) == (data, pairs)]
    full = [row for row in rows if row.plan.data == data and not row.plan.pairs]
    p_values = {metric: _p_values(rivals, metric) for metric in SHOWN}
    texts, best = [], []
    for row in rivals + full:
        bold = {metric: row in rivals and _is_best(row, rivals, metric) for metric in SHOWN}
        testable = row in rivals and len(row.sets) > 1
        signs = {
            metric: _significance_sign(p_values[metric].get(row.plan.name), tested=testable and not bold[metric])
            for metric in SHOWN
        }
        texts.append(_cell_texts(row, signs))
        best.append(bold)
        for published in _published_below(row, rivals + full):
            texts.append(_published_texts(published))
            best.append({})
    columns = ["trained on", *SHOWN, *_COST_COLUMNS]
    frame = pd.DataFrame(texts, columns=columns).fillna("")
    return _Table(
        f"{data}, {pairs} pairs",
        frame,
        pd.DataFrame(best, columns=columns).astype("boolean").fillna(False).astype(bool),
    )


def _p_values(rivals: Sequence[Row], metric: str) -> dict[str, float]:
    scores = {row.plan.name: dict(zip(row.numbers, row.by_set(metric), strict=True)) for row in rivals}
    return p_values_against_best(scores)


def _is_best(row: Row, rivals: Sequence[Row], metric: str) -> bool:
    return row.mean(metric) == max(rival.mean(metric) for rival in rivals)


def _significance_sign(p: float | None, *, tested: bool) -> str:
    """Return the sign after a score. `tested`: the row should have a p-value, so it is marked if it has none."""
    if p is None:
        return f" {UNTESTED}" if tested else ""
    return f" {LIKE}" if p >= LEVEL else ""


def _cell_texts(row: Row, signs: dict[str, str]) -> dict[str, str]:
    def score(metric: str) -> str:
        std = row.std(metric)
        return f"{row.mean(metric):.1f}{'' if std is None else f' ± {std:.1f}'}{signs[metric]}"

    def cost(name: str, scale: float = 1.0) -> str:
        value = row.cost(name)
        return "" if value is None else f"{value * scale:.0f}"

    as_published = row.plan.config.compare.as_published
    return {
        "trained on": f"{row.plan.name}{f' {MARK}' if as_published else ''}",
        **{metric: score(metric) for metric in SHOWN},
        "95 %": f"{row.interval[0]:.1f} to {row.interval[1]:.1f}",
        "sets": str(len(row.sets)),
        "steps": cost("steps"),
        "rise": f"{fmean(row.rises):+.1f}{f' {RISING}' if rises(row.rises) else ''}" if row.rises else "",
        "CPU s": cost("cpu_seconds"),
        "s": cost("seconds"),
        "peak MiB": cost("peak_bytes", 2**-20),
        "floats": cost("stored_numbers"),
        "kB": cost("stored_bytes", 1e-3),
    }


def _published_below(row: Row, rows: Sequence[Row]) -> list[Published]:
    """Return the published scores to show below a row: those of its method, below the last row of the method."""
    key = row.plan.method, row.plan.data, row.plan.pairs
    last = [other for other in rows if (other.plan.method, other.plan.data, other.plan.pairs) == key][-1]
    return published_rows(*key) if row is last else []


def _published_texts(row: Published) -> dict[str, str]:
    name = f"{ELSEWHERE} published: {row.source}; {row.image_encoder} and {row.text_encoder}, protocol {row.protocol}"
    scores = {metric: f"{value:.1f}" for metric, value in row.scores.items()}
    return {"trained on": name, **scores}


def _csv_rows(rows: Sequence[Row]) -> pd.DataFrame:
    """Return one line for each row, ours and published ones, with plain numbers."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        plan = row.plan
        rivals = [other for other in rows if (other.plan.data, other.plan.pairs) == (plan.data, plan.pairs)]
        p_values = _p_values(rivals, "r_mean") if len(rivals) > 1 else {}
        line: dict[str, Any] = {
            "data": plan.data,
            "budget": plan.pairs or None,
            "method": plan.method,
            "variant": plan.variant,
            "made by": "raydd",
            "table by raydd": code_version(),
            "protocol": trains(plan.config),
            "students": plan.config.compare.choice,
            "image encoder": plan.config.encoders.image,
            "text encoder": plan.config.encoders.text,
            "split": plan.config.evaluate.split,
            "sets": len(row.sets),
            "students each": len(row.sets[0].students),
        }
        for metric in SHOWN:
            line[metric], line[f"{metric} std"] = row.mean(metric), row.std(metric)
        line["r_mean low"], line["r_mean high"] = row.interval
        line["r_mean by set"] = " ".join(f"{value:.4f}" for value in row.by_set("r_mean"))
        line["r_mean by student"] = " | ".join(
            " ".join(f"{student['r_mean']:.4f}" for student in made_set.students) for made_set in row.sets
        )
        line["p against best r_mean"] = p_values.get(plan.name)
        line |= {name.replace("_", " "): row.cost(name) for name in _COST_FIELDS}
        line["rise by set"], line["still rose"] = " ".join(f"{value:.4f}" for value in row.rises), rises(row.rises)
        line["records"] = " ".join(made_set.record for made_set in row.sets)
        lines.append(line)
        lines += [
            {
                "data": plan.data,
                "budget": plan.pairs or None,
                "method": plan.method,
                "made by": f"published: {published.source}",
                "protocol": published.protocol,
                "image encoder": published.image_encoder,
                "text encoder": published.text_encoder,
                **published.scores,
            }
            for published in _published_below(row, rows)
        ]
    return pd.DataFrame(lines)


def _footnotes(rows: Sequence[Row]) -> list[str]:
    splits = {row.plan.config.evaluate.split for row in rows}
    encoders = {f"{row.plan.config.encoders.image}, {row.plan.config.encoders.text}" for row in rows}
    protocols = {trains(row.plan.config) for row in rows}
    students = {len(made_set.students) for row in rows for made_set in row.sets}
    notes = [
        f"Percent on {' and '.join(sorted(splits))}: mean ± standard deviation over the sets of a row. The score of a "
        f"set is the mean over its {' or '.join(map(str, sorted(students)))} students. Rows of one set have no ±. "
        "Bold: the best of its column.",
        f"Encoders: {'; '.join(sorted(encoders))}. Protocol of our rows: {'; '.join(sorted(protocols))}.",
        f"95 %: interval of r_mean, by a bootstrap of {RESAMPLES} resamples over sets, students and images of the "
        "split. For rows of one set it does not include the variation between sets.",
        f"{LIKE}: not significantly below the best (t-test over the sets that both rows have, paired by their seed, "
        f"Holm's correction over all pairs of rows, p ≥ {LEVEL}). {UNTESTED}: not tested, since the row has fewer than "
        "two sets in common with the best. Rows of one set are not tested either.",
        f"rise: val r_mean in the last quarter of a distillation's checks minus val r_mean in the quarter before, mean "
        f"over sets. {RISING}: the rise is above 0 (one-sided t-test over sets, p < {LEVEL}), so more steps may give "
        "more. A cosine schedule ends flat regardless of the number of steps.",
        "steps, CPU s, s: distillation or selection of a set, mean over sets, without features, experts, warm-up and "
        "the choice of the pairs that a distillation starts from. "
        "peak MiB: peak memory of the process during it. floats and kB: size of what a student trains on; each "
        "channel of a pixel counts as one float.",
        f"{ELSEWHERE} published with other encoders, and by other protocols where the row says so. They are for "
        "orientation, not for comparison.",
    ]
    notes.append(f"Table written by raydd {code_version()}.")
    if any(row.plan.config.compare.as_published for row in rows):
        notes.append(f"{MARK} {AS_PUBLISHED_NOTE}")
    return notes


def _to_markdown(tables: Sequence[_Table], notes: Sequence[str]) -> str:
    parts = []
    for table in tables:
        bold = table.texts.where(~table.best, "**" + table.texts + "**")
        align = ("left", *("right" for _ in table.texts.columns[1:]))
        parts.append(f"## {table.title}\n\n{bold.to_markdown(index=False, colalign=align, disable_numparse=True)}\n")
    return "\n".join([*parts, *(f"- {note}" for note in notes)]) + "\n"


def _to_html(tables: Sequence[_Table], notes: Sequence[str]) -> str:
    def table_html(table: _Table) -> str:
        weights = table.best.map(lambda best: "font-weight: bold" if best else "")
        style = (
            table.texts.style.apply(lambda _: weights, axis=None)
            .hide(axis="index")
            .set_caption(html.escape(table.title))
        )
        style.format(escape="html")
        css_rules: list[Any] = [
            {"selector": "th, td", "props": "padding: 0.2em 0.7em; text-align: right; white-space: nowrap"},
            {"selector": "td.col0, th.col0", "props": "text-align: left"},
            {"selector": "caption", "props": "text-align: left; font-weight: bold; padding: 0.7em 0"},
            {"selector": "tbody tr:nth-child(odd)", "props": "background: #f4f4f4"},
        ]
        return style.set_table_styles(css_rules).to_html()

    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    body = "\n".join(map(table_html, tables))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Comparison</title>'
        f'<body style="font-family: sans-serif">{body}<ul>{items}</ul></body></html>\n'
    )
