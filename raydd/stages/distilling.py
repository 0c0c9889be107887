"""The stage distill: makes a synthetic set of features, of pixels, or of features first and then pixels.

A distillation may be interrupted at any time.
"""

from collections.abc import Generator, Iterator
from dataclasses import asdict, replace
from typing import Any

from raydd.distill.content import distillation_content
from raydd.distill.engine import DistillPoint
from raydd.distill.synthetic import SyntheticSet
from raydd.protocols import Workbench, changed
from raydd.sets.provenance import Provenance
from raydd.sets.read import load_synthetic
from raydd.stages.distill_log import Log
from raydd.stages.inverting import invert_features
from raydd.stages.matching import CURVE, Phase, match
from raydd.stages.oom_retry import within_memory
from raydd.stages.students import recipe_content
from raydd.store import Record

VERSION = 4  # 2: image features step along their gradient; 3: learning rates are fitted upwards too; 4: allow-list


def distill(work: Workbench[Any], *, every: int = 0) -> Generator[DistillPoint]:
    """Distil a synthetic set, starting from the store's checkpoint if there is one.

    Yields a point every `every` steps and at the end. The last point is the finished set, whose record is then
    complete. If the record was complete before, only this point is yielded.

    Args:
        work: the workbench; its `distill.images` says what is learned.
        every: steps between two points; 0 yields only the last point.

    Raises:
        NonFiniteError: a loss or gradient became NaN or infinite. The set before that step stays in the folder.
        ConfigError: GPU memory was too small, even for half of `place.encode_batch` images if images were encoded.
    """
    yield from within_memory(lambda work: _distill_phases(work, every), work, lambda: _encodes(work))


def _encodes(work: Workbench[Any]) -> bool:
    """Whether what the store lacks next for a distillation is made in batches of images, not from cached features."""
    if not work.is_prepared:
        return True
    if work.config.distill.images == "features-then-pixels":
        return synthetic_record(in_features(work)).complete
    return work.config.distill.images == "pixels"


def _distill_phases(work: Workbench[Any], every: int) -> Iterator[DistillPoint]:
    work.require_enough_pairs()
    if work.config.distill.images == "features-then-pixels":
        yield from _features_then_pixels(work, synthetic_record(work), every)
    else:
        yield from match(only_phase(work, every))


def only_phase(work: Workbench[Any], every: int) -> Phase:
    """Return the phase of a distillation that has a single phase."""
    distill = work.config.distill
    return Phase(work, synthetic_record(work), distill, work.prepare_start, work.start, every, distill.steps)


def _features_then_pixels(work: Workbench[Any], record: Record, every: int) -> Iterator[DistillPoint]:
    """Distil features, then search for pixels that have these features; no distillation step follows."""
    steps = work.config.distill.steps
    features_phase = only_phase(in_features(work), every)
    if not record.complete:
        yield from match(features_phase)
    settings = replace(features_phase.settings, image_lr=0.0, steps=0)  # the images that were found stay as they are
    yield from match(
        Phase(
            work,
            record,
            settings,
            work.experts,
            lambda: invert_features(work, features_phase.record),
            every,
            steps,
            earlier_steps=steps,
            fitted_before=lambda: Provenance.from_json(features_phase.record.facts()).times_learned_rates,
        )
    )


def final_synthetic(work: Workbench[Any]) -> SyntheticSet:
    """Return the finished synthetic set; distils it if it is missing from the store."""
    *_, last_point = distill(work)
    return last_point.synthetic


def synthetic_record(work: Workbench[Any]) -> Record:
    """Return the record of the synthetic set that these settings make."""
    config = work.config
    settings: dict[str, Any] = {
        **distillation_content(config.distill, work.image_settings[config.distill.images]),
        "students": recipe_content(config.students, config.distill.pairs) if config.distill.fit_rates else {},
    }
    if config.distill.reads_experts:
        settings["temperature"] = config.experts.temperature
        settings["experts"] = {"count": config.experts.count, "first_seed": config.experts.seed}
        upstream = {"experts": work.experts_record.fingerprint}
    else:
        start_settings, upstream = work.selection_content(config.distill.start)
        settings |= {**work.student_content, **start_settings}
    if config.distill.images == "features-then-pixels":
        settings["pixels"] = asdict(config.pixels)
        upstream["features_set"] = synthetic_record(in_features(work)).fingerprint
    return Record.of(work.store, "synthetic", settings, upstream, version=VERSION)


def records_of(work: Workbench[Any]) -> list[Record]:
    """Return the record of a synthetic set, preceded by the record of its features if it was made from those."""
    if work.config.distill.images != "features-then-pixels":
        return [synthetic_record(work)]
    return [synthetic_record(in_features(work)), synthetic_record(work)]


def collapse_over_steps(record: Record) -> list[dict[str, float]]:
    """Return the collapse measures of a complete record's set over its steps, each with its `step`."""
    return Log.of_tensors(record.read_tensors(CURVE)).collapse


def in_features(work: Workbench[Any]) -> Workbench[Any]:
    """Return the run of the features under features-then-pixels; any other run is returned as it is."""
    if work.config.distill.images != "features-then-pixels":
        return work
    return changed(work, {"distill.images": "features"})


__all__ = [
    "DistillPoint",
    "collapse_over_steps",
    "distill",
    "final_synthetic",
    "in_features",
    "load_synthetic",
    "records_of",
    "synthetic_record",
]
