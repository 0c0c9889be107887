"""The page of a set, with or without the sweep that found it: results, cost, and how to make the set again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydd.code_version import code_version
from raydd.config import Config
from raydd.evaluate.published import published_on
from raydd.protocols import trains
from raydd.report.page import METRICS, Page, ScoreRow
from raydd.sets.provenance import selection_rule
from raydd.sets.read import OpenedSet
from raydd.settings import to_yaml
from raydd.terminal.text import duration


def set_page(
    opened: OpenedSet,
    config: Config,
    rows: Sequence[ScoreRow],
    parts: Mapping[str, Any],
    *,
    title: str,
    share: str,
    command: str,
) -> Page:
    """Return the page of one set; it shows the sweep that found the set if `parts` has the fields of a sweep.

    Args:
        opened: the set.
        config: the settings that make the set again.
        rows: rows of the table of results, see `result_rows`.
        parts: fields of the page, from `sweep_parts` and `raydd.report.sets.set_parts`.
        title: title of the page.
        share: a sentence that compares the set with full data, see `share_of_full`; empty if full data has no score.
        command: the command that makes the set or the sweep again.
    """
    provenance = opened.provenance
    facts = {
        "data": provenance.data.name,
        "pairs": str(len(opened.synthetic)),
        "encoders": f"{provenance.encoders.image.name}, {provenance.encoders.text.name}",
        "images": str(provenance.settings.get("distill.images", config.distill.images)),
        **parts.get("facts", {}),
    }
    cost = [
        ("distillation of this set", duration(provenance.seconds)),
        ("size of a student's training set", f"{provenance.stored_bytes / 1000:.0f} kB"),
        *parts.get("cost", []),
    ]
    return Page(
        title=title,
        lead=share or f"{opened.title.capitalize()}.",
        details=_details(rows, config.evaluate.split),
        results=rows,
        results_note=_results_note(config, rows),
        commands=(command,),
        configuration=to_yaml(config),
        provenance={
            "made by raydd": provenance.raydd,
            "page made by raydd": code_version(),
            "data fingerprint": provenance.data.fingerprint,
            "synthetic set": opened.record.folder,
            "experts": provenance.upstream.experts or "none: the objective needs no experts",
            "made": opened.made,
            "computed on": provenance.device or "not recorded",
        },
        **{**parts, "facts": facts, "cost": cost},
    )


def result_rows(
    opened: OpenedSet, scores: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]
) -> list[ScoreRow]:
    """Return rows for the set and its baselines, then for published numbers on the same data, if any.

    Args:
        opened: the set.
        scores: the set's scores.
        baselines: scores of selections of real pairs, and of `full`, on the same split.
    """
    pairs = len(opened.synthetic)
    set_rows = {f"{pairs} synthetic pairs": ("ours", scores)}
    baseline_rows = {
        "all real pairs" if name == "full" else f"{pairs} {name} real pairs": ("baseline", row)
        for name, row in baselines.items()
    }
    table = sorted({**baseline_rows, **set_rows}.items(), key=lambda item: item[1][1]["r_mean"]["mean"])
    rows = [ScoreRow(name, cells(row), kind) for name, (kind, row) in table]
    for row in published_on(opened.provenance.data.name, pairs):
        amount = f"{row.pairs} pairs" if row.pairs else "all pairs"
        note = f"published, {amount}, {row.image_encoder} and {row.text_encoder}, protocol {row.protocol}: {row.source}"
        formatted = {metric: f"{row.scores[metric]:.1f}" for metric in METRICS}
        rows.append(ScoreRow(row.method, formatted, "published", note))
    return rows


def cells(scores: Mapping[str, Any]) -> dict[str, str]:
    """Format a row of `Scores.as_json` for the table."""
    return {metric: f"{scores[metric]['mean']:.1f} ± {scores[metric]['std']:.1f}" for metric in METRICS}


def best_finalist(folder: Path) -> Mapping[str, Any] | None:
    """Return the best finalist from the folder of a finished sweep; None if there are no finals, or not yet."""
    file = folder / "result.json"
    if not file.is_file():
        return None
    finalists = json.loads(file.read_text(encoding="utf-8"))["finalists"]
    return finalists[0] if finalists else None


def _details(rows: Sequence[ScoreRow], split: str) -> str:
    means = [f"{row.scores['r_mean']} for {row.name}" for row in reversed(rows) if row.kind != "published"]
    return f"r_mean on {split}, in percent: {', '.join(means)}."


def _results_note(config: Config, rows: Sequence[ScoreRow]) -> str:
    note = (
        f"Percent on {config.evaluate.split}, mean ± standard deviation over student seeds. Protocol of our rows: "
        f"{trains(config)}. {selection_rule(config)}"
    )
    if any(row.kind == "published" for row in rows):
        note += " Published rows use other encoders and another selection rule; they only give the order of magnitude."
    return note
