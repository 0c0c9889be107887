"""The table of methods as Markdown, CSV and HTML: mean ± standard deviation, the best bold, its equals marked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from raydd.code_version import code_version
from raydd.compare.cells import Row
from raydd.evaluate.published import Published, published_rows
from raydd.evaluate.significance import LEVEL, p_values_against_best
from raydd.protocols import trains
from raydd.terminal.text import COLUMNS

FILES = ("compare.md", "compare.csv", "compare.html")
COLLAPSE = ("collapse.csv", "collapse.html")
LIKE, MARK, ELSEWHERE = "≈", "†", "‡"
_COST = ("seconds", "peak MiB", "kB")


@dataclass(frozen=True)
class _Table:
    """All rows of one data set and one budget, ready to be laid out."""

    title: str
    texts: pd.DataFrame
    best: pd.DataFrame
    """Whether each cell holds its column's best."""


def write_comparison(rows: Sequence[Row], failed: dict[str, str], folder: Path) -> list[Path]:
    """Write the table in all three forms.

    Args:
        rows: those that are made.
        failed: rows that are not to be had, with the reason.
        folder: where to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = [_table(rows, data, pairs) for data, pairs in _groups(rows)]
    notes = [*_notes(rows), *(f"{name}: failed, {reason}" for name, reason in failed.items())]
    contents = _markdown(tables, notes), _records(rows).to_csv(index=False), _html(tables, notes)
    paths = [folder / name for name in FILES]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content, encoding="utf-8")
    return paths + write_collapse(rows, folder)


def write_collapse(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Collapse measures over the steps of every synthetic set, as CSV and as a figure; nothing where there are none."""
    import plotly.express as px

    points = [
        {"data": row.cell.data, "pairs": row.cell.pairs, "row": row.cell.name, **point}
        for row in rows
        for point in row.collapse
    ]
    if not points:
        return []
    frame, paths = pd.DataFrame(points), [folder / name for name in COLLAPSE]
    frame.to_csv(paths[0], index=False)
    frame["row"] += " (" + frame["data"] + ", " + frame["pairs"].astype(str) + ")"
    long = frame.drop(columns=["data", "pairs"]).melt(["row", "step"], var_name="measure")
    long["measure"] = long["measure"].str.removeprefix("collapse/").str.replace("_", " ")
    figure = px.line(long, x="step", y="value", color="row", facet_col="measure", facet_col_wrap=2, height=1000)
    figure.update_yaxes(matches=None, showticklabels=True)
    figure.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2]))
    figure.write_html(paths[1])
    return paths


def _groups(rows: Sequence[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row.cell.data, row.cell.pairs) for row in rows if row.cell.pairs))


def _table(rows: Sequence[Row], data: str, pairs: int) -> _Table:
    """The rows of a budget, each with its published one below; full data, which is no rival, at the end."""
    rivals = [row for row in rows if (row.cell.data, row.cell.pairs) == (data, pairs)]
    full = [row for row in rows if row.cell.data == data and not row.cell.pairs]
    p_values = {metric: _p_values(rivals, metric) for metric in COLUMNS}
    texts, best = [], []
    for row in rivals + full:
        texts.append(_texts(row, {metric: p_values[metric].get(row.cell.name) for metric in COLUMNS}))
        best.append({metric: row in rivals and _is_best(row, rivals, metric) for metric in COLUMNS})
        for published in published_rows(row.cell.method, data, pairs if row in rivals else 0):
            texts.append(_published_texts(published))
            best.append({})
    columns = ["trained on", *COLUMNS, *_COST]
    frame = pd.DataFrame(texts, columns=columns).fillna("")
    return _Table(
        f"{data}, {pairs} pairs",
        frame,
        pd.DataFrame(best, columns=columns).astype("boolean").fillna(False).astype(bool),
    )


def _p_values(rivals: Sequence[Row], metric: str) -> dict[str, float]:
    return p_values_against_best({row.cell.name: row.seeds[metric] for row in rivals})


def _is_best(row: Row, rivals: Sequence[Row], metric: str) -> bool:
    return fmean(row.seeds[metric]) == max(fmean(rival.seeds[metric]) for rival in rivals)


def _texts(row: Row, p_values: dict[str, float | None]) -> dict[str, str]:
    def score(metric: str) -> str:
        p = p_values[metric]
        like = f" {LIKE}" if p is not None and p >= LEVEL else ""
        return f"{fmean(row.seeds[metric]):.1f} ± {_std(row.seeds[metric]):.1f}{like}"

    marked = row.cell.config.compare.as_published
    return {
        "trained on": f"{row.cell.name}{f' {MARK}' if marked else ''}",
        **{metric: score(metric) for metric in COLUMNS},
        "seconds": "" if row.seconds is None else f"{row.seconds:.0f}",
        "peak MiB": "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f}",
        "kB": f"{row.stored_bytes / 1000:.0f}",
    }


def _published_texts(row: Published) -> dict[str, str]:
    name = f"{ELSEWHERE} published: {row.source}; {row.image_encoder} and {row.text_encoder}, protocol {row.protocol}"
    scores = {metric: f"{value:.1f}" for metric, value in row.scores.items()}
    return {"trained on": name, **scores}


def _records(rows: Sequence[Row]) -> pd.DataFrame:
    """One line a row, ours and published ones, with plain numbers."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        cell = row.cell
        rivals = [other for other in rows if (other.cell.data, other.cell.pairs) == (cell.data, cell.pairs)]
        p_values = _p_values(rivals, "r_mean") if len(rivals) > 1 else {}
        line: dict[str, Any] = {
            "data": cell.data,
            "budget": cell.pairs or None,
            "method": cell.method,
            "variant": cell.variant,
            "made by": "raydd",
            "protocol": trains(cell.config),
            "students": cell.config.compare.choice,
            "image encoder": cell.config.encoders.image,
            "text encoder": cell.config.encoders.text,
            "split": cell.config.evaluate.split,
            "seeds": len(row.seeds["r_mean"]),
        }
        for metric in COLUMNS:
            line[metric], line[f"{metric} std"] = fmean(row.seeds[metric]), _std(row.seeds[metric])
        line["r_mean by seed"] = " ".join(f"{value:.4f}" for value in row.seeds["r_mean"])
        line["p against best r_mean"] = p_values.get(cell.name)
        line |= {"seconds": row.seconds, "peak bytes": row.peak_bytes, "stored bytes": row.stored_bytes}
        line["record"] = row.record
        lines.append(line)
        lines += [
            {
                "data": cell.data,
                "budget": cell.pairs or None,
                "method": cell.method,
                "made by": f"published: {published.source}",
                "protocol": published.protocol,
                "image encoder": published.image_encoder,
                "text encoder": published.text_encoder,
                **published.scores,
            }
            for published in published_rows(cell.method, cell.data, cell.pairs)
        ]
    return pd.DataFrame(lines)


def _notes(rows: Sequence[Row]) -> list[str]:
    splits = {row.cell.config.evaluate.split for row in rows}
    seeds = {len(row.seeds["r_mean"]) for row in rows}
    notes = [
        f"Percent on {' and '.join(sorted(splits))}, mean ± standard deviation of "
        f"{' or '.join(map(str, sorted(seeds)))} student seeds; bold is the best of its column.",
        f"{LIKE}: not significantly below the best (paired t-test over seeds, Holm's correction, p ≥ {LEVEL}).",
        "seconds: of the distillation or the choice, features, experts and warm-up not counted; peak MiB: of the "
        "process meanwhile; kB: what a student trains on.",
        f"{ELSEWHERE} published with other encoders, and by other protocols where it says so: for orientation, "
        "not to compare.",
    ]
    notes.append(f"Table written by raydd {code_version()}.")
    if any(row.cell.config.compare.as_published for row in rows):
        notes.append(f"{MARK} chosen as published: the best of six checks on the scored split itself.")
    return notes


def _markdown(tables: Sequence[_Table], notes: Sequence[str]) -> str:
    parts = []
    for table in tables:
        bold = table.texts.where(~table.best, "**" + table.texts + "**")
        align = ("left", *("right" for _ in table.texts.columns[1:]))
        parts.append(f"## {table.title}\n\n{bold.to_markdown(index=False, colalign=align, disable_numparse=True)}\n")
    return "\n".join([*parts, *(f"- {note}" for note in notes)]) + "\n"


def _html(tables: Sequence[_Table], notes: Sequence[str]) -> str:
    def styled(table: _Table) -> str:
        weights = table.best.map(lambda best: "font-weight: bold" if best else "")
        style = table.texts.style.apply(lambda _: weights, axis=None).hide(axis="index").set_caption(table.title)
        style.format(escape="html")
        lines: list[Any] = [
            {"selector": "th, td", "props": "padding: 0.2em 0.7em; text-align: right; white-space: nowrap"},
            {"selector": "td.col0, th.col0", "props": "text-align: left"},
            {"selector": "caption", "props": "text-align: left; font-weight: bold; padding: 0.7em 0"},
            {"selector": "tbody tr:nth-child(odd)", "props": "background: #f4f4f4"},
        ]
        return style.set_table_styles(lines).to_html()

    items = "".join(f"<li>{note}</li>" for note in notes)
    body = "\n".join(map(styled, tables))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Comparison</title>'
        f'<body style="font-family: sans-serif">{body}<ul>{items}</ul></body></html>\n'
    )


def _std(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0
