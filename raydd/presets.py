"""Presets: named groups of settings, most as published, for `--preset repblend-flickr30k-100`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from raydd.config import DistillConfig


@dataclass(frozen=True)
class Preset:
    """Settings that belong together, and a description of them."""

    description: str
    settings: Mapping[str, Any]

    @property
    def method(self) -> str:
        """Name of its method: the default one, unless its settings name another."""
        return self.settings.get("distill.method", DistillConfig.method)


_ENCODERS = {
    "data.caption_words": 60,  # the code truncates COCO's held-out captions to 30 words, which few of them have
    "encoders.image": "nfnet",
    "encoders.text": "bert",
    "features.views": 10,
    "experts.count": 20,
    "experts.epochs": 10,
    "experts.lr": 0.1,
    "experts.width": 2304,
    "features.centre": False,
}

_SCRIPT_SETTINGS = {
    "distill.images": "pixels",
    "distill.steps": 3000,
    "distill.steps_per_encoding": 1,
    "distill.student_steps": 8,
    "distill.minibatch": 20,
    "distill.target_epochs": 1,
    "distill.loss": "wbce",
    "distill.fit_rates": False,
    "students.rate": "published",
    "students.batch_size": 128,
    "students.weight_decay": 5e-4,
    "distill.optimizer": "sgd",
    "distill.momentum": 0.5,
    "distill.schedule": "constant",
    "distill.gradient": "constant-memory",
    "distill.rate_lr": 0.01,
    "distill.start_rate": 0.1,
}


def _repblend(
    name: str,
    pairs: int,
    lr: float,
    similarity_lr: float,
    rank: int,
    alpha: float,
    start_epochs: int,
    merged: bool = False,
) -> Preset:
    return Preset(
        f"RepBlend on {name}, {pairs} pairs, NFNet and BERT, pixels, as published (scripts of the reference code)",
        {
            **_ENCODERS,
            **_SCRIPT_SETTINGS,
            "distill.method": "repblend",
            "distill.blend": "beta",
            "distill.blend_beta": 1.0,
            "distill.pairs": pairs,
            "distill.image_lr": lr,
            "distill.text_lr": lr,
            "distill.similarity_lr": similarity_lr,
            "distill.rank": rank,
            "distill.alpha": alpha,
            "distill.max_start_epoch": start_epochs,
            "distill.merged": merged,
        },
    )


@dataclass(frozen=True)
class _Script:
    """A script of other authors. It trains the whole image encoder, without an image head, and the text head."""

    title: str
    """Method, data set and pairs."""
    source: str
    """Origin of the settings."""
    settings: Mapping[str, Any]

    def with_heads(self) -> Preset:
        """Return the script as a preset that trains both heads instead, as raydd does by default."""
        description = f"{self.title}, NFNet and BERT, pixels, both heads trained, else {self.source}"
        return Preset(description, self.settings)

    def with_encoder(self) -> Preset:
        """Return the script as a preset that trains what it trains."""
        description = f"{self.title}, NFNet and BERT, pixels, image encoder and text head trained, {self.source}"
        protocol = {"distill.protocol": "encoder", "experts.encoder_lr": 0.1, "distill.encoder_rate": 0.1}
        return Preset(description, {**self.settings, **protocol})


def _lors(name: str, base: Preset, minibatch: int, steps: int = 3000) -> _Script:
    """Return the settings of a LoRS script: RepBlend's for the same data and budget, except those in `overrides`."""
    overrides = {"distill.minibatch": minibatch, "distill.steps": steps, "evaluate.checks": 11}
    return _Script(
        f"LoRS on {name}, {base.settings['distill.pairs']} pairs",
        "as in its scripts",
        {**base.settings, "distill.method": "lors", "distill.blend": "none", **overrides},
    )


def _without_students(title: str, method: str, settings: Mapping[str, Any]) -> Preset:
    """Preset of a method that trains no students. It learns no similarity matrix, so it has all 100 pairs."""
    return Preset(
        f"Flickr30k, 100 pairs, NFNet and BERT, features: {title}"
        + (" with those of the paper's settings that apply here" if settings else ""),
        {
            **_ENCODERS,
            "distill.method": method,
            "distill.pairs": 100,
            "distill.images": "features",
            "students.weight_decay": 5e-4,
            **settings,
        },
    )


def _without_similarity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings for a method without a learned similarity matrix, which gets one more pair instead."""
    similarity_settings = ("distill.similarity_lr", "distill.rank", "distill.alpha")
    remaining = {name: value for name, value in settings.items() if name not in similarity_settings}
    return remaining | {"distill.similarity": "identity", "distill.pairs": settings["distill.pairs"] + 1}


def _tesla_vl(pairs: int, lors: _Script) -> _Script:
    return _Script(
        f"TESLA-VL on Flickr30k, {pairs} pairs",
        "with the settings of the LoRS script, since TESLA-VL has no script",
        {**_without_similarity(lors.settings), "distill.method": "tesla-vl"},
    )


# MTT-VL's code multiplies the cosine similarities of a distillation step by log(1/0.07), without the exponential.
MTT_VL_TEMPERATURE = 1 / math.log(1 / 0.07)
# From the command in the code's README and the defaults of its scripts. It gives numbers for 100 pairs only.
_MTT_VL = _Script(
    "MTT-VL on Flickr30k, 100 pairs",
    "as in the README of its code",
    {
        **_without_similarity(_repblend("Flickr30k", 99, 1000, 0, 1, 1, start_epochs=2).settings),
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


def _ablation(title: str, settings: Mapping[str, Any]) -> Preset:
    return Preset(f"Ablation of RepBlend: {title}", {"distill.method": "repblend", **settings})


# The defaults until November 2026, with which most pages of docs/results and docs/comparison were measured.
_EARLIER = Preset(
    "RepBlend with InfoNCE, on features that are not centred: raydd's defaults until November 2026",
    {
        "features.centre": False,
        "experts.count": 10,
        "experts.lr": 0.2,
        "distill.method": "repblend",
        "distill.loss": "infonce",
        "distill.steps": 300,
        "distill.target_epochs": 2,
        "distill.start_rate": 0.3,
        "distill.image_lr": 0.1,
        "distill.text_lr": 0.2,
        "distill.rate_lr": 0.02,
        "distill.range_pull": 0.03,
        "pixels.steps": 200,
        "students.batch_size": 128,
        "students.weight_decay": 5e-4,
    },
)

# raydd's own presets. A set that is matched on pixels needs no search for pixels afterwards, but learns them slowly.
# With few steps, students of another image encoder score better on it (docs/results/pixels.md).
_DIRECT = Preset(
    "Plain matching directly on pixels, which are encoded once every four steps; no features are learned first",
    {
        **_EARLIER.settings,
        "distill.method": "plain",
        "distill.images": "pixels",
        "distill.steps": 200,
        "distill.student_steps": 8,
        "distill.minibatch": 50,
        "distill.image_lr": 0.05,
    },
)
_PLAIN_PIXELS = Preset(
    "Plain matching on pixels that move little: takes minutes, and gives images that other encoders can use too",
    {
        **_DIRECT.settings,
        "experts.count": 4,
        "distill.steps": 60,
        "distill.steps_per_encoding": 6,
    },
)

# Found by a search from a cold start on Flickr8k (docs/results/search.md). Sets and weight decay belong together: with
# the published weight decay, students of such sets score two points less.
_PLAIN_FEATURES = Preset(
    "Nearly plain matching on features: the best settings that a search found for 99 pairs of Flickr8k",
    {
        "features.views": 16,
        "features.centre": False,
        "experts.count": 20,
        "experts.lr": 0.4,
        "distill.images": "features",
        "distill.range_pull": 0.0,
        "distill.start": "co-occurrence",
        "distill.steps": 1000,
        "distill.student_steps": 4,
        "distill.minibatch": 20,
        "distill.target_epochs": 3,
        "distill.blend": "fixed",
        "distill.blend_ratio": 0.05,
        "distill.similarity": "identity",
        "distill.start_rate": 0.04,
        "distill.image_lr": 0.13,
        "distill.text_lr": 0.05,
        "distill.rate_lr": 0.1,
        "students.weight_decay": 0.0035,
    },
)
# Features that stay where pixels can follow: centred, so that the range of real features has both signs.
_PLAIN_IMAGES = Preset(
    "The same settings for images: on features minus their mean, kept in the range of real ones, then pixels",
    {
        **_PLAIN_FEATURES.settings,
        "features.centre": True,
        "distill.images": "features-then-pixels",
        "distill.range_pull": 1.0,
        "pixels.steps": 200,
        "students.weight_decay": 0.005,
    },
)

# Any image encoder can read photographs, but images learned for one encoder suit that one. Four photographs of
# 112 x 112 are as many numbers as one of 224 x 224 (docs/comparison/elsewhere.md).
_PHOTOGRAPHS = Preset(
    "Learned texts for 393 small photographs that stay as they are: for students of encoders not known beforehand",
    {
        **_PLAIN_FEATURES.settings,
        "features.views": 4,
        "experts.count": 10,
        "experts.width": 1280,
        "distill.images": "pixels",
        "distill.pairs": 393,
        "distill.minibatch": 80,
        "distill.image_size": 112,
        "distill.image_lr": 0.0,
        "students.batch_size": 128,
        "students.weight_decay": 0.0025,
    },
)

_COCO_500 = _repblend("COCO", 499, 5000, 500, 40, 1, 2, merged=True)
# Only this script distils at temperature 0.1 and scores students at 0.07; its experts see no augmentation.
_COCO_500 = replace(
    _COCO_500,
    settings={**_COCO_500.settings, "distill.temperature": 0.1, "features.augment": "none", "features.views": 1},
)
_REPBLEND = {
    "repblend-flickr30k-100": _repblend("Flickr30k", 99, 100, 10, 10, 3, 2),
    "repblend-flickr30k-200": _repblend("Flickr30k", 199, 1000, 10, 5, 1, 2),
    "repblend-flickr30k-500": _repblend("Flickr30k", 499, 1000, 100, 20, 0.01, 3),
    "repblend-coco-100": _repblend("COCO", 99, 1000, 5, 10, 1, 2, merged=True),
    "repblend-coco-200": _repblend("COCO", 199, 1000, 50, 20, 1, 2, merged=True),
    "repblend-coco-500": _COCO_500,
}
_LORS = {
    "lors-flickr30k-100": _lors("Flickr30k", _REPBLEND["repblend-flickr30k-100"], 20),
    "lors-flickr30k-200": _lors("Flickr30k", _REPBLEND["repblend-flickr30k-200"], 20),
    "lors-flickr30k-500": _lors("Flickr30k", _REPBLEND["repblend-flickr30k-500"], 40),
    "lors-coco-100": _lors("COCO", _REPBLEND["repblend-coco-100"], 20),
    "lors-coco-200": _lors("COCO", _REPBLEND["repblend-coco-200"], 20, steps=2000),
    "lors-coco-500": _lors("COCO", _REPBLEND["repblend-coco-500"], 30),
}
_SCRIPTS = {
    **_LORS,
    **{f"tesla-vl-flickr30k-{pairs}": _tesla_vl(pairs, _LORS[f"lors-flickr30k-{pairs}"]) for pairs in (100, 200, 500)},
    "mtt-vl-flickr30k-100": _MTT_VL,
}

PRESETS: dict[str, Preset] = {
    "plain-features": _PLAIN_FEATURES,
    "plain-images": _PLAIN_IMAGES,
    "direct": _DIRECT,
    "plain-pixels": _PLAIN_PIXELS,
    "photographs": _PHOTOGRAPHS,
    "earlier": _EARLIER,
    **_REPBLEND,
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
    **{name: script.with_heads() for name, script in _SCRIPTS.items()},
    **{f"{name}-encoder": script.with_encoder() for name, script in _SCRIPTS.items()},
    "repblend-no-blending": _ablation("no blending", {"distill.blend": "none"}),
    "repblend-noise": _ablation("noise instead of the other pair", {"distill.blend": "noise"}),
    "repblend-image-blend": _ablation("only images are blended", {"distill.blend_sides": "image"}),
    "repblend-text-blend": _ablation("only texts are blended", {"distill.blend_sides": "text"}),
    "repblend-text-head": _ablation("only the text head is matched", {"distill.matched": "text-head"}),
    "repblend-identity": _ablation(
        "the identity as similarity matrix",
        {"distill.similarity": "identity", "distill.minibatch": 50},  # as large as with a learned matrix, for 99 pairs
    ),
    "repblend-full": _ablation("each entry of the similarity matrix is learned", {"distill.similarity": "full"}),
}
