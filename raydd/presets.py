"""Published settings by name: `--preset repblend-flickr30k-100`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Settings that belong together, and what they are."""

    description: str
    settings: Mapping[str, Any]


_ENCODERS = {
    "encoders.image": "nfnet",
    "encoders.text": "bert",
    "features.views": 10,
    "experts.count": 20,
    "experts.epochs": 10,
    "experts.lr": 0.1,
    "experts.width": 2304,
}

_REPBLEND = {
    "distill.method": "repblend",
    "distill.space": "pixels",
    "distill.steps": 3000,
    "distill.student_steps": 8,
    "distill.minibatch": 20,
    "distill.target_epochs": 1,
    "distill.loss": "wbce",
    "distill.fit_rates": False,
    "students.rate": "published",
    "distill.optimizer": "sgd",
    "distill.momentum": 0.5,
    "distill.schedule": "constant",
    "distill.gradient": "constant-memory",
    "distill.rate_lr": 0.01,
    "distill.start_rate": 0.1,
    "distill.blend": "beta",
    "distill.blend_beta": 1.0,
}


def _repblend(
    name: str, pairs: int, lr: float, similarity_lr: float, rank: int, alpha: float, starts: int, merged: bool = False
) -> Preset:
    return Preset(
        f"RepBlend on {name}, {pairs} pairs, NFNet and BERT, pixels, as published (scripts of the reference code)",
        {
            **_ENCODERS,
            **_REPBLEND,
            "distill.pairs": pairs,
            "distill.image_lr": lr,
            "distill.text_lr": lr,
            "distill.similarity_lr": similarity_lr,
            "distill.rank": rank,
            "distill.alpha": alpha,
            "distill.max_start_epoch": starts,
            "distill.merged": merged,
        },
    )


PRESETS: dict[str, Preset] = {
    "repblend-flickr30k-100": _repblend("Flickr30k", 99, 100, 10, 10, 3, 2),
    "repblend-flickr30k-200": _repblend("Flickr30k", 199, 1000, 10, 5, 1, 2),
    "repblend-flickr30k-500": _repblend("Flickr30k", 499, 1000, 100, 20, 0.01, 3),
    "repblend-coco-100": _repblend("COCO", 99, 1000, 5, 10, 1, 2, merged=True),
    "repblend-coco-200": _repblend("COCO", 199, 1000, 50, 20, 1, 2, merged=True),
    "repblend-coco-500": _repblend("COCO", 499, 5000, 500, 40, 1, 2, merged=True),
}
