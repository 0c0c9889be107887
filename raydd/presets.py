"""Published settings by name: `--preset repblend-flickr30k-100`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Settings that belong together, and what they are."""

    description: str
    settings: Mapping[str, Any]


_ENCODERS = {
    "data.caption_words": 60,  # COCO's held-out captions are cut after 30 there; few have so many
    "encoders.image": "nfnet",
    "encoders.text": "bert",
    "features.views": 10,
    "experts.count": 20,
    "experts.epochs": 10,
    "experts.lr": 0.1,
    "experts.width": 2304,
}

_SCRIPTS = {
    "distill.images": "pixels",
    "distill.steps": 3000,
    "distill.steps_per_encoding": 1,
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
}


def _repblend(
    name: str, pairs: int, lr: float, similarity_lr: float, rank: int, alpha: float, starts: int, merged: bool = False
) -> Preset:
    return Preset(
        f"RepBlend on {name}, {pairs} pairs, NFNet and BERT, pixels, as published (scripts of the reference code)",
        {
            **_ENCODERS,
            **_SCRIPTS,
            "distill.method": "repblend",
            "distill.blend": "beta",
            "distill.blend_beta": 1.0,
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


# What the scripts of LoRS train: the whole image encoder, which has no head, and the text head.
_ENCODER = {"distill.protocol": "encoder", "experts.encoder_lr": 0.1, "distill.encoder_rate": 0.1}


def _trained(preset: Preset) -> Preset:
    return Preset(
        preset.description.replace("both heads trained, else", "image encoder and text head trained,"),
        {**preset.settings, **_ENCODER},
    )


def _lors(name: str, same: Preset, minibatch: int, steps: int = 3000) -> Preset:
    """LoRS's scripts have RepBlend's numbers, of the same data and budget, but for these."""
    own = {"distill.minibatch": minibatch, "distill.steps": steps, "evaluate.checks": 11}
    return Preset(
        f"LoRS on {name}, {same.settings['distill.pairs']} pairs, NFNet and BERT, pixels, both heads trained, else as "
        "its scripts have it",
        {**same.settings, "distill.method": "lors", "distill.blend": "none", **own},
    )


def _without_students(what: str, method: str, settings: Mapping[str, Any]) -> Preset:
    """A method that trains no students: a learned similarity costs it no pair, so it has all hundred."""
    return Preset(
        f"Flickr30k, 100 pairs, NFNet and BERT, features: {what}"
        + (" with the paper's numbers that carry over" if settings else ""),
        {**_ENCODERS, "distill.method": method, "distill.pairs": 100, "distill.images": "features", **settings},
    )


def _without_similarity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a row that learns no similarity, and gets a pair for it."""
    similarity = ("distill.similarity_lr", "distill.rank", "distill.alpha")
    kept = {name: value for name, value in settings.items() if name not in similarity}
    return kept | {"distill.similarity": "identity", "distill.pairs": settings["distill.pairs"] + 1}


def _tesla_vl(pairs: int, lors: Preset) -> Preset:
    return Preset(
        f"TESLA-VL on Flickr30k, {pairs} pairs, NFNet and BERT, pixels, both heads trained, else with the numbers of "
        "the LoRS script, as TESLA-VL has none",
        {**_without_similarity(lors.settings), "distill.method": "tesla-vl"},
    )


# MTT-VL's code multiplies the cosines of a distillation step by log(1/0.07), without the exponential.
MTT_VL_TEMPERATURE = 1 / math.log(1 / 0.07)
# The command of the code's README, and the defaults of its scripts; it gives numbers for 100 pairs alone.
_MTT_VL = Preset(
    "MTT-VL on Flickr30k, 100 pairs, NFNet and BERT, pixels, both heads trained, else as the README of its code has it",
    {
        **_without_similarity(_repblend("Flickr30k", 99, 1000, 0, 1, 1, starts=2).settings),
        "distill.method": "mtt-vl",
        "distill.blend": "none",
        "distill.loss": "infonce",
        "distill.gradient": "exact",
        "distill.minibatch_order": "random",
        "distill.steps": 50_000,
        "distill.minibatch": 100,
        "distill.temperature": MTT_VL_TEMPERATURE,
        "students.epochs": 50,
        "students.batch_size": 64,
    },
)


def _ablation(what: str, settings: Mapping[str, Any]) -> Preset:
    return Preset(f"Ablation of RepBlend: {what}", {"distill.method": "repblend", **settings})


# raydd's own. Matched on pixels, a set needs no search for them afterwards: half the time. With few steps students of
# another image encoder does better on it (docs/results/pixels.md).
_PLAIN = Preset(
    "Plain matching on pixels, encoded once in four steps: half of the distillation time of features-then-pixels",
    {
        "distill.images": "pixels",
        "distill.steps": 200,
        "distill.student_steps": 8,
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.image_lr": 0.05,
    },
)
_PLAIN_PIXELS = Preset(
    "Plain matching on pixels that move little: minutes, and images that other encoders can use too",
    {
        **_PLAIN.settings,
        "experts.count": 4,
        "distill.steps": 60,
        "distill.steps_per_encoding": 6,
    },
)

_COCO_500 = _repblend("COCO", 499, 5000, 500, 40, 1, 2, merged=True)
# This script alone distils at 0.1, and scores students at 0.07; its experts see no augmentation.
_COCO_500 = replace(
    _COCO_500,
    settings={**_COCO_500.settings, "distill.temperature": 0.1, "features.augment": "none", "features.views": 1},
)
_LORS = {
    "lors-flickr30k-100": _lors("Flickr30k", _repblend("Flickr30k", 99, 100, 10, 10, 3, 2), 20),
    "lors-flickr30k-200": _lors("Flickr30k", _repblend("Flickr30k", 199, 1000, 10, 5, 1, 2), 20),
    "lors-flickr30k-500": _lors("Flickr30k", _repblend("Flickr30k", 499, 1000, 100, 20, 0.01, 3), 40),
    "lors-coco-100": _lors("COCO", _repblend("COCO", 99, 1000, 5, 10, 1, 2, merged=True), 20),
    "lors-coco-200": _lors("COCO", _repblend("COCO", 199, 1000, 50, 20, 1, 2, merged=True), 20, steps=2000),
    "lors-coco-500": _lors("COCO", _COCO_500, 30),
}
_OTHERS = {
    **_LORS,
    **{f"tesla-vl-flickr30k-{pairs}": _tesla_vl(pairs, _LORS[f"lors-flickr30k-{pairs}"]) for pairs in (100, 200, 500)},
    "mtt-vl-flickr30k-100": _MTT_VL,
}

PRESETS: dict[str, Preset] = {
    "plain": _PLAIN,
    "plain-pixels": _PLAIN_PIXELS,
    "repblend-flickr30k-100": _repblend("Flickr30k", 99, 100, 10, 10, 3, 2),
    "repblend-flickr30k-200": _repblend("Flickr30k", 199, 1000, 10, 5, 1, 2),
    "repblend-flickr30k-500": _repblend("Flickr30k", 499, 1000, 100, 20, 0.01, 3),
    "repblend-coco-100": _repblend("COCO", 99, 1000, 5, 10, 1, 2, merged=True),
    "repblend-coco-200": _repblend("COCO", 199, 1000, 50, 20, 1, 2, merged=True),
    "repblend-coco-500": _COCO_500,
    "covmatch-flickr30k-100": _without_students(
        "CovMatch",
        "covmatch",
        {"distill.steps": 10_000, "distill.covariance_scale": 2.0, "distill.mean_weight": 0.1},
    ),
    "apm-flickr30k-100": _without_students("APM", "apm", {}),
    "mdm-flickr30k-100": _without_students(
        "MDM", "mdm", {"distill.steps": 3000, "distill.target_epochs": 10, "distill.real_minibatch": 256}
    ),
    "lgm-flickr30k-100": _without_students("gradient matching", "lgm", {"distill.steps": 5000}),
    "ridge-flickr30k-100": _without_students("closed-form students", "ridge", {}),
    **_OTHERS,
    **{f"{name}-encoder": _trained(preset) for name, preset in _OTHERS.items()},
    "repblend-no-blending": _ablation("no blending", {"distill.blend": "none"}),
    "repblend-noise": _ablation("noise in place of the other pair", {"distill.blend": "noise"}),
    "repblend-image-blend": _ablation("images alone are blended", {"distill.blend_sides": "image"}),
    "repblend-text-blend": _ablation("texts alone are blended", {"distill.blend_sides": "text"}),
    "repblend-text-head": _ablation("the text head alone is matched", {"distill.matched": "text-head"}),
    "repblend-identity": _ablation("the identity as similarity", {"distill.similarity": "identity"}),
    "repblend-full": _ablation("every entry of the similarity free", {"distill.similarity": "full"}),
}
