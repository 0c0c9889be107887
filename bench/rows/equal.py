"""Pixels of equal val r_mean: features then pixels beside the published loop on pixels, same data, experts and pairs.

The published loop's steps are taken by raydd's engine, which gives the same numbers (tests/bench), and are charged with
the measured time of a published step. It is tried at several step sizes, of which the best counts. Where none comes up
to raydd's score within the steps that are run, the ratio is the least that it can be.
"""

from dataclasses import replace
from pathlib import Path

from bench.measuring import Size, now, time_pieces
from bench.rows.distillation import pixel_pieces
from bench.rows.row import Row
from raydd import stages
from raydd.config import Config
from raydd.errors import NonFiniteError
from raydd.presets import PRESETS
from raydd.settings import load, with_settings
from raydd.store import Store

_SIDE, _SEEDS = 96, 3
_STEPS, _EVERY = 600, 20  # of the published loop, and between two scores of it
_IMAGE_LRS = (100.0, 10.0, 1.0)  # as published, and less, since encoders differ
_PAIRS = {
    "encoders.image_size": _SIDE,
    "features.views": 2,
    "experts.count": 4,
    "experts.batch_size": 64,
    "distill.pairs": 50,
    "distill.target_epochs": 6,
    "distill.max_start_epoch": 1,
}


def _equal(size: Size, folder: Path) -> tuple[float, float]:
    """Seconds of both ways to the score that raydd reaches."""
    store = Store(folder / "store")
    ours = load(settings={**_PAIRS, "distill.space": "features-then-pixels"})
    stages.experts(ours, store)
    began = now("cpu")
    made = stages.final_synthetic(ours, store)
    raydd = now("cpu") - began
    score = stages.evaluate(ours, store, made, split="val", seeds=_SEEDS).mean["r_mean"]
    script = {
        name: value
        for name, value in PRESETS["repblend-flickr30k-100"].settings.items()
        if name.startswith(("distill.", "students."))
    }
    theirs = load(settings={**script, **_PAIRS, "distill.steps": _STEPS})
    steps = min(_steps_to(score, with_settings(theirs, {"distill.image_lr": lr}), store) for lr in _IMAGE_LRS)
    pieces = pixel_pieces(replace(size, image_size=_SIDE), folder)
    return steps * time_pieces(pieces, 3, "cpu")["published step"], raydd


def _steps_to(score: float, config: Config, store: Store) -> int:
    """Steps until the published loop's val r_mean is as high; all that are run if it never is."""
    try:
        for point in stages.distill(config, store, every=_EVERY):
            scores = stages.evaluate(config, store, point.synthetic, split="val", seeds=_SEEDS)
            if scores.mean["r_mean"] >= score:
                return point.step
    except NonFiniteError:  # that step size is too large here
        return _STEPS
    return _STEPS


EQUAL = (
    Row(
        "equal",
        f"pixels of equal val r_mean, bundled pictures at {_SIDE} pixels, 50 pairs: features then pixels",
        f"published steps until the same score, {_STEPS} at most, times a published step",
        floor=10,
        aim=50,
        memory=None,
        numbers=_equal,
    ),
)
