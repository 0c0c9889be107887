"""The content of the page, and its rendering as one HTML file that needs neither a server nor the network."""

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline

from raydd.charts.chart import Chart
from raydd.evaluate.retrieval import RECALLS
from raydd.report.gallery import AMPLIFIED, ShownPair
from raydd.tuning.pruning import RungForecast


@dataclass(frozen=True)
class ScoreRow:
    """One row of the table of results, in percent."""

    name: str
    scores: Mapping[str, str]
    """Metric to `12.3 ± 0.4`, or to `12.3` if the deviation is unknown."""
    kind: str = "ours"
    """ours, baseline or published."""
    note: str = ""
    """How the row differs from others, for example encoders and protocol of a published row."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that the page shows; empty fields are left out."""

    title: str
    lead: str
    """The main result in one sentence, below the title."""
    details: str = ""
    """The scores that the lead is based on."""
    facts: Mapping[str, str]
    """Short facts below the lead: name to value."""
    results: Sequence[ScoreRow] = ()
    results_note: str = ""
    history: Chart | None = None
    search_note: str = ""
    """Says which results are not shown because the search has too few trials."""
    rungs: Sequence[RungForecast] = ()
    importance: Chart | None = None
    slices: Sequence[Chart] = ()
    parallel: Chart | None = None
    fronts: Sequence[Chart] = ()
    choices: Sequence[Mapping[str, Any]] = ()
    trials: Sequence[Mapping[str, Any]] = ()
    """Rows of the trials' table: number, state, r_mean, seconds, kilobytes, settings."""
    failures: Sequence[Mapping[str, Any]] = ()
    convergence: Sequence[Chart] = ()
    collapse: Sequence[Chart] = ()
    collapse_table: Sequence[Mapping[str, Any]] = ()
    maps: Sequence[Chart] = ()
    similarity: Chart | None = None
    pairs: Sequence[ShownPair] = ()
    pairs_note: str = ""
    film: str = ""
    """A film of the distillation as a `data:` URL."""
    film_words: str = ""
    cost: Sequence[tuple[str, str]] = ()
    commands: Sequence[str] = ()
    configuration: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


ON_TOP = 6  # number of pairs at the top of the page
AT_FIRST = 12  # number of pairs in the gallery that are shown at first; the others appear on demand and in print
METRICS = ("r_mean", *RECALLS)  # r_mean first: a phone shows two columns


def write_page(page: Page, path: Path) -> Path:
    """Write the page to a file, whose folder is created if it is missing, and return the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(page), encoding="utf-8")
    return path


def render(page: Page) -> str:
    """Return the page as HTML. If it has a chart, it includes Plotly's script once, compressed."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raydd.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html.j2")
    charts = [
        page.history, page.importance, *page.slices, page.parallel, *page.fronts, *page.convergence, *page.collapse,
        *page.maps, page.similarity,
    ]  # fmt: skip
    return template.render(
        page=page,
        metrics=METRICS,
        on_top=ON_TOP,
        at_first=AT_FIRST,
        amplified=AMPLIFIED,
        plotly=_packed_plotly() if any(charts) else "",
    )


@cache
def _packed_plotly() -> str:
    """Return Plotly's script in gzip and Base64 (2 MB instead of 5), which page.js unpacks."""
    return base64.b64encode(gzip.compress(plotly.offline.get_plotlyjs().encode(), mtime=0)).decode()
