"""Expert trajectories: steps on cached features, next to steps that augment and encode their minibatches."""

from itertools import cycle
from pathlib import Path

from torch import Generator, Tensor

from bench import published_loop
from bench.inputs import CAPTIONS_EACH, IMAGES, SCORED_IMAGES, TEMPERATURE, encoders, flat, pictures, sources, split_of
from bench.measuring import Pieces, Size
from bench.rows.row import GIGABYTES, Row
from raydd.config import DistillConfig, ExpertsConfig, FeaturesConfig
from raydd.data.augment import transform_of
from raydd.data.encoding import ViewsOf, batches_of, encode_captions, encode_views
from raydd.distill.experts import Experts, train_epoch_
from raydd.distill.heads import Head, dropout_mask, head_size, initial_heads
from raydd.store import Record, Store

_EPOCHS, _EXPERTS = 10, 20  # as published
_STEPS = 8  # steps of raydd in one piece
_ENCODED = 32  # images or captions encoded in one piece
_PUBLISHED_GB = 0.73  # from RepBlend's cost table
_HALF = 2  # bytes of a half-precision number


def _trajectory_pieces(size: Size, folder: Path) -> Pieces:
    """Return the pieces of one more expert, whose features are all in the cache."""
    batch = size.expert_batch
    steps = _EPOCHS * (IMAGES * CAPTIONS_EACH // batch)
    run = {
        "published step": _published_step(size),
        f"{_STEPS} steps": _cached_steps_run(size),
        "snapshot": _snapshot_writer(size, folder),
    }
    return Pieces(run, {"published step": steps}, {f"{_STEPS} steps": steps / _STEPS, "snapshot": _EPOCHS})


def _all_experts_pieces(size: Size, folder: Path) -> Pieces:
    """Return the pieces of 20 experts and of the feature cache that they need."""
    trajectory = _trajectory_pieces(size, folder)
    views = IMAGES * FeaturesConfig().views + 2 * SCORED_IMAGES
    captions = (IMAGES + 2 * SCORED_IMAGES) * CAPTIONS_EACH
    run = {**trajectory.run, "views encoded": _encode_views(size), "captions encoded": _encode_captions(size)}
    raydd = {name: _EXPERTS * count for name, count in trajectory.raydd.items()}
    raydd |= {"views encoded": views / _ENCODED, "captions encoded": captions / _ENCODED}
    return Pieces(run, {name: _EXPERTS * count for name, count in trajectory.baseline.items()}, raydd)


def _published_step(size: Size):
    models, (images, captions) = encoders(size.image_size), pictures(size.expert_batch)
    flats, width = flat(initial_heads(models.image.width, models.text.width, models.image.width, 0)), models.image.width
    transform = transform_of("published", size.image_size)
    masks = Generator().manual_seed(0)

    def augment(picture) -> Tensor:
        return transform(picture).float() / 255

    def step() -> float:
        shape = (size.expert_batch, width)
        return published_loop.expert_step(
            flats,
            images,
            captions,
            augment,
            models.plain,
            models.text.encode,
            width=width,
            lr=0.1,
            temperature=TEMPERATURE,
            dropout=(dropout_mask(shape, 0.1, masks), dropout_mask(shape, 0.1, masks)),
        )

    return step


def _cached_steps_run(size: Size):
    models = encoders(size.image_size)
    split = split_of(size.expert_batch * _STEPS // CAPTIONS_EACH + 1, models.image.width, models.text.width)
    heads = initial_heads(models.image.width, models.text.width, models.image.width, 0)
    image, text = (Head(*(part.clone() for part in head)) for head in heads)
    recipe = ExpertsConfig(batch_size=size.expert_batch)
    return lambda: train_epoch_(image, text, split, recipe, epoch=1, seeds=[0], device="cpu")


def _snapshot_writer(size: Size, folder: Path):
    """Return the work at the end of an epoch: rounding the heads and writing them."""
    models = encoders(size.image_size)
    record = Record.of(Store(folder / "snapshot"), "experts", {}, {}, version=1)
    experts = Experts(record, models.image.width, models.text.width, models.image.width, first_seed=0, count=1)
    heads = initial_heads(models.image.width, models.text.width, models.image.width, 0)
    return lambda: record.write_tensors(experts.name(0, 1), experts.rounded(0, experts.initial(0), heads)[0])


def _encode_views(size: Size):
    models, (images, _) = encoders(size.image_size), sources(IMAGES)
    views = FeaturesConfig().views
    source = ViewsOf(images, transform_of("published", size.image_size), views, 0)
    starts = cycle(range(0, 512, _ENCODED // views))

    def encode() -> list[Tensor]:
        begin = next(starts)
        batches = batches_of(range(begin, begin + _ENCODED // views), 8)
        return list(encode_views(models.image, source, batches, device="cpu", workers=0))

    return encode


def _encode_captions(size: Size):
    models, (_, captions) = encoders(size.image_size), sources(_ENCODED)
    batches = batches_of(range(_ENCODED), 64)
    return lambda: list(encode_captions(models.text, captions, batches, device="cpu", workers=0))


def _trajectory_gigabytes(size: Size, folder: Path) -> tuple[float, float]:  # noqa: ARG001
    """Return GB of a stored trajectory: the published number, and raydd's for the default start and target epochs."""
    record = Record.of(Store(folder / "stored"), "experts", {}, {}, version=1)
    experts = Experts(record, 2304, 768, 2304, first_seed=0, count=1)
    stored_bytes = 0
    for epoch in DistillConfig().expert_epochs:
        if epoch:
            record.write_tensors(
                experts.name(0, epoch), experts.rounded(0, experts.initial(0), initial_heads(2304, 768, 2304, epoch))[0]
            )
            stored_bytes += len(record.read(experts.name(0, epoch)))
    assert stored_bytes >= _HALF * (head_size(2304, 2304) + head_size(768, 2304))
    return _PUBLISHED_GB, stored_bytes / 1e9


EXPERTS = (
    Row(
        "expert",
        "a further expert trajectory of 10 epochs from cached features, 17,000 pairs",
        "a step that augments and encodes, times the number of steps",
        floor=100,
        aim=300,
        quick_floor=5,
        pieces=_trajectory_pieces,
    ),
    Row(
        "experts",
        "20 experts, including the time to encode the cache of 4 views",
        "the same step, times the number of steps of 20 experts",
        floor=15,
        aim=20,
        quick_floor=4,
        pieces=_all_experts_pieces,
    ),
    Row(
        "storage",
        "a stored trajectory at published widths",
        "as published",
        floor=0.11,
        aim=0.05,
        quick_floor=0.11,
        measure=GIGABYTES,
        memory=None,
        numbers=_trajectory_gigabytes,
    ),
)
