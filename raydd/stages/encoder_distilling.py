"""The stage distill under protocol A: synthetic pixels and texts that train a whole image encoder and a text head."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from raydd.config import Config
from raydd.distill.encoder_experts import EncoderExperts
from raydd.distill.engine import Distillation, DistillPoint
from raydd.distill.image_variables import TrainedPixels
from raydd.distill.synthetic import SyntheticSet
from raydd.distill.trajectories import content_of
from raydd.evaluate.collapse import collapse_measures
from raydd.evaluate.encoder_students import embed_pairs
from raydd.progress import Progress
from raydd.stages.encoder_bench import EncoderBench, open_bench
from raydd.stages.encoder_experts import experts_record, trained
from raydd.stages.encoder_students import score_students
from raydd.stages.matching import Phase, match
from raydd.store import Record, Store

VERSION = 2  # 2: rates are fitted upwards too
# Settings of distill that do not decide what comes out, or that protocol A has no use for.
_NOT_CONTENT = ("method", "checkpoint_every", "steps_per_encoding", "range_pull", "start", "space")


def distilled(config: Config, store: Store, progress: Progress, every: int) -> Iterator[DistillPoint]:
    """Distil, going on from the store's checkpoint; yields every so many steps and at the end."""
    bench = open_bench(config, store, progress)
    record, settings = synthetic_record(bench), config.distill
    experts = trained(bench, count=config.experts.count, epochs=settings.expert_epochs)
    phase = Phase(
        record,
        settings,
        begin=lambda: _begin(bench, experts),
        collapse=lambda synthetic: collapse_of(bench, experts, synthetic),
        score=lambda synthetic: score_students(bench, synthetic, "val", [0]).mean["r_mean"],
        data=bench.data,
        captions=bench.captions.train.texts,
        facts={
            "encoders": {"image": config.encoders.image, "text": config.encoders.text},
            "experts": {
                **content_of(config.experts),
                "encoder_lr": config.experts.encoder_lr,
                "width": bench.encoder.width,
            },
        },
        device=bench.device,
        progress=progress,
        every=every,
        total=settings.steps,
    )
    yield from match(phase)


def synthetic_record(bench: EncoderBench) -> Record:
    """The place of the synthetic set that these settings make."""
    config = bench.config
    settings: dict[str, Any] = {
        **{name: value for name, value in asdict(config.distill).items() if name not in _NOT_CONTENT},
        "temperature": config.experts.temperature,
        "experts": {"count": config.experts.count, "first_seed": config.experts.seed},
        "students": asdict(config.students) if config.distill.fit_rates else {},
    }
    upstream = {"experts": experts_record(bench).fingerprint}
    return Record.of(bench.store, "synthetic", settings, upstream, version=VERSION)


def _begin(bench: EncoderBench, experts: EncoderExperts) -> Distillation:
    """A distillation at its start: real pairs with their pixels."""
    config = bench.config
    settings = config.distill
    rates = settings.encoder_rate, settings.start_rate
    return Distillation(
        bench.real_set(settings.seed, rates, settings.loss, settings.similarity),
        experts,
        settings,
        TrainedPixels(bench.trained, bench.encoder.pixel_std),
        text_spread=bench.captions.spread,
        temperature=config.experts.temperature,
        device=bench.device,
    )


def collapse_of(bench: EncoderBench, experts: EncoderExperts, synthetic: SyntheticSet) -> dict[str, float]:
    """Collapse measures of a set, in the space of the first expert's last snapshot."""
    networks = experts.snapshot(0, bench.config.distill.expert_epochs[-1])
    return collapse_measures(*embed_pairs(bench.trained, networks, synthetic, device=bench.device))
