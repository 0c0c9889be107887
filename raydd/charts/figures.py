"""Figures of synthetic sets and of sweeps, drawn by Matplotlib without a display."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from raydd.data import Pairs, open_pixels
from raydd.distill.synthetic import SyntheticSet

COLUMNS = 8  # pairs in the picture of a set
_PICTURE_WIDTH = 1.6  # width of one picture in inches
_LOW_ROW_SIZE, _MAX_IN_ROW = 0.75, 10  # in `row_of_images`: size of one picture in inches, and the most pictures
_CAPTION_WIDTH, _CAPTION_LINES = 24, 4


def pairs_picture(synthetic: SyntheticSet, train: Pairs, size: int) -> Figure:
    """Draw the first pairs with their start captions. A set without pixels shows its start images twice.

    Args:
        synthetic: the set.
        train: the training pairs that it started from.
        size: side of the images in pixels.
    """
    count = min(COLUMNS, len(synthetic))
    start = open_pixels([train.images[index] for index in synthetic.start_images[:count].tolist()], size)
    captions = [train.captions[int(index)] for index in synthetic.start_captions[:count]]
    pixels = start if synthetic.pixels is None else synthetic.pixels[:count]
    return synthetic_pairs(start.numpy(), pixels.numpy(), captions, count)


def synthetic_pairs(
    start: UInt8[NDArray, "N 3 H W"],
    synthetic: UInt8[NDArray, "N 3 H W"],
    captions: Sequence[str],
    columns: int = COLUMNS,
) -> Figure:
    """Draw the first synthetic images, each below the real image that it started from and above its caption."""
    count = min(columns, len(synthetic))
    figure = Figure(figsize=(_PICTURE_WIDTH * count, 2.9 * _PICTURE_WIDTH), layout="constrained")
    for row, (name, pixels) in enumerate((("start", start), ("synthetic", synthetic))):
        for column in range(count):
            axes = figure.add_subplot(2, count, row * count + column + 1)
            axes.imshow(pixels[column].transpose(1, 2, 0))
            _hide_axes(axes)
            if column == 0:
                axes.set_ylabel(name)
            if row == 1:
                lines = textwrap.wrap(captions[column], _CAPTION_WIDTH)[:_CAPTION_LINES]
                axes.set_xlabel("\n".join(lines), fontsize=6)
    return figure


def row_of_images(images: UInt8[NDArray, "N 3 H W"]) -> Figure:
    """Draw the first images in one low row, for places that show only a few lines."""
    shown = images[:_MAX_IN_ROW]
    figure = Figure(figsize=(_LOW_ROW_SIZE * len(shown), _LOW_ROW_SIZE), layout="constrained")
    for column, image in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), column + 1)
        axes.imshow(image.transpose(1, 2, 0))
        _hide_axes(axes)
    return figure


def similarity_matrix(matrix: Float[NDArray, "N N"]) -> Figure:
    """Draw the similarity matrix, and next to it the matrix without its diagonal, whose values hide the others."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    off_diagonal = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    for column, (title, values) in enumerate((("similarity", matrix), ("off the diagonal", off_diagonal))):
        axes = figure.add_subplot(1, 2, column + 1)
        limit = float(np.nanmax(np.abs(values), initial=1e-12))
        image = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set(title=title, xlabel="text", ylabel="image")
        figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def curves(points: Sequence[Mapping[str, float]], prefix: str) -> Figure:
    """Draw the metrics whose names begin with `prefix` over the distillation steps, in one panel for each metric."""
    names = sorted({name for point in points for name in point if name.startswith(prefix)})
    figure = Figure(figsize=(3.2 * max(1, min(4, len(names))), 2.4 * max(1, -(-len(names) // 4))), layout="constrained")
    for position, name in enumerate(names):
        axes = figure.add_subplot(-(-len(names) // 4), min(4, len(names)), position + 1)
        curve = [(point["step"], point[name]) for point in points if name in point]
        axes.plot(*zip(*curve, strict=True), marker=".")
        axes.set_title(name.removeprefix(prefix), fontsize=9)
        axes.set_xlabel("step", fontsize=8)
    return figure


def search_history(scores: Mapping[int, float], stopped: Mapping[int, float]) -> Figure:
    """Draw val r_mean of each trial over its number, and the best so far as a line.

    A stopped trial is shown with its last score.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    numbers = sorted(scores)
    axes.scatter(numbers, [scores[number] for number in numbers], label="complete")
    axes.scatter(list(stopped), list(stopped.values()), marker="x", color="grey", label="stopped as weak")
    if numbers:
        axes.step(numbers, np.maximum.accumulate([scores[number] for number in numbers]), where="post", label="best")
    axes.set(xlabel="trial", ylabel="val r_mean, percent")
    axes.legend()
    return figure


def importance(shares: Mapping[str, float]) -> Figure:
    """Draw bars that show how much each setting decides whether a trial is among the best tenth on val."""
    names = sorted(shares, key=lambda name: shares[name])
    figure = Figure(figsize=(7, 0.8 + 0.3 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(names, [shares[name] for name in names])
    axes.set_xlabel("importance")
    return figure


def front(points: Sequence[Sequence[float]], on_front: Sequence[Sequence[float]], names: Sequence[str]) -> Figure:
    """Draw the first two objectives of all trials, with a line through the trials of the Pareto front."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter([point[0] for point in points], [point[1] for point in points], color="grey")
    joined = sorted(map(tuple, on_front))
    axes.plot([point[0] for point in joined], [point[1] for point in joined], marker="o", label="Pareto front")
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.legend()
    return figure


def _hide_axes(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
