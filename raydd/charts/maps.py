"""Charts of a whole set: its similarity matrix ordered by cluster, and maps of its image and text embeddings.

Shapes: N synthetic pairs, D width of the shared space.
"""

from typing import Literal

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from torch import Tensor

from raydd.charts.chart import DIVERGING, LEGEND_ABOVE, LIGHT, MUTED, Chart, chart
from raydd.errors import ConfigError


def similarity_map(matrix: Float[Tensor, "N N"]) -> Chart | None:
    """Return a heat map of the off-diagonal similarities, with alike pairs side by side; None if all are zero."""
    off_diagonal = matrix.double().clone().fill_diagonal_(0.0).numpy()
    limit = float(np.abs(off_diagonal).max())
    if limit == 0:
        return None
    order = cluster_order(off_diagonal)
    shown = off_diagonal[np.ix_(order, order)].astype(np.float32)
    np.fill_diagonal(shown, np.nan)
    names = [str(number) for number in order]
    figure = go.Figure(
        go.Heatmap(
            z=shown,
            x=names,
            y=names,
            colorscale=DIVERGING,
            zmin=-limit,
            zmax=limit,
            colorbar={"thickness": 12, "title": {"text": "similarity", "side": "right"}},
            hovertemplate="image %{y}, text %{x}: %{z:.3f}<extra></extra>",
        )
    )
    axis = {"type": "category", "nticks": 20, "showgrid": False}
    figure.update_layout(xaxis={**axis, "title": "text"}, yaxis={**axis, "title": "image", "autorange": "reversed"})
    diagonal = matrix.diagonal()
    values = off_diagonal[~np.eye(len(off_diagonal), dtype=bool)]
    summary = (
        f"Off-diagonal similarities lie between {values.min():.2f} and {values.max():.2f}; their mean absolute value "
        f"is {np.abs(values).mean():.3f}. The diagonal is not shown; its values lie between "
        f"{float(diagonal.min()):.2f} and {float(diagonal.max()):.2f}. Pairs are ordered so that alike pairs are side "
        "by side."
    )
    return chart("similarity", "Similarity matrix", summary, figure, 520)


def cluster_order(off_diagonal: Float[NDArray, "N N"]) -> list[int]:
    """Return an order of the pairs that puts alike rows and columns side by side.

    The order is that of hierarchical clustering with average linkage and optimal leaf ordering.
    """
    rows = np.concatenate([off_diagonal, off_diagonal.T], axis=1)
    return leaves_list(linkage(rows, "average", optimal_ordering=True)).tolist()


def modality_maps(
    start: tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]],
    end: tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]],
    projection: Literal["pca", "umap"],
) -> list[Chart]:
    """Return two maps of image and text embeddings on the same axes: at the start and at the end of a distillation.

    Args:
        start: image and text embeddings, on the unit sphere, of the real pairs that the set started from.
        end: image and text embeddings of the synthetic pairs.
        projection: how to map to two dimensions: principal components of all four groups of embeddings, or UMAP.
    """
    project = pca if projection == "pca" else umap
    parts = np.split(project(torch.cat([*start, *end])), 4)
    points = np.concatenate(parts)
    low, high = points.min(0), points.max(0)
    margin = 0.06 * (high - low)
    ranges = [[float(minimum), float(maximum)] for minimum, maximum in zip(low - margin, high + margin, strict=True)]
    return [
        _modality_map(f"map-{name}", title, parts[index], parts[index + 1], ranges, projection)
        for index, name, title in ((0, "start", "At the start: real pairs"), (2, "end", "At the end: synthetic pairs"))
    ]


def pca(rows: Float[Tensor, "M D"]) -> Float[NDArray, "M 2"]:
    """Return the rows' first two principal components, signed so that the largest coordinate is positive."""
    centred = (rows - rows.mean(0)).double()
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    points = left[:, :2] * values[:2]
    return (points * points.gather(0, points.abs().argmax(0, keepdim=True)).sign()).numpy()


def umap(rows: Float[Tensor, "M D"]) -> Float[NDArray, "M 2"]:
    """Project the rows to two dimensions by UMAP with the cosine metric.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from umap import UMAP  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise ConfigError("--map umap needs the package umap-learn. Run `pip install 'raydd[umap]'`.") from error
    # With a fixed seed UMAP uses a single job, and warns if it is given more.
    return np.asarray(UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(rows.numpy()), dtype=np.float64)


def _modality_map(
    id: str,
    title: str,
    images: Float[NDArray, "N 2"],
    texts: Float[NDArray, "N 2"],
    ranges: list[list[float]],
    projection: str,
) -> Chart:
    figure = go.Figure()
    gaps = np.full(len(images), np.nan)
    figure.add_scatter(
        x=np.stack([images[:, 0], texts[:, 0], gaps], 1).ravel(),
        y=np.stack([images[:, 1], texts[:, 1], gaps], 1).ravel(),
        mode="lines",
        line={"color": MUTED, "width": 0.6},
        opacity=0.5,
        hoverinfo="skip",
        showlegend=False,
    )
    for name, points, colour, symbol in (("image", images, LIGHT[0], "circle"), ("text", texts, LIGHT[1], "diamond")):
        figure.add_scatter(
            x=points[:, 0],
            y=points[:, 1],
            customdata=np.arange(len(points)),
            mode="markers",
            name=f"{name}s",
            marker={"color": colour, "size": 7, "symbol": symbol},
            hovertemplate=f"{name} %{{customdata}}<extra></extra>",
        )
    axis_name = {"pca": "principal component", "umap": "UMAP"}[projection]
    note = "" if projection == "pca" else " UMAP keeps neighbours, not distances. The table below measures the gap."
    figure.update_layout(
        xaxis={"range": ranges[0], "title": f"{axis_name} 1"},
        yaxis={"range": ranges[1], "title": f"{axis_name} 2"},
        legend=LEGEND_ABOVE,
    )
    centre_distance = float(np.linalg.norm(images.mean(0) - texts.mean(0)))
    summary = (
        f"{len(images)} images and {len(texts)} texts, with a line from each image to its text. In this plane the "
        f"distance between the two centres is {centre_distance:.2f}; the spread of the images is "
        f"{_rms_spread(images):.2f}, that of the texts {_rms_spread(texts):.2f}.{note}"
    )
    return chart(id, title, summary, figure, 420)


def _rms_spread(points: Float[NDArray, "N 2"]) -> float:
    return float(np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()))
