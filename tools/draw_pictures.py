"""Draw the pictures of the README and of the documentation from a finished sweep, such as that of `raydd demo`.

    raydd demo && python tools/draw_pictures.py demo

- docs/pairs.png: six start images, the synthetic images, and the differences; next to them the results on Flickr8k.
- docs/report.png: the top of the report, as a screenshot by Chromium.
- docs/bytes.png: r_mean against the size of a set.
- docs/searches.png: the best trial of searches on Flickr8k against slot seconds, from docs/results/searches.csv.

docs/tutorial_*.png are not drawn here: the tutorial's commands make them. The images shown are bundled ones, since the
licence of Flickr8k's photographs does not allow to show them here.
"""

import csv
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import raydd
from raydd.commands.report import Options, main
from raydd.data import open_pixels
from raydd.place import home, open_store
from raydd.report.set_page import best_finalist
from raydd.sets.read import set_of_record
from raydd.settings import load, with_settings
from raydd.store import Record

DOCS = Path(__file__).parents[1] / "docs"
SIZE = "1200,1500"
COLUMNS = 6
# Captions of the start pairs of `raydd demo` that are shown: photographs, not drawings.
SHOWN = (
    *("A yellow pepper.", "A flower covered in dew drops.", "A sports car."),
    *("A Silver Gull.", "A mountaingoat.", "A big eared rabbit."),
)
# r_mean in percent on Flickr8k's test split, from 99 or 100 pairs as features (the table of docs/results/index.md).
# Names state the tuning and the distillation steps of each set, which differ.
BARS = (
    ("99 random pairs", 9.8, "#b8bec7"),
    ("100 selected pairs\nbest of 6 selections", 15.7, "#b8bec7"),
    ("LoRS\n16 trials, 500 steps", 39.3, "#8fb3d9"),
    ("RepBlend\n16 trials, 500 steps", 40.5, "#8fb3d9"),
    ("cold sweep\n71 trials, 1,000 steps", 41.8, "#d9822b"),
    ("all 17,000 pairs", 42.4, "#5f6b7a"),
)

# kB and r_mean of sets, from the tables of docs/results/bytes.md.
BY_BYTES = {
    "plain matching, 26, 51 and 100 pairs, 32 bits": ((173, 31.3), (339, 36.5), (666, 39.4)),
    "the same, 8 bits": ((43, 31.2), (85, 36.2), (166, 39.3)),
    "the same, 4 bits": ((22, 30.9), (42, 35.6), (83, 38.1)),
    "as many random real pairs, 32 bits": ((173, 4.9), (339, 6.7), (666, 10.1)),
}

# Searches of docs/results/search.md that are drawn: name, line style and colour, by the name in searches.csv.
SEARCHES = {
    "f13dd2b": ("commit f13dd2b, from its first settings", "-.", "#2e7d4f"),
    "random": ("random", ":", "#000000"),
    "8": ("search 8", "--", "#5f6b7a"),
    "9": ("search 9", "--", "#2a6fb0"),
    "10": ("search 10", "--", "#b8bec7"),
    "11": ("search 11, with weight decay", "-", "#d9822b"),
    "12": ("search 12, 200 trials", "-", "#9c3d10"),
}
# Val r_mean of sets with settings chosen by hand: mean - and + standard deviation over sets, label, colour.
BY_HAND = (
    (49.8, 50.4, "by hand: ten sets", "#5f6b7a"),
    (50.3, 50.9, "by hand, ten times the weight decay: five sets", "#d9822b"),
)


def draw_bytes() -> Path:
    """Draw r_mean against kB, with a line for each storage format, and return the file."""
    path, figure = DOCS / "bytes.png", Figure(figsize=(7.2, 4), layout="constrained")
    axes = figure.subplots()
    for (name, points), style in zip(BY_BYTES.items(), ("o-", "s--", "^:", "x-"), strict=True):
        axes.plot(*zip(*points, strict=True), style, label=name, markersize=5)
    axes.axhline(BARS[-1][1], color="#5f6b7a", linewidth=1)
    axes.annotate("all 17,000 pairs, 43,520 kB", (22, BARS[-1][1]), (0, 4), textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.set_xticks([20, 50, 100, 200, 500], ["20", "50", "100", "200", "500"])
    axes.minorticks_off()
    axes.set_xlabel("kB that a student trains on")
    axes.set_ylabel("test r_mean, percent")
    axes.set_ylim(0, 47)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(0, 0.42))
    figure.savefig(path, dpi=100)
    return path


def draw_searches() -> Path:
    """Draw the best val r_mean of each search against slot seconds, and return the file."""
    path, figure = DOCS / "searches.png", Figure(figsize=(7.2, 4), layout="constrained")
    axes = figure.subplots()
    for low, high, label, colour in BY_HAND:
        axes.axhspan(low, high, color=colour, alpha=0.25, linewidth=0, label=label)
    with (DOCS / "results" / "searches.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["search"] in SEARCHES]
    for search, (name, style, colour) in SEARCHES.items():
        points = [(float(row["slot_seconds"]), float(row["best"])) for row in rows if row["search"] == search]
        start = (points[0][0], 0.0)  # a search has no score before its first
        axes.step(*zip(start, *points, strict=True), style, where="post", label=name, color=colour)
    axes.set_xlabel("slot seconds")
    axes.set_ylabel("best val r_mean of a trial, percent")
    axes.set_ylim(42, 52.5)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(path, dpi=100)
    return path


def draw_pairs(sweep: str) -> Path:
    """Draw pairs of the sweep's best finalist next to the results, and return the file."""
    folder = home(load().place) / "sweeps" / sweep
    config, final = load(folder / "best.yaml"), best_finalist(folder)
    if final is None:
        sys.exit(f"The sweep {sweep} has no finals. Run it with sweep.finalists 1 or more.")
    store = open_store(config.place)
    stage, name = final["record"].split("/")
    synthetic = set_of_record(Record(store, stage, name, {}, {})).synthetic
    if synthetic.pixels is None:
        sys.exit(f"The sweep {sweep} has no images. Run it with distill.images features-then-pixels.")
    train = raydd.open(config, store).data.train
    images = [train.images[index] for index in synthetic.start_images.tolist()]
    start = open_pixels(images, synthetic.pixels.shape[-1]).numpy()
    captions = [train.captions[int(index)] for index in synthetic.start_captions]
    chosen = [captions.index(caption) for caption in SHOWN if caption in captions] or list(range(COLUMNS))
    path = DOCS / "pairs.png"
    figure = picture(start[chosen], synthetic.pixels.numpy()[chosen], [captions[index] for index in chosen])
    figure.savefig(path, dpi=100)
    return path


def picture(start: UInt8[NDArray, "N 3 H W"], synthetic: UInt8[NDArray, "N 3 H W"], captions: list[str]) -> Figure:
    """Draw three rows of images on the left and bars on the right."""
    figure = Figure(figsize=(13.4, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[2.3, 1])
    added, times = amplified(start, synthetic)
    rows = (("real", start), ("synthetic", synthetic), (f"difference x {times}", added))
    axes = left.subplots(3, len(start))
    for row, (name, images) in enumerate(rows):
        axes[row, 0].set_ylabel(name, fontsize=10)
        for column, image in enumerate(images):
            axes[row, column].imshow(image.transpose(1, 2, 0))
            _bare(axes[row, column])
    for column, caption in enumerate(captions):
        axes[0, column].set_title("\n".join(textwrap.wrap(caption, 22)[:2]), fontsize=8)
    _bars(right.subplots())
    return figure


def amplified(
    start: UInt8[NDArray, "N 3 H W"], synthetic: UInt8[NDArray, "N 3 H W"]
) -> tuple[Float[NDArray, "N 3 H W"], int]:
    """Return the differences, amplified, on grey, and the factor; with this factor 99 of 100 values fit."""
    difference = (synthetic.astype(np.float32) - start.astype(np.float32)) / 255
    times = max(1, int(0.5 / np.quantile(np.abs(difference), 0.99)))
    return np.clip(0.5 + times * difference, 0, 1), times


def _bars(axes: Axes) -> None:
    full = BARS[-1][1]
    names, values, colours = zip(*reversed(BARS), strict=True)
    drawn = axes.barh(names, values, color=colours, height=0.68)
    axes.bar_label(drawn, [f"{value:.1f}  ({100 * value / full:.0f} %)" for value in values], padding=4, fontsize=9)
    axes.set_xlim(0, 1.45 * full)
    axes.set_title("Flickr8k (tuning differs)", fontsize=11)
    axes.set_xlabel("test r_mean, percent (share of full data)", fontsize=9)
    axes.tick_params(axis="y", length=0, labelsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def draw_report(sweep: str) -> Path:
    """Take a screenshot of the top of the report, and return the file."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        sys.exit("Chromium is not installed. Run `apt-get install chromium`.")
    path = DOCS / "report.png"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        main(Options(settings=with_settings(load(), {"sweep.name": sweep}), out=page))
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=20000"]
        command = [chromium, *flags, f"--window-size={SIZE}", f"--screenshot={path}", f"file://{page}"]
        subprocess.run(command, check=True, capture_output=True)
    return path


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "demo"
    print(draw_bytes(), draw_searches(), draw_pairs(name), draw_report(name), sep="\n")
