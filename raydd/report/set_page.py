"""The page of a set, with the sweep that found it or without: results, cost, how to make it again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydd.code_version import code_version
from raydd.config import Config
from raydd.evaluate.published import published_on
from raydd.protocols import trains
from raydd.report.page import METRICS, Page, ScoreRow
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
    """The page of one set, and of the sweep that found it where `parts` has one.

    Args:
        opened: the set.
        config: the settings that make it again.
        rows: results beside each other, as of `result_rows`.
        parts: fields of the page, of `sweep_parts` and of `raydd.report.sets.set_parts`.
        title: the page's.
        share: what the set is worth beside full data, as of `share_of_full`; empty where full data has no score.
        command: what makes all of it again.
    """
    made = opened.provenance
    about = {
        "data": made.data.name,
        "pairs": str(len(opened.synthetic)),
        "encoders": f"{made.encoders.image.name}, {made.encoders.text.name}",
        "images": str(made.settings["distill.images"]),
        **parts.get("facts", {}),
    }
    cost = [
        ("distillation of this set", duration(made.seconds)),
        ("size of a student's training set", f"{made.stored_bytes / 1000:.0f} kB"),
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
            "made by raydd": made.raydd,
            "page made by raydd": code_version(),
            "data fingerprint": made.data.fingerprint,
            "synthetic set": opened.record.folder,
            "experts": made.upstream.experts or "none, its objective reads none",
            "made": opened.made,
        },
        **{**parts, "facts": about, "cost": cost},
    )


def result_rows(
    opened: OpenedSet, scores: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, Mapping[str, Any]], split: str
) -> list[ScoreRow]:
    """The set beside its baselines on one split, then the published numbers for such data, where there are any.

    Args:
        opened: the set.
        scores: its scores by split.
        baselines: scores of selections of real pairs, and of `full`, on the split.
        split: val or test.
    """
    pairs = len(opened.synthetic)
    ours = {f"{pairs} synthetic pairs": ("ours", scores[split])} if split in scores else {}
    others = {
        "all real pairs" if name == "full" else f"{pairs} {name} real pairs": ("baseline", row)
        for name, row in baselines.items()
    }
    table = sorted({**others, **ours}.items(), key=lambda item: item[1][1]["r_mean"]["mean"])
    rows = [ScoreRow(name, cells(row), kind) for name, (kind, row) in table]
    for row in published_on(opened.provenance.data.name, pairs):
        amount = f"{row.pairs} pairs" if row.pairs else "all pairs"
        note = f"published, {amount}, {row.image_encoder} and {row.text_encoder}, protocol {row.protocol}: {row.source}"
        scores_of = {metric: f"{row.scores[metric]:.1f}" for metric in METRICS}
        rows.append(ScoreRow(row.method, scores_of, "published", note))
    return rows


def cells(scores: Mapping[str, Any]) -> dict[str, str]:
    """A row of `Scores.as_json` as the table shows it."""
    return {metric: f"{scores[metric]['mean']:.1f} ± {scores[metric]['std']:.1f}" for metric in METRICS}


def final_of(folder: Path) -> Mapping[str, Any] | None:
    """The best finalist that a concluded sweep left in its folder; None before the finals, or without any."""
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
        f"Percent on {config.evaluate.split}, mean ± standard deviation over student seeds. Ours: {trains(config)}, "
        "every choice made on val."
    )
    if any(row.kind == "published" for row in rows):
        note += " Published rows have other encoders and another selection rule; they give the order of size."
    return note
