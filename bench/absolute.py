"""`python -m bench.absolute`: what raydd takes at published sizes, beside the published times; meant for a GPU.

NFNet-L0 and BERT with random weights (times do not depend on them), heads of 2304, 99 pairs, 8 student steps of 20. Of
each piece the median of its rounds, peak memory, how busy the device is, and what one run asks of it: operations,
launches (operations but views), waits of the host for the device, and copies to it. `--json FILE` keeps the numbers.
Where there is no GPU, `--small` runs the same pieces in a minute; its seconds say nothing about a GPU, its counts do.
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
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from bench.counting import counted
from bench.inputs import TEMPERATURE, experts_in, pictures, sources, split_of
from bench.rows.distillation import PUBLISHED, distillation_of, spread_of, start_of
from raydd.config import EncodersConfig, ExpertsConfig, PlaceConfig, StudentsConfig
from raydd.data import ImageEncoder, ViewsOf, load_image_encoder, load_text_encoder, open_pixels
from raydd.data.augment import transform_of
from raydd.data.encoding import batches_of, encode_views, workers_for
from raydd.data.images import FileImage
from raydd.distill.experts import MOST_AT_ONCE, Experts, copies_on, train_epoch_
from raydd.distill.heads import initial_heads
from raydd.distill.image_variables import LearnedFeatures, LearnedPixels
from raydd.distill.population import Population, steps_of
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.students import synthetic_pairs, train_students
from raydd.place import device_of, images_at_once, use_threads

_PHOTOGRAPH = (500, 375)  # pixels, as Flickr30k's are
_STEPS = 20  # of a distillation alone, and of a slice of a sweep, before what they report is read
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
    """A file to write the numbers to."""
    small: bool = False
    """Packaged encoders on small images, heads of 256, two trials, one round: for a machine without a GPU."""
    rounds: int = 10
    """Times that each piece is run, after a first one; their median counts."""
    threads: int = 0
    """CPU threads; 0 is all cores."""


@dataclass(frozen=True)
class _Size:
    encoders: EncodersConfig
    width: int
    """Of the heads; 0 is that of the image features."""
    photographs: int
    trials: int
    expert_steps: int
    """Of an epoch that is timed. A trajectory of 145,000 pairs and 10 epochs has 11,320."""
    students: StudentsConfig
    rounds: int


@dataclass(frozen=True)
class Found:
    """What a piece of work took."""

    seconds: float
    """Median, of one unit of the work."""
    peak_bytes: int
    """Of the GPU, or of this process so far."""
    busy: float
    """Share of the time in which the device computed: a GPU's kernels, or the process's CPU time over its threads."""
    operations: float
    """This and what follows: of one unit."""
    launches: float
    waits: float
    copies: float
    copied_bytes: float


Work = dict[str, tuple[Callable[[], object], float]]
"""By name: what is run, and how many units of the work that is."""


def main(options: Options) -> None:
    """Print the table, and write the numbers."""
    device = device_of(PlaceConfig(device=options.device))
    use_threads(PlaceConfig(threads=options.threads))
    size = _size(options)
    image, text = load_image_encoder(size.encoders, device), load_text_encoder(size.encoders, device)
    width = size.width or image.width
    _, captions = sources(PUBLISHED.pairs)
    with tempfile.TemporaryDirectory(prefix="raydd-bench-") as folder:
        experts = experts_in(Path(folder), image.width, text.width, width, count=2, epochs=2)
        work: Work = {
            "view, from its JPEG": _views(image, size.photographs, Path(folder), device),
            "caption": (lambda: text.encode(captions), len(captions)),
            "expert step": _epoch(size, image.width, text.width, width, device, 1),
            f"expert step of {MOST_AT_ONCE}": _epoch(size, image.width, text.width, width, device, MOST_AT_ONCE),
            **_distillations(size, image, text.width, experts, device),
        }
        found = {what: _measured(run, units, size.rounds, device) for what, (run, units) in work.items()}
    names = {"device": _name(device), "torch": torch.__version__, "cores": os.cpu_count()}
    names |= {
        "encoders": f"{image.name} and {text.name}",
        "heads": width,
        "trials": size.trials,
        "small": options.small,
    }
    if options.json:
        report = {**names, "pieces": {what: asdict(one) for what, one in found.items()}}
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    Console().print(_table(", ".join(f"{name} {value}" for name, value in names.items()), found))


def _size(options: Options) -> _Size:
    if options.small:
        students = replace(StudentsConfig(), epochs=1)
        return _Size(EncodersConfig(image_size=64), 256, 8, 2, 2, students, 1)
    encoders = EncodersConfig(
        image="nfnet", text="bert", image_weights="random:0", text_weights="random:0", image_size=224
    )
    return _Size(encoders, 0, 2_000, 16, 100, StudentsConfig(), options.rounds)


def _views(image: ImageEncoder, count: int, folder: Path, device: str) -> tuple[Callable[[], object], float]:
    """Photographs of the size of Flickr30k's, from their files to features."""
    files = []
    for number, picture in enumerate(pictures(min(count, 100))[0]):
        files.append(folder / f"{number}.jpg")
        picture.resize(_PHOTOGRAPH).save(files[-1], quality=90)
    images = [FileImage(file.name, str(file)) for file in files] * max(1, count // 100)
    views = ViewsOf(images, transform_of("none", image.size), 1, 0)
    batches = batches_of(range(len(views)), images_at_once(PlaceConfig(), device))
    return lambda: list(encode_views(image, views, batches, device=device, workers=workers_for(device))), len(views)


def _epoch(
    size: _Size, image_width: int, text_width: int, width: int, device: str, together: int
) -> tuple[Callable[[], object], float]:
    """An epoch of so many experts side by side, as a store gives its losses; a unit is one step of one of them."""
    recipe, steps = ExpertsConfig(), size.expert_steps
    split = split_of(steps * recipe.batch_size, image_width, text_width, captions=1).on(device)
    heads = initial_heads(image_width, text_width, width, 0)
    image, text = (copies_on([head] * together, device) for head in heads)
    seeds = range(together)
    train = partial(train_epoch_, image, text, split, recipe, epoch=1, seeds=seeds, device=device)
    return lambda: train().tolist(), steps * together


def _distillations(size: _Size, image: ImageEncoder, text_width: int, experts: Experts, device: str) -> Work:
    """Steps alone, on features and on pixels; a slice of a sweep; and the students of a set."""
    pixels = open_pixels(sources(PUBLISHED.pairs)[0], image.size)
    start = start_of(torch.randn(PUBLISHED.pairs, image.width), text_width, pixels)
    spread, batch = spread_of(start), images_at_once(PlaceConfig(), device)
    take = steps_of(distillation_of(start, experts, LearnedFeatures(spread), device))
    steps = _STEPS if size.rounds > 1 else 1
    on_pixels = distillation_of(start, experts, LearnedPixels(image.fast, image.pixel_std, batch, spread), device)
    population = Population(device)
    for _ in range(size.trials):
        population.fill(distillation_of(start, experts, LearnedFeatures(spread), device))

    def slice_of_sweep() -> None:
        for _ in range(steps):
            population.step()
        population.news()

    students = f"five students, {size.students.epochs + 1} epochs"
    return {
        "feature step alone": (lambda: take(steps), steps),
        f"feature step of a trial of {size.trials}": (slice_of_sweep, steps * size.trials),
        "pixel step": (on_pixels.step, 1),
        students: (lambda: _students(start, size.students, experts.width, device), 1),
    }


def _students(start: SyntheticSet, recipe: StudentsConfig, width: int, device: str) -> None:
    train_students(synthetic_pairs(start), recipe, width=width, temperature=TEMPERATURE, seeds=range(5), device=device)


def _measured(run: Callable[[], object], units: float, rounds: int, device: str) -> Found:
    """Time some runs after a first one, watch one more for how busy the device is, and count another one."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    run()
    took, busy = [], []
    for _ in range(rounds):
        wall, cpu = _timed(run, device)
        took.append(wall)
        busy.append(cpu / wall / torch.get_num_threads())
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if on_gpu:
        peak, busy = torch.cuda.max_memory_allocated(device), [_kernel_seconds(run, device) / statistics.median(took)]
    counts = counted(run)
    numbers: list[Any] = [counts.total, counts.launches, counts.waits.total(), counts.copies, counts.copied_bytes]
    each = [number / units for number in numbers]
    return Found(statistics.median(took) / units, peak, statistics.median(busy), *each)


def _timed(run: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds of a run until the device has done it, and CPU seconds of this process."""
    began, cpu = time.perf_counter(), time.process_time()
    run()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, time.process_time() - cpu


def _kernel_seconds(run: Callable[[], object], device: str) -> float:
    """Of a run, as torch's profiler sees them. It slows the host down, so the run's own time is taken without it."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        _timed(run, device)
    return sum(event.self_device_time_total for event in seen.key_averages()) / 1e6


def _table(title: str, found: dict[str, Found]) -> Table:
    table = Table(title=title, box=None)
    columns = ("what", "median", "peak memory", "busy", "operations", "launches", "waits", "copied", "published")
    for column in columns:
        table.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    for what, one in found.items():
        counts = (f"{number:,.4g}" for number in (one.operations, one.launches, one.waits))
        copied = f"{one.copied_bytes / 1e6:,.3g} MB in {one.copies:,.3g}"
        memory = f"{one.peak_bytes / 1e9:.2f} GB"
        table.add_row(
            what, f"{one.seconds:,.4g} s", memory, f"{one.busy:.0%}", *counts, copied, _PUBLISHED.get(what, "")
        )
    return table


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "CPU"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__, use_underscores=True)))
