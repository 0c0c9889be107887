"""The stage distill: from expert trajectories to a synthetic set, in one of three spaces, interrupted at any time."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from raydd.config import Config, DistillConfig
from raydd.data import Features, ImageEncoder, load_image_encoder, open_pixels
from raydd.distill.engine import Distillation, DistillPoint
from raydd.distill.experts import Experts
from raydd.distill.image_variables import LearnedFeatures, LearnedPixels, Spread
from raydd.distill.inversion import pixels_of_features
from raydd.distill.start import start_set
from raydd.distill.synthetic import SyntheticSet
from raydd.distill.trajectories import content_of
from raydd.place import device_of, images_at_once, side_by_side
from raydd.progress import Progress, silent
from raydd.settings import with_settings
from raydd.stages import encoder_distilling
from raydd.stages.collapsing import collapse_of
from raydd.stages.curves import Log
from raydd.stages.encoder_bench import open_bench
from raydd.stages.experts import of_heads, open_experts
from raydd.stages.features import features as make_features
from raydd.stages.features import pairs as load_pairs
from raydd.stages.matching import CURVE, Phase, load_synthetic, match
from raydd.stages.room import within_memory
from raydd.stages.selecting import select
from raydd.stages.students import val_r_mean
from raydd.store import Record, Store

VERSION = 3  # 2: image features step along their gradient; 3: rates are fitted upwards too
PIXELS_VERSION = 3  # 3: shorter memories of Adam
_NOT_CONTENT = ("method", "checkpoint_every", "protocol", "encoder_rate")  # settings that decide nothing here


def distill(config: Config, store: Store, progress: Progress = silent, *, every: int = 0) -> Iterator[DistillPoint]:
    """Distil a synthetic set, going on from the store's checkpoint; yields every so many steps and at the end.

    The last point is the finished set, and its record is then complete; a complete record yields it at once.

    Args:
        config: all settings; `distill.space` says what is learned.
        store: where the result and the checkpoints are kept.
        progress: told about steps.
        every: steps between two points; 0 yields the last one alone.

    Raises:
        NonFiniteError: a loss or gradient became NaN or infinite. The set before that step stays in the folder.
        ConfigError: GPU memory was too small for half of `place.encode_batch` images too.
    """

    distilled = encoder_distilling.distilled if config.distill.protocol == "encoder" else _distilled

    def work(config: Config) -> Iterator[DistillPoint]:
        return distilled(config, store, progress, every)

    yield from within_memory(work, config, device_of(config.place))


def _distilled(config: Config, store: Store, progress: Progress, every: int) -> Iterator[DistillPoint]:
    cached = make_features(config, store, progress)
    bench = _Bench(config, store, cached, of_heads(config, store, progress), progress, every)
    record, settings = synthetic_record(config, store), config.distill
    if settings.space == "features-then-pixels":
        yield from _features_then_pixels(bench, record)
    elif settings.space == "pixels":
        yield from _match(bench, record, settings, lambda: _photographs(bench), settings.steps)
    else:
        yield from _match(bench, record, settings, lambda: _real_pairs(bench), settings.steps)


def final_synthetic(config: Config, store: Store, progress: Progress = silent) -> SyntheticSet:
    """The finished synthetic set, distilled if the store lacks it."""
    *_, last = distill(config, store, progress)
    return last.synthetic


def synthetic_record(config: Config, store: Store) -> Record:
    """The place of the synthetic set that these settings make."""
    if config.distill.protocol == "encoder":
        return encoder_distilling.synthetic_record(open_bench(config, store))
    opened = open_experts(config, store, make_features(config, store))
    settings: dict[str, Any] = {
        **{name: value for name, value in asdict(config.distill).items() if name not in _NOT_CONTENT},
        "temperature": config.experts.temperature,
        "experts": {"count": opened.count, "first_seed": opened.first_seed},
        "students": asdict(config.students) if config.distill.fit_rates else {},
    }
    upstream = {"experts": opened.record.fingerprint}
    if config.distill.space == "features-then-pixels":
        settings["pixels"] = asdict(config.pixels)
        upstream["features_set"] = synthetic_record(_in_features(config), store).fingerprint
    return Record.of(store, "synthetic", settings, upstream, version=VERSION)


def collapse_over_steps(record: Record) -> list[dict[str, float]]:
    """Collapse measures of a complete record's set over its steps, and the `step` of each; none in older records."""
    return Log.of_tensors(record.read_tensors(CURVE)).collapse


@dataclass(frozen=True)
class _Bench:
    """What the phases of one distillation share."""

    config: Config
    store: Store
    features: Features
    experts: Experts
    progress: Progress
    every: int

    @property
    def device(self) -> str:
        return device_of(self.config.place)

    def encoder(self) -> ImageEncoder:
        return load_image_encoder(self.config.encoders, self.device)


def _features_then_pixels(bench: _Bench, record: Record) -> Iterator[DistillPoint]:
    """Distil features, then find pixels that have them; no distillation step follows."""
    in_features, steps = _in_features(bench.config), bench.config.distill.steps
    features_record = synthetic_record(in_features, bench.store)
    if not record.complete:
        yield from _match(bench, features_record, in_features.distill, lambda: _real_pairs(bench), steps)
    found = replace(in_features.distill, image_lr=0.0, steps=0)  # the images stay those that were found
    yield from _match(bench, record, found, lambda: _inverted(bench, features_record), steps, before=steps)


def _match(
    bench: _Bench,
    record: Record,
    settings: DistillConfig,
    start: Callable[[], SyntheticSet],
    total: int,
    *,
    before: int = 0,
) -> Iterator[DistillPoint]:
    """Match trajectories from a start set until the record is complete.

    `total` and `before` count the steps of the other phases of the same distillation too.
    """
    phase = Phase(
        record,
        settings,
        begin=lambda: _begin(bench, settings, start()),
        collapse=lambda synthetic: collapse_of(bench.experts, settings, synthetic),
        score=lambda synthetic: val_r_mean(bench.config, bench.features, synthetic),
        data=load_pairs(bench.config, bench.store),
        captions=bench.features.train.texts,
        facts={
            "encoders": {"image": bench.config.encoders.image, "text": bench.config.encoders.text},
            "experts": {**content_of(bench.config.experts), "width": bench.experts.width},
        },
        device=bench.device,
        progress=bench.progress,
        every=bench.every,
        total=total,
        before=before,
    )
    yield from match(phase)


def _begin(bench: _Bench, settings: DistillConfig, start: SyntheticSet) -> Distillation:
    """A distillation at its start."""
    spread = Spread(bench.features.image_spread, bench.features.image_range)
    image = LearnedFeatures(spread)
    if settings.space == "pixels":
        encoder, batch = bench.encoder(), images_at_once(bench.config.place, bench.device)
        image = LearnedPixels(encoder.module, encoder.pixel_std, batch, spread)
    return Distillation(
        start,
        bench.experts,
        settings,
        image,
        text_spread=bench.features.text_spread,
        temperature=bench.config.experts.temperature,
        device=bench.device,
    )


def _real_pairs(bench: _Bench) -> SyntheticSet:
    settings = bench.config.distill
    captions = select(
        bench.config, bench.store, settings.start, pairs=settings.pairs, seed=settings.seed, progress=bench.progress
    )
    return start_set(
        bench.features.train,
        captions,
        seed=settings.seed,
        rate=settings.start_rate,
        similarity=settings.similarity,
        rank=settings.rank,
        alpha=settings.alpha,
        loss=settings.loss,
    )


def _photographs(bench: _Bench) -> SyntheticSet:
    """The real pairs with their pixels."""
    synthetic = _real_pairs(bench)
    return replace(synthetic, pixels=_start_pixels(bench, synthetic, bench.encoder().size))


def _start_pixels(bench: _Bench, synthetic: SyntheticSet, size: int) -> UInt8[Tensor, "N 3 S S"]:
    """The pixels of the real images that a set started from."""
    train = load_pairs(bench.config, bench.store).train
    return open_pixels([train.images[index] for index in synthetic.start_images.tolist()], size)


def _inverted(bench: _Bench, features_record: Record) -> SyntheticSet:
    """The set of a record of features with pixels that have these, and with the features that the pixels really have.

    Images are found batch by batch, on a CPU some batches side by side, each kept in the store when it is done.
    """
    settings, encoder, device = bench.config.pixels, bench.encoder(), bench.device
    content = {"steps": settings.steps, "lr": settings.lr}
    upstream = {"features_set": features_record.fingerprint}
    record = Record.of(bench.store, "pixels", content, upstream, version=PIXELS_VERSION)
    synthetic = load_synthetic(features_record)
    start, size = _start_pixels(bench, synthetic, encoder.size), images_at_once(bench.config.place, device)
    done, total = itertools.count(1), settings.steps * len(start)

    def tell(images: int) -> None:
        for _ in range(images):
            bench.progress("pixel steps", next(done), total)

    def find(begin: int) -> dict[str, Tensor]:
        name, pixels = f"from-{begin:04}-by-{size}.safetensors", start[begin : begin + size]
        if not record.has(name):
            found = pixels_of_features(
                pixels.to(device),
                synthetic.image_features[begin : begin + size].to(device),
                encoder.module,
                steps=settings.steps,
                lr=settings.lr,
                on_step=lambda _: tell(len(pixels)),
            )
            with torch.no_grad():
                features = encoder.module(found.float() / 255)
            record.write_tensors(name, {"pixels": found.cpu(), "features": features.float().cpu()})
        return record.read_tensors(name)

    parts = side_by_side(find, range(0, len(start), size), device)
    return replace(
        synthetic,
        pixels=torch.cat([part["pixels"] for part in parts]),
        image_features=torch.cat([part["features"] for part in parts]),
    )


def _in_features(config: Config) -> Config:
    return with_settings(config, {"distill.space": "features"})
