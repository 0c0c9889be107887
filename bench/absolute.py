"""`python -m bench.absolute`: raydd's time and memory at published sizes, next to the published ones; meant for a GPU.

Sizes: NFNet-L0 and BERT with random weights (times do not depend on the weights), heads 2304 wide, 99 pairs, 8 student
steps with minibatches of 20 pairs. For each piece of work the table shows the median time of its rounds, peak memory,
how busy the device is, and counts of one run: operations, launches (operations without views), waits of the host for
the device, and copies to the device. `--json FILE` writes the numbers to a file.

Without a GPU, `--small` runs the same pieces in a minute. Its times say nothing about a GPU; its counts do.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from bench.counting import count_operations
from bench.inputs import TEMPERATURE, experts_in, pictures, sources, split_of
from bench.rows.distillation import PUBLISHED, distillation_of, spread_of, start_of
from bench.terminal import terminal
from raydd.config import EncodersConfig, ExpertsConfig, PlaceConfig, StudentsConfig
from raydd.data import ImageEncoder, ViewsOf, load_image_encoder, load_text_encoder, open_pixels
from raydd.data.augment import transform_of
from raydd.data.encoding import batches_of, encode_views, workers_for
from raydd.data.images import FileImage
from raydd.device import device_of, images_at_once, use_threads
from raydd.distill.experts import MOST_AT_ONCE, Experts, copies_on, train_epoch_
from raydd.distill.heads import initial_heads
from raydd.distill.image_variables import LearnedFeatures, LearnedPixels
from raydd.distill.population import Population, steps_of
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.students import train_students

_PHOTOGRAPH = (500, 375)  # pixels; the size of Flickr30k's photographs
_STEPS = 20  # steps of a distillation alone, or of trials that run together, between two reads of their reports
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


Work = dict[str, tuple[Callable[[], object], float]]
"""Name to the function that is run, and the units of work of one run."""


def main(options: Options) -> None:
    """Measure the pieces, print the table, and write the numbers to a file."""
    device = device_of(PlaceConfig(device=options.device))
    use_threads(PlaceConfig(threads=options.threads))
    size = _sizes_of(options)
    image, text = load_image_encoder(size.encoders, device), load_text_encoder(size.encoders, device)
    width = size.width or image.width
    _, captions = sources(PUBLISHED.pairs)
    with tempfile.TemporaryDirectory(prefix="raydd-bench-") as folder:
        experts = experts_in(Path(folder), image.width, text.width, width, count=2, epochs=2)
        work: Work = {
            "view, from its JPEG": _view_work(image, size.photographs, Path(folder), device),
            "caption": (lambda: text.encode(captions), len(captions)),
            "expert step": _expert_work(size, image.width, text.width, width, device, 1),
            f"expert step of {MOST_AT_ONCE}": _expert_work(size, image.width, text.width, width, device, MOST_AT_ONCE),
            **_distillation_work(size, image, text.width, experts, device),
        }
        measurements = {piece: _measure_piece(run, units, size.rounds, device) for piece, (run, units) in work.items()}
    setup = {"device": _device_name(device), "torch": torch.__version__, "cores": os.cpu_count()}
    setup |= {
        "encoders": f"{image.name} and {text.name}",
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
        return _Sizes(EncodersConfig(image_size=64), 256, 8, 2, 2, students, 1)
    encoders = EncodersConfig(
        image="nfnet", text="bert", image_weights="random:0", text_weights="random:0", image_size=224
    )
    return _Sizes(encoders, 0, 2_000, 16, 100, StudentsConfig(), options.rounds)


def _view_work(image: ImageEncoder, count: int, folder: Path, device: str) -> tuple[Callable[[], object], float]:
    """Encode photographs of Flickr30k's size, from their files to features."""
    files = []
    for number, picture in enumerate(pictures(min(count, 100))[0]):
        files.append(folder / f"{number}.jpg")
        picture.resize(_PHOTOGRAPH).save(files[-1], quality=90)
    images = [FileImage(file.name, str(file)) for file in files] * max(1, count // 100)
    views = ViewsOf(images, transform_of("none", image.size), 1, 0)
    batches = batches_of(range(len(views)), images_at_once(PlaceConfig(), device))
    return lambda: list(encode_views(image, views, batches, device=device, workers=workers_for(device))), len(views)


def _expert_work(
    size: _Sizes, image_width: int, text_width: int, width: int, device: str, expert_count: int
) -> tuple[Callable[[], object], float]:
    """Train `expert_count` experts side by side for an epoch, and read the losses; a unit is one step of one expert."""
    recipe, steps = ExpertsConfig(), size.expert_steps
    split = split_of(steps * recipe.batch_size, image_width, text_width, captions=1).on(device)
    heads = initial_heads(image_width, text_width, width, 0)
    image, text = (copies_on([head] * expert_count, device) for head in heads)
    seeds = range(expert_count)
    train = partial(train_epoch_, image, text, split, recipe, epoch=1, seeds=seeds, device=device)
    return lambda: train().tolist(), steps * expert_count


def _distillation_work(size: _Sizes, image: ImageEncoder, text_width: int, experts: Experts, device: str) -> Work:
    """Steps of one distillation on features and on pixels, steps of a sweep's trials, and the students of a set."""
    pixels = open_pixels(sources(PUBLISHED.pairs)[0], image.size)
    start = start_of(torch.randn(PUBLISHED.pairs, image.width), text_width, pixels)
    spread, batch = spread_of(start), images_at_once(PlaceConfig(), device)
    run_steps = steps_of(distillation_of(start, experts, LearnedFeatures(spread), device))
    steps = _STEPS if size.rounds > 1 else 1
    pixel_distillation = distillation_of(
        start, experts, LearnedPixels(image.fast, image.pixel_std, batch, spread), device
    )
    population = Population(device)
    for _ in range(size.trials):
        population.fill(distillation_of(start, experts, LearnedFeatures(spread), device))

    def slice_of_sweep() -> None:
        for _ in range(steps):
            population.step()
        population.news()

    students = f"five students, {size.students.epochs + 1} epochs"
    return {
        "feature step alone": (lambda: run_steps(steps), steps),
        f"feature step of a trial of {size.trials}": (slice_of_sweep, steps * size.trials),
        "pixel step": (pixel_distillation.step, 1),
        students: (lambda: _train_students(start, size.students, experts.width, device), 1),
    }


def _train_students(start: SyntheticSet, recipe: StudentsConfig, width: int, device: str) -> None:
    train_students(start, recipe, width=width, temperature=TEMPERATURE, seeds=range(5), device=device)


def _measure_piece(run: Callable[[], object], units: float, rounds: int, device: str) -> Measurement:
    """Time `rounds` runs after a warm-up run; on a GPU profile one more run for `busy`; count operations of another."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    run()
    times, busy = [], []
    for _ in range(rounds):
        wall, cpu = _time_run(run, device)
        times.append(wall)
        busy.append(cpu / wall / torch.get_num_threads())
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if on_gpu:
        peak, busy = torch.cuda.max_memory_allocated(device), [_kernel_seconds(run, device) / statistics.median(times)]
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
