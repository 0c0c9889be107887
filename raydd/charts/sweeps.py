"""Charts of a sweep, by Plotly and Optuna: history, importance, slices, parallel coordinates, Pareto fronts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go

from raydd.charts.chart import LEGEND_ABOVE, LIGHT, MUTED, RAMP, Chart, chart
from raydd.charts.trials import Trial, best_first, front

SCORE = "val r_mean, percent"
SHOWN = 6  # number of settings, the most important ones, that get a slice plot and an axis of parallel coordinates
BEST_FRACTION = 0.3  # fraction of the trials that the parallel coordinates show; the others would hide the best ones


def _hover_text(settings: Mapping[str, Any]) -> str:
    """Return the settings for a hover text, one on each line."""

    def format_value(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return "<br>".join(f"{name.removeprefix('distill.')} {format_value(value)}" for name, value in settings.items())


def history(trials: Sequence[Trial]) -> Chart | None:
    """Return a chart of val r_mean over trial number, stopped trials at their last score; None below two scores."""
    complete = [trial for trial in trials if trial.state == "complete"]
    stopped = [trial for trial in trials if trial.state == "stopped" and math.isfinite(trial.r_mean)]
    if len(complete) + len(stopped) < 2:
        return None
    figure = go.Figure()
    cross = {"color": MUTED, "size": 7, "symbol": "x-thin", "line": {"width": 2, "color": MUTED}}
    for name, chosen, marker in (
        ("complete", complete, {"color": LIGHT[0], "size": 7}),
        ("stopped as weak", stopped, cross),
    ):
        figure.add_scatter(
            x=[trial.number for trial in chosen],
            y=[trial.r_mean for trial in chosen],
            text=[_hover_text(trial.settings) for trial in chosen],
            mode="markers",
            name=name,
            marker=marker,
            hovertemplate="trial %{x}: %{y:.2f}<br>%{text}<extra></extra>",
        )
    best = np.maximum.accumulate([trial.r_mean for trial in complete]) if complete else []
    figure.add_scatter(
        x=[trial.number for trial in complete],
        y=best,
        mode="lines",
        name="best so far",
        line={"color": LIGHT[1], "shape": "hv"},
        hoverinfo="skip",
    )
    figure.update_layout(xaxis_title="trial", yaxis_title=SCORE, legend=LEGEND_ABOVE)
    first = best_first(trials)[:1]
    summary = f"Val r_mean of each trial: {len(complete)} complete" + (
        f", {len(stopped)} stopped as weak and shown with their last score." if stopped else "."
    )
    if first:
        summary += f" Best: trial {first[0].number} with {first[0].r_mean:.2f} percent on val."
    return chart("history", "History", summary, figure)


def importance(shares: Mapping[str, float]) -> Chart:
    """Return a bar chart of the settings' importance."""
    names = list(shares)[:12][::-1]
    figure = go.Figure(
        go.Bar(
            x=[shares[name] for name in names],
            y=[name.removeprefix("distill.") for name in names],
            orientation="h",
            marker={"color": LIGHT[0]},
            texttemplate="%{x:.2f}",
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    figure.update_layout(xaxis_title="importance", yaxis={"automargin": True})
    words = ", ".join(f"{name} {shares[name]:.2f}" for name in names[::-1][:4])
    words = (
        "How strongly each setting separates the best tenth of the trials from all trials (PED-ANOVA). Most important: "
        f"{words}."
    )
    return chart("importance", "Which settings matter", words, figure, 120 + 24 * len(names))


def slices(study: optuna.Study, objectives: Sequence[str], shares: Mapping[str, float]) -> list[Chart]:
    """Return one chart of val r_mean for each of the most important settings; later trials are darker."""
    position = list(objectives).index("r_mean")
    charts = []
    for number, name in enumerate(list(shares)[:SHOWN]):
        figure = optuna.visualization.plot_slice(
            study, [name], target=lambda trial: trial.values[position], target_name=SCORE
        )
        figure.update_traces(
            marker={"colorscale": RAMP, "showscale": False, "size": 7},
            hovertemplate="trial %{marker.color}: %{y:.2f}<br>%{x}<extra></extra>",
        )
        charts.append(chart(f"slice-{number}", name, f"Val r_mean over {name}, one point for each trial.", figure, 300))
    return charts


def parallel(trials: Sequence[Trial], shares: Mapping[str, float]) -> Chart | None:
    """Return the best trials as lines over the most important settings; None for fewer than two settings.

    Plotly's own parallel coordinates are used because they draw a thousand lines at once and let the reader select
    lines by dragging along an axis.
    """
    chosen = best_first(trials)
    chosen = chosen[: max(20, round(BEST_FRACTION * len(chosen)))]
    names = [name for name in list(shares)[:SHOWN] if all(name in trial.settings for trial in chosen)]
    if len(names) < 2:
        return None
    scores = [trial.r_mean for trial in chosen]
    figure = go.Figure(
        go.Parcoords(
            dimensions=[
                *(_parallel_axis(name, [trial.settings[name] for trial in chosen]) for name in names),
                {"label": "r_mean", "values": scores},
            ],
            line={"color": scores, "colorscale": RAMP},
        )
    )
    return chart(
        "parallel",
        "Settings together",
        f"The {len(chosen)} best trials as lines over {', '.join(names)} and r_mean. Drag along an axis to select.",
        figure,
        380,
    )


def pareto(trials: Sequence[Trial], cost: str) -> Chart | None:
    """Return a chart of val r_mean against seconds or bytes, with a line along the Pareto front.

    None if the trials have fewer than two different costs.
    """
    best = front(trials, cost)
    priced = [trial for trial in trials if trial.state == "complete" and math.isfinite(getattr(trial, cost))]
    if len({getattr(trial, cost) for trial in priced}) < 2:
        return None
    beaten = [trial for trial in priced if trial not in best]
    unit, scale = {"seconds": ("seconds of distillation", 1.0), "bytes": ("size of the set, kB", 1e-3)}[cost]
    figure = go.Figure()
    points = {"mode": "markers", "marker": {"color": MUTED, "size": 6, "opacity": 0.6}}
    joined = {"mode": "lines+markers", "marker": {"color": LIGHT[1], "size": 9}, "line": {"shape": "hv"}}
    for name, chosen, style in (("beaten", beaten, points), ("Pareto front", best, joined)):
        figure.add_scatter(
            x=[getattr(trial, cost) * scale for trial in chosen],
            y=[trial.r_mean for trial in chosen],
            customdata=[trial.number for trial in chosen],
            text=[_hover_text(trial.settings) for trial in chosen],
            name=name,
            hovertemplate="trial %{customdata}: %{y:.2f} at %{x:.4g}<br>%{text}<extra></extra>",
            **style,
        )
    figure.update_layout(xaxis_title=unit, yaxis_title=SCORE, legend=LEGEND_ABOVE)
    words = "; ".join(
        f"trial {trial.number}: {trial.r_mean:.1f} percent at {getattr(trial, cost) * scale:.4g}" for trial in best[:6]
    )
    return chart(
        f"front-{cost}",
        f"r_mean against {cost}",
        f"Trials that no other trial beats in both. With {unit}: {words}.",
        figure,
    )


def _parallel_axis(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return one axis of the parallel coordinates.

    Words are shown by name. Numbers that span more than a factor of 20 are shown by their logarithm.
    """
    label = name.removeprefix("distill.")
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        if low > 0 and high / low > 20:
            ticks = np.unique(np.round(np.linspace(math.log10(low), math.log10(high), 5), 2))
            text = [f"{10**tick:.2g}" for tick in ticks]
            return {"label": label, "values": np.log10(values), "tickvals": ticks, "ticktext": text}
        return {"label": label, "values": values}
    words = sorted(map(str, set(values)))
    positions = [words.index(str(value)) for value in values]
    return {"label": label, "values": positions, "tickvals": list(range(len(words))), "ticktext": words}
