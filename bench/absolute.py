"""`python -m bench.absolute`: seconds and peak memory at published sizes, beside the published ones; meant for a GPU.

NFNet-L0 and BERT with random weights (times do not depend on them), heads of 2304, 99 pairs, 8 student steps of 20.
On a CPU the same command runs with smaller numbers: `--image_size 64 --expert_steps 2 --rounds 1`.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from bench.inputs import TEMPERATURE, experts_in, sources, split_of
from bench.rows.distillation import PUBLISHED, distillation_of, spread_of, start_of
from raydd.config import EncodersConfig, ExpertsConfig, PlaceConfig, StudentsConfig
from raydd.data import load_image_encoder, load_text_encoder, open_pixels
from raydd.distill.experts import train_epoch_
from raydd.distill.heads import Head, initial_heads
from raydd.distill.image_variables import LearnedFeatures, LearnedPixels
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.students import synthetic_pairs, train_students
from raydd.place import device_of, images_at_once, use_threads

_PAIRS_OF_FLICKR30K, _EPOCHS = 145_000, 10
_PUBLISHED = {  # RepBlend's cost table and scripts
    "expert trajectory": "40 min",
    "pixel distillation step": "1.71 s, 10.17 GB",
}


@dataclass(frozen=True)
class Options:
    """Measure raydd at published sizes."""

    device: str = "auto"
    """cuda, cpu, or auto."""
    image_size: int = 224
    """Side of the images in pixels."""
    expert_steps: int = 100
    """Expert steps that are timed; a trajectory is as many times as long as it has more of them."""
    rounds: int = 10
    """Times that each step is run; the fastest counts, since nothing else should run on a lent machine."""
    threads: int = 0
    """CPU threads; 0 is all cores."""


def main(options: Options) -> None:
    """Print the table."""
    device = device_of(PlaceConfig(device=options.device))
    use_threads(PlaceConfig(threads=options.threads))
    config = EncodersConfig(
        image="nfnet", text="bert", image_weights="random:0", text_weights="random:0", image_size=options.image_size
    )
    image, text = load_image_encoder(config, device), load_text_encoder(config, device)
    batch = images_at_once(PlaceConfig(), device)
    images, captions = sources(PUBLISHED.pairs)
    pixels = open_pixels(images, options.image_size)
    some = pixels[:batch].to(device).float() / 255
    start = start_of(torch.randn(PUBLISHED.pairs, image.width), text.width, pixels)
    with tempfile.TemporaryDirectory(prefix="raydd-bench-") as name:
        experts = experts_in(Path(name), image.width, text.width, image.width, count=2, epochs=2)
        on_features = distillation_of(start, experts, LearnedFeatures(spread_of(start)), device)
        learned = LearnedPixels(image.module, image.pixel_std, batch, spread_of(start))
        on_pixels = distillation_of(start, experts, learned, device)
        work: dict[str, tuple[Callable[[], object], float]] = {
            f"{len(some)} images encoded": (lambda: torch.no_grad()(image.module)(some), 1),
            f"{len(captions)} captions encoded": (lambda: text.encode(captions), 1),
            "expert trajectory": _trajectory(options.expert_steps, image.width, text.width, device),
            "feature distillation step": (on_features.step, 1),
            "pixel distillation step": (on_pixels.step, 1),
            "two epochs of five students": (lambda: _students(start, image.width, device), 1),
        }
        table = Table(title=f"{_name(device)}, torch {torch.__version__}, {image.name} and {text.name}", box=None)
        for column in ("what", "raydd", "peak memory", "published"):
            table.add_column(column, justify="left" if column == "what" else "right")
        for what, (run, times) in work.items():
            seconds, peak = _measured(run, options.rounds, device)
            table.add_row(what, f"{seconds * times:,.4g} s", f"{peak / 1e9:.2f} GB", _PUBLISHED.get(what, ""))
    Console().print(table)


def _trajectory(steps: int, image_width: int, text_width: int, device: str) -> tuple[Callable[[], object], float]:
    recipe = ExpertsConfig()
    split = split_of(steps * recipe.batch_size, image_width, text_width, captions=1)
    image, text = (
        Head(*(part.to(device) for part in head)) for head in initial_heads(image_width, text_width, image_width, 0)
    )
    times = _EPOCHS * (_PAIRS_OF_FLICKR30K // recipe.batch_size) / steps
    return lambda: train_epoch_(image, text, split, recipe, epoch=1, seed=0, device=device), times


def _students(start: SyntheticSet, width: int, device: str) -> None:
    recipe = replace(StudentsConfig(), epochs=1)  # two are run, as published
    train_students(synthetic_pairs(start), recipe, width=width, temperature=TEMPERATURE, seeds=range(5), device=device)


def _measured(run: Callable[[], object], rounds: int, device: str) -> tuple[float, int]:
    """Seconds of the fastest of some runs after a first one, and bytes: of the GPU, or of the process so far."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    run()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return min(seconds), torch.cuda.max_memory_allocated(device) if on_gpu else resident


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "CPU"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__, use_underscores=True)))
