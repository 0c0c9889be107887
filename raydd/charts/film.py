"""A film of a distillation: image and text embeddings in one plane, step by step, as an animated PNG."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raydd.charts.chart import LIGHT
from raydd.charts.maps import pca

MILLISECONDS = 250  # how long each frame is shown; the last frame is shown longer

Embeddings = tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]


def film(states: Sequence[Embeddings]) -> bytes:
    """Return the states as an animated PNG, all in the plane of their common principal components."""
    count = len(states[0][0])
    points = pca(torch.cat([part for state in states for part in state]))
    split = np.split(points, 2 * len(states))
    low, high = points.min(0), points.max(0)
    pictures = [
        _frame(split[2 * number], split[2 * number + 1], low, high, f"{count} pairs, state {number + 1}/{len(states)}")
        for number in range(len(states))
    ]
    buffer = io.BytesIO()
    durations = [MILLISECONDS] * (len(pictures) - 1) + [8 * MILLISECONDS]
    pictures[0].save(
        buffer, format="PNG", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True
    )
    return buffer.getvalue()


def address(content: bytes) -> str:
    """Return the film as a `data:` URL."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _frame(
    images: Float[NDArray, "N 2"],
    texts: Float[NDArray, "N 2"],
    low: Float[NDArray, "2"],
    high: Float[NDArray, "2"],
    title: str,
) -> Image.Image:
    figure = Figure(figsize=(5, 5), dpi=96, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    for image, text in zip(images, texts, strict=True):
        axes.plot(*zip(image, text, strict=True), color="#6b7280", linewidth=0.4)
    axes.scatter(*images.T, s=16, color=LIGHT[0], label="images")
    axes.scatter(*texts.T, s=16, color=LIGHT[1], marker="D", label="texts")
    margin = 0.05 * (high - low)
    axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    axes.set_title(title, fontsize=10)
    axes.legend(loc="upper right", fontsize=8)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
