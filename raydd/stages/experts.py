"""The stage experts: trajectories of both heads on all real pairs."""

from collections.abc import Callable, Collection

from raydd.config import Config
from raydd.data import Features
from raydd.distill import experts as trajectories
from raydd.distill.encoder_experts import EncoderExperts
from raydd.distill.experts import Experts, Heads
from raydd.distill.trajectories import content_of
from raydd.place import device_of
from raydd.progress import Progress, silent
from raydd.stages import encoder_experts
from raydd.stages.encoder_bench import open_bench
from raydd.stages.features import features as make_features
from raydd.store import Record, Store


def experts(
    config: Config,
    store: Store,
    progress: Progress = silent,
    *,
    claim: Callable[[int], bool] = lambda expert: True,
) -> Experts | EncoderExperts:
    """The experts that a distillation reads, those that the store lacks trained here.

    Args:
        config: all settings.
        store: where trajectories are kept.
        progress: told about epochs.
        claim: asked before an expert is trained; False leaves it to whoever has it.
    """
    if config.distill.protocol == "encoder":
        return encoder_experts.experts(config, store, progress, claim=claim)
    return of_heads(config, store, progress, claim=claim)


def of_heads(
    config: Config,
    store: Store,
    progress: Progress = silent,
    *,
    claim: Callable[[int], bool] = lambda expert: True,
) -> Experts:
    """The same of heads on frozen encoders."""
    count, epochs = config.experts.count, config.distill.expert_epochs
    return trajectories_of(config, store, progress, count=count, epochs=epochs, claim=claim)


def missing_experts(config: Config, store: Store) -> list[int]:
    """The experts whose snapshots for this distillation are not all in the store."""
    return opened_experts(config, store).missing(config.distill.expert_epochs)


def opened_experts(config: Config, store: Store) -> Experts | EncoderExperts:
    """The place of the trajectories of these settings, to be asked again and again what it lacks."""
    if config.distill.protocol == "encoder":
        return encoder_experts.open_experts(open_bench(config, store))
    return open_experts(config, store, make_features(config, store))


def train_expert(config: Config, store: Store, expert: int, progress: Progress = silent) -> None:
    """Train what one expert lacks for this distillation."""
    if config.distill.protocol == "encoder":
        bench = open_bench(config, store, progress)
        opened = encoder_experts.open_experts(bench)
        encoder_experts.train_expert(bench, opened, expert, config.distill.expert_epochs)
        return
    cached = make_features(config, store, progress)
    _train(config, open_experts(config, store, cached), expert, config.distill.expert_epochs, cached, progress)


def warmed_up(config: Config, store: Store, expert: int, epoch: int, progress: Progress = silent) -> Heads:
    """Both heads of one expert after an epoch, trained on where the store lacks it."""
    cached = make_features(config, store, progress)
    opened = open_experts(config, store, cached, count=expert + 1)
    if not opened.has(expert, epoch):
        _train(config, opened, expert, [epoch], cached, progress)
    return opened.snapshot(expert, epoch)


def open_experts(config: Config, store: Store, features: Features, *, count: int = 0) -> Experts:
    """The place of the trajectories of this recipe on these features; `count` overrides the configured number."""
    recipe = config.experts
    width = recipe.width or features.image_width
    settings = {
        **content_of(recipe),
        "width": width,
    }
    upstream = {"features": features.fingerprint}
    record = Record.of(store, "experts", settings, upstream, version=trajectories.VERSION)
    return Experts(record, features.image_width, features.text_width, width, recipe.seed, count or recipe.count)


def trajectories_of(
    config: Config,
    store: Store,
    progress: Progress = silent,
    *,
    count: int,
    epochs: Collection[int],
    claim: Callable[[int], bool] = lambda expert: True,
) -> Experts:
    """The first `count` experts with their snapshots of these epochs, trained on where the store lacks them.

    `claim` is asked before an expert is trained; False leaves it to whoever has it.
    """
    cached = make_features(config, store, progress)
    opened = open_experts(config, store, cached, count=count)
    for expert in opened.missing(epochs):
        if claim(expert):
            _train(config, opened, expert, epochs, cached, progress)
    return opened


def _train(
    config: Config, opened: Experts, expert: int, epochs: Collection[int], features: Features, progress: Progress
) -> None:
    last, total = max(epochs), opened.count
    trajectories.train_expert(
        opened,
        expert,
        features.train,
        config.experts,
        epochs,
        device=device_of(config.place),
        on_epoch=lambda epoch, loss: progress("epochs of experts", expert * last + epoch, total * last),
    )
