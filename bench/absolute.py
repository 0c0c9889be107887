"""`python -m bench.absolute`: raydd's time and memory at published sizes, next to the published ones; meant for a GPU.

Sizes: NFNet-L0 and BERT with random weights (times do not depend on the weights), heads 2304 wide, 99 pairs, 8 student
steps with minibatches of 20 pairs. For each piece of work the table shows the median time of its rounds, peak memory,
how busy the device is, and counts of one run: operations, launches (operations without views), waits of the host for
the device, and copies to the device. `--json FILE` writes the numbers to a file. Each piece is built when its turn
comes, and freed after it, so the peak memory of a GPU is that of one piece. A step of an expert includes its part of
the rounding and writing at the end of an epoch. Processes that decode photographs are started before the first round.

Without a GPU, `--small` runs the same pieces in a minute. Its times say nothing about a GPU; its counts do.
"""

import gc
import itertools
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from bench.counting import Counts, count_operations
from bench.inputs import TEMPERATURE, experts_in, pictures, sources, split_of
from bench.rows.distillation import PUBLISHED, distillation_of, spread_of, start_of
from bench.terminal import terminal
from raydd.config import EncodersConfig, ExpertsConfig, PlaceConfig, StudentsConfig
from raydd.data import ImageEncoder, TextEncoder, ViewsOf, load_image_encoder, load_text_encoder, open_pixels
from raydd.data.augment import transform_of
from raydd.data.encoding import batches_of, encode_views, workers_for
from raydd.data.images import FileImage
from raydd.device import device_of, images_at_once, use_threads
from raydd.distill.experts import MOST_AT_ONCE, Experts, train_experts
from raydd.distill.image_variables import LearnedFeatures, LearnedPixels
from raydd.distill.inversion import pixels_of_features
from raydd.distill.legs import shared_legs
from raydd.distill.population import News, Population, steps_of
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.students import hits_of_heads, train_students
from raydd.store import Record, Store

_PHOTOGRAPH = (500, 375)  # pixels; the size of Flickr30k's photographs
_STEPS = 20  # steps of a distillation alone, or of trials that run together, between two reads of their reports
_OTHER_RUNS = 3  # of a piece, besides its rounds: a warm-up, a profile and a count
_PUBLISHED = {  # RepBlend's cost table and scripts
    "expert step": "40 min a trajectory",
    "pixel step": "1.71 s, 10.17 GB",
}


@dataclass(frozen=True)
class Options:
    """Measure raydd at published sizes."""

    device: str = "auto"
    """cuda, cpu, or auto."""
    json: str = ""
    """File to write the numbers to."""
    small: bool = False
    """Use the packaged encoders on small images, heads 256 wide, two trials and one round: for a machine without a
    GPU."""
    rounds: int = 10
    """Timed runs of each piece, after one warm-up run; the median is reported."""
    threads: int = 0
    """CPU threads; 0: all cores."""


@dataclass(frozen=True)
class _Sizes:
    encoders: EncodersConfig
    width: int
    """Width of the heads; 0: width of the image features."""
    photographs: int
    trials: int
    expert_steps: int
    """Steps of the timed epoch. A trajectory of 10 epochs on 145,000 pairs has 11,320 steps."""
    stored_experts: tuple[int, int, int]
    """Experts that are trained to the store, their epochs, and the steps of an epoch."""
    inversion_steps: int
    scored: int
    """Images on which students are scored, with five captions each."""
    students: StudentsConfig
    rounds: int


@dataclass(frozen=True)
class Measurement:
    """The measurements of a piece of work."""

    seconds: float
    """Median seconds for one unit of the work."""
    peak_bytes: int
    """Peak memory of the GPU, or of this process so far."""
    busy: float
    """Share of the time in which the device computed: a GPU's kernels, or the process's CPU time over its threads."""
    operations: float
    """Operations for one unit of the work; the fields below are for one unit too."""
    launches: float
    waits: float
    copies: float
    copied_bytes: float


Piece = tuple[Callable[[], object], float]
"""The function that is run, and the units of work of one run."""
Work = dict[str, Callable[[], Piece]]
"""Name to the function that builds the piece."""
_ONCE = ("experts to the store", "steps of inversion")  # pieces of many seconds


def main(options: Options) -> None:
    """Measure the pieces, print the table, and write the numbers to a file."""
    device = device_of(PlaceConfig(device=options.device))
    use_threads(PlaceConfig(threads=options.threads))
    size = _sizes_of(options)
    image, text = _encoders(size, device)
    width = size.width or image.width
    with tempfile.TemporaryDirectory(prefix="raydd-bench-") as folder:
        experts = experts_in(Path(folder), image.width, text.width, width, count=2, epochs=2)
        names = f"{image.name} and {text.name}"
        del image, text  # each piece that encodes loads its encoder
        work = _pieces(size, experts, Path(folder), device)
        measurements = {name: _measure_piece(name, build, size.rounds, device) for name, build in work.items()}
    setup = {"device": _device_name(device), "torch": torch.__version__, "cores": os.cpu_count()}
    setup |= {
        "encoders": names,
        "heads": width,
        "trials": size.trials,
        "small": options.small,
    }
    if options.json:
        report = {**setup, "pieces": {piece: asdict(measurement) for piece, measurement in measurements.items()}}
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    terminal().print(_table(", ".join(f"{name} {value}" for name, value in setup.items()), measurements))


def _sizes_of(options: Options) -> _Sizes:
    if options.small:
        students = replace(StudentsConfig(), epochs=1)
        return _Sizes(EncodersConfig(image_size=64), 256, 8, 2, 2, (2, 1, 2), 2, 20, students, 1)
    encoders = EncodersConfig(
        image="nfnet", text="bert", image_weights="random:0", text_weights="random:0", image_size=224
    )
    stored = 20, 10, 1_132
    return _Sizes(encoders, 0, 2_000, 16, 300, stored, 300, 1_000, StudentsConfig(), options.rounds)


def _encoders(size: _Sizes, device: str) -> tuple[ImageEncoder, TextEncoder]:
    return load_image_encoder(size.encoders, device), load_text_encoder(size.encoders, device)


def _pieces(size: _Sizes, experts: Experts, folder: Path, device: str) -> Work:
    """Return how each piece is built."""
    students = f"five students, {size.students.epochs + 1} epochs, and their scores"
    count, epochs, steps = size.stored_experts
    return {
        "view, from its JPEG": lambda: _view_work(size, folder, device),
        "caption": lambda: _caption_work(size, device),
        "expert step": lambda: _expert_work(size, experts, folder, device, 1),
        f"expert step of {MOST_AT_ONCE}": lambda: _expert_work(size, experts, folder, device, MOST_AT_ONCE),
        f"{count} {_ONCE[0]}": lambda: (
            _trained_experts(experts, folder, device, count, epochs, steps),
            1,
        ),
        "feature step alone": lambda: _feature_work(size, experts, device),
        f"feature step of a trial of {size.trials}": lambda: _trials_work(size, experts, device),
        "pixel step": lambda: _pixel_work(size, experts, device),
        f"{size.inversion_steps} {_ONCE[1]}": lambda: _inversion_work(size, device),
        students: lambda: _students_work(size, experts, device),
    }


def _view_work(size: _Sizes, folder: Path, device: str) -> Piece:
    """Encode photographs of Flickr30k's size, from their files to features; all rounds read one stream of them."""
    image, count = load_image_encoder(size.encoders, device), size.photographs
    files = []
    for number, picture in enumerate(pictures(min(count, 100))[0]):
        files.append(folder / f"{number}.jpg")
        picture.resize(_PHOTOGRAPH).save(files[-1], quality=90)
    images = [FileImage(file.name, str(file)) for file in files] * max(1, count // 100)
    views = ViewsOf(images, transform_of("none", image.size), 1, 0)
    batches = batches_of(range(len(views)), images_at_once(PlaceConfig(), device))
    stream = encode_views(
        image, views, batches * (size.rounds + _OTHER_RUNS), device=device, workers=workers_for(device)
    )
    return lambda: list(itertools.islice(stream, len(batches))), len(views)


def _caption_work(size: _Sizes, device: str) -> Piece:
    text, (_, captions) = load_text_encoder(size.encoders, device), sources(PUBLISHED.pairs)
    return lambda: text.encode(captions), len(captions)


def _expert_work(size: _Sizes, experts: Experts, folder: Path, device: str, count: int) -> Piece:
    """Train experts side by side for an epoch, and write their snapshots; a unit is one step of one expert."""
    run = _trained_experts(experts, folder, device, count, 1, size.expert_steps)
    return run, size.expert_steps * count


def _trained_experts(
    experts: Experts, folder: Path, device: str, count: int, epochs: int, steps: int
) -> Callable[[], object]:
    """Return the work of training experts from cached features, as `raydd experts` does; each run draws other ones."""
    recipe, seeds = ExpertsConfig(), itertools.count(1_000, count)
    split = split_of(steps * recipe.batch_size, experts.image_width, experts.text_width, captions=1).on(device)

    def train() -> None:
        record = Record.of(Store(folder / "trained"), "experts", {"run": (first_seed := next(seeds))}, {}, version=1)
        new = replace(experts, record=record, first_seed=first_seed, count=count)
        at_once = min(count, MOST_AT_ONCE)
        train_experts(new, range(count), split, recipe, range(1, epochs + 1), device=device, at_once=at_once)
        shutil.rmtree(folder / "trained")

    return train


def _start(experts: Experts, image: ImageEncoder | None = None) -> SyntheticSet:
    pixels = None if image is None else open_pixels(sources(PUBLISHED.pairs)[0], image.size)
    return start_of(torch.randn(PUBLISHED.pairs, experts.image_width), experts.text_width, pixels)


def _steps(size: _Sizes) -> int:
    return _STEPS if size.rounds > 1 else 1


def _feature_work(size: _Sizes, experts: Experts, device: str) -> Piece:
    start, steps = _start(experts), _steps(size)
    run_steps = steps_of(distillation_of(start, experts, LearnedFeatures(spread_of(start)), device))
    return lambda: _require_done(run_steps(steps)), steps


def _trials_work(size: _Sizes, experts: Experts, device: str) -> Piece:
    """Steps of a sweep's trials, and their news; a unit is one step of one trial."""
    start, steps, population = _start(experts), _steps(size), Population(device)
    for _ in range(size.trials):
        population.fill(distillation_of(start, experts, LearnedFeatures(spread_of(start)), device))

    def slice_of_sweep() -> None:
        for _ in range(steps):
            population.step()
        for news in population.news().values():
            _require_done(news)

    return slice_of_sweep, steps * size.trials


def _require_done(news: News) -> None:
    """Raise the error with which a distillation ended, since it takes no further steps to be timed."""
    if news.error:
        raise news.error


def _pixel_work(size: _Sizes, experts: Experts, device: str) -> Piece:
    image = load_image_encoder(size.encoders, device)
    start, batch = _start(experts, image), images_at_once(PlaceConfig(), device)
    learned = LearnedPixels(image.fast, image.pixel_std, batch, spread_of(start))
    return distillation_of(start, experts, learned, device).step, 1


def _inversion_work(size: _Sizes, device: str) -> Piece:
    """Find the pixels of all pairs' features, as many at once as `place.encode_batch` allows."""
    image, batch = load_image_encoder(size.encoders, device), images_at_once(PlaceConfig(), device)
    pixels = open_pixels(sources(PUBLISHED.pairs)[0], image.size)
    targets = torch.randn(len(pixels), image.width)

    def invert() -> None:
        for some, features in zip(pixels.split(batch), targets.split(batch), strict=True):
            pixels_of_features(
                some.to(device), features.to(device), image.fast, steps=size.inversion_steps, lr=0.02
            ).cpu()

    return invert, 1


def _students_work(size: _Sizes, experts: Experts, device: str) -> Piece:
    """Train five students on a set, and score them on images with five captions each."""
    start, scored = _start(experts), split_of(size.scored, experts.image_width, experts.text_width).on(device)

    def train_and_score() -> None:
        heads = train_students(
            start, size.students, width=experts.width, temperature=TEMPERATURE, seeds=range(5), device=device
        )
        hits_of_heads(*heads, scored, device=device)

    return train_and_score, 1


def _measure_piece(name: str, build: Callable[[], Piece], rounds: int, device: str) -> Measurement:
    """Build a piece and time `rounds` runs after a warm-up run; on a GPU profile one more run; count another's work.

    On a GPU a piece of many seconds runs once, without a warm-up; `busy` and its counts are 0 then.
    """
    on_gpu = torch.device(device).type == "cuda"
    shared_legs.cache_clear()
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    run, units = build()
    once = on_gpu and name.endswith(_ONCE)
    if not once:
        run()
    times, busy, counts = [], [], Counts()
    for _ in range(1 if once else rounds):
        wall, cpu = _time_run(run, device)
        times.append(wall)
        busy.append(cpu / wall / torch.get_num_threads())
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if on_gpu:
        peak, busy = torch.cuda.max_memory_allocated(device), [0.0]
    if not once:
        if on_gpu:
            busy = [_kernel_seconds(run, device) / statistics.median(times)]
        counts = count_operations(run)
    numbers: list[Any] = [counts.total, counts.launches, counts.waits.total(), counts.copies, counts.copied_bytes]
    per_unit = [number / units for number in numbers]
    return Measurement(statistics.median(times) / units, peak, statistics.median(busy), *per_unit)


def _time_run(run: Callable[[], object], device: str) -> tuple[float, float]:
    """Return wall-clock seconds of a run, until the device has finished, and CPU seconds of this process."""
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    run()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall_start, time.process_time() - cpu_start


def _kernel_seconds(run: Callable[[], object], device: str) -> float:
    """Return the seconds of a run's kernels from torch's profiler.

    The profiler slows the host down, so the time of a run is measured without it.
    """
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        _time_run(run, device)
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6


def _table(title: str, measurements: dict[str, Measurement]) -> Table:
    table = Table(title=title, box=None)
    columns = ("what", "median", "peak memory", "busy", "operations", "launches", "waits", "copied", "published")
    for column in columns:
        table.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    for piece, measurement in measurements.items():
        counts = (f"{number:,.4g}" for number in (measurement.operations, measurement.launches, measurement.waits))
        copied = f"{measurement.copied_bytes / 1e6:,.3g} MB in {measurement.copies:,.3g}"
        memory = f"{measurement.peak_bytes / 1e9:.2f} GB"
        table.add_row(
            piece,
            f"{measurement.seconds:,.4g} s",
            memory,
            f"{measurement.busy:.0%}",
            *counts,
            copied,
            _PUBLISHED.get(piece, ""),
        )
    return table


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "CPU"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__, use_underscores=True)))
