"""Time to pixels of equal val r_mean: raydd's fastest method next to the published loop on pixels.

Both use the same data, experts and number of pairs. The steps of the published loop are computed by raydd's engine,
which gives the same numbers (tests/bench), and are counted with the measured time of a published step. The best score
of the published loop within its steps is the target. raydd has to reach the target in the shortest of several runs of
plain matching with Adam, which share one encoding among several steps.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import raydd
from bench.measuring import Size, median, now, time_pieces
from bench.rows.distillation import pixel_pieces
from bench.rows.row import Row
from raydd import stages
from raydd.config import Config, PlaceConfig
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.place import open_store
from raydd.presets import PRESETS
from raydd.settings import load, with_settings
from raydd.store import Store

_SEEDS = 3
_STEPS, _EVERY = 100, 10  # steps of the published loop, and steps between two of its scores
_IMAGE_LRS = (100.0, 10.0)  # image learning rates of the published loop: as published, and lower, since encoders differ
_RUNS = ((30, 5), (40, 5), (60, 6), (120, 6), (300, 6))  # raydd's runs: steps and steps per encoding, shortest first
_IMAGE_LR = 0.1  # raydd's image learning rate, which must be large enough for so few steps
# The experts of both sides, for which the numbers of plain-pixels were chosen.
_SHARED = {"features.centre": False, "experts.count": 10, "experts.lr": 0.2}
_BUNDLED = {
    "encoders.image_size": 96,
    "features.views": 2,
    "experts.count": 4,
    "experts.batch_size": 64,
    "distill.pairs": 50,
    "distill.target_epochs": 6,
    "distill.max_start_epoch": 1,
}


def _seconds_to_equal_score(size: Size, folder: Path) -> tuple[float, float]:
    """Return the seconds of the published loop and of raydd until the best score of the published loop."""
    store = _store(size, folder)
    raydd_config = _config(size, {**_preset_settings("plain-pixels"), "distill.image_lr": _IMAGE_LR})
    shared = {
        f"distill.{name}": getattr(raydd_config.distill, name) for name in ("pairs", "target_epochs", "max_start_epoch")
    }
    published_config = _config(size, {**_preset_settings("repblend-flickr30k-100"), **shared, "distill.steps": _STEPS})
    raydd.open(raydd_config, store).experts()
    score, steps = max(
        (score, -steps)
        for lr in _IMAGE_LRS
        for steps, score in _published_scores(with_settings(published_config, {"distill.image_lr": lr}), store)
    )
    pieces = pixel_pieces(replace(size, image_size=raydd_config.encoders.image_size or size.image_size), folder)
    step_seconds = median(time_pieces(pieces, 3, "cpu"), "published step")
    print(f"equal: {score:.1f} after {-steps} published steps", flush=True)
    for raydd_steps, steps_per_encoding in _RUNS:
        config = with_settings(
            raydd_config, {"distill.steps": raydd_steps, "distill.steps_per_encoding": steps_per_encoding}
        )
        start_time = now("cpu")
        synthetic = stages.final_synthetic(raydd.open(config, store))
        seconds = now("cpu") - start_time
        raydd_score = _val_score(config, store, synthetic)
        print(
            f"equal: {raydd_score:.1f} after {raydd_steps} steps, {steps_per_encoding} steps per encoding, "
            f"{seconds:.0f} s",
            flush=True,
        )
        if raydd_score >= score:
            return -steps * step_seconds, seconds
    return -steps * step_seconds, float("inf")


def _preset_settings(preset: str) -> dict[str, Any]:
    """Return a preset's settings of distillation and students; both sides share data, encoders and experts."""
    settings = PRESETS[preset].settings.items()
    return {name: value for name, value in settings if name.startswith(("distill.", "students."))}


def _config(size: Size, settings: dict[str, Any]) -> Config:
    return load(size.data or None, settings={**_SHARED, **({} if size.data else _BUNDLED), **settings})


def _store(size: Size, folder: Path) -> Store:
    """Return a store without synthetic sets. With `--data` it links to the features and experts in raydd's store."""
    (folder / "store").mkdir()
    source_folder = open_store(PlaceConfig()).folder
    if size.data and source_folder is not None:
        for kind in ("pairs", "texts", "features", "experts"):
            (source_folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / "store" / kind).symlink_to(source_folder / kind)
    return Store(folder / "store")


def _published_scores(config: Config, store: Store) -> Iterator[tuple[int, float]]:
    """Yield the published loop's steps and its val r_mean after them."""
    try:
        for point in stages.distill(raydd.open(config, store), every=_EVERY):
            yield point.step, _val_score(config, store, point.synthetic)
    except NonFiniteError:  # this learning rate is too large here
        return


def _val_score(config: Config, store: Store, synthetic: SyntheticSet) -> float:
    work = raydd.open(config, store)
    return stages.score_students(work, synthetic, split="val", seeds=range(_SEEDS)).mean["r_mean"]


EQUAL = (
    Row(
        "equal",
        "distilling pixels to the best val r_mean of the published loop; bundled pictures, or --data",
        f"published steps until the best score within {_STEPS} steps, times the time of a published step",
        floor=10,
        aim=50,
        memory=None,
        numbers=_seconds_to_equal_score,
    ),
)
