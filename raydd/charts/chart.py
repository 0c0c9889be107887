"""Plotly charts for the page of a report, each with a text summary for readers who cannot see it.

Charts use the colours of `LIGHT`. In dark mode the page's script replaces them by dark-mode colours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

# Okabe and Ito's colours, which colour-blind readers can tell apart, darkened to a contrast of 3:1 on white. page.js
# has the dark-mode colours.
LIGHT = ("#0a6aa8", "#b8560a", "#00785a", "#a8427f", "#6a5acd", "#8a6d00")
MUTED = "#6b7280"
RAMP = [[0.0, "#9ec9ec"], [1.0, "#08306b"]]  # early to late trials, low to high scores
DIVERGING = [[0.0, "#2166ac"], [0.5, "#f7f7f7"], [1.0, "#b2182b"]]
LEGEND_ABOVE = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


@dataclass(frozen=True)
class Chart:
    """A Plotly figure with its title and text summary."""

    id: str
    title: str
    summary: str
    """What the chart shows, for readers who cannot see it."""
    figure: str
    """Plotly's JSON, as the page embeds it."""
    height: int = 380
    """Pixels."""


def chart(id: str, title: str, summary: str, figure: go.Figure, height: int = 380) -> Chart:
    """Return a chart for the page, without Plotly's own title and template, which the page's style replaces."""
    figure.update_layout(template="none", title=None, margin={"l": 56, "r": 16, "t": 16, "b": 48}, autosize=True)
    figure.layout.width = None
    text = figure.to_json() or ""
    return Chart(id, title, summary, text.replace("</", "<\\/"), height)


def curves(
    id: str,
    title: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    y_title: str,
    summary: str,
    x_title: str = "distillation step",
) -> Chart:
    """Return a chart with one line for each name, over distillation steps or over the quantity that `x_title` names."""
    figure = go.Figure()
    for number, (name, points) in enumerate(lines.items()):
        figure.add_scatter(
            x=[step for step, _ in points],
            y=[value for _, value in points],
            name=name,
            mode="lines+markers",
            line={"color": LIGHT[number % len(LIGHT)], "dash": ("solid", "dash", "dot")[number // len(LIGHT) % 3]},
            hovertemplate=f"{name}, {x_title} %{{x}}: %{{y:.3f}}<extra></extra>",
        )
    figure.update_layout(xaxis_title=x_title, yaxis_title=y_title, showlegend=True, legend=LEGEND_ABOVE)
    return chart(id, title, summary, figure, 320)
