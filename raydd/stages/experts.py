"""The stage experts: trajectories of both heads on all real pairs."""

from collections.abc import Callable, Collection
from dataclasses import replace

from raydd.config import Config
from raydd.data import Features
from raydd.distill import experts as trajectories
from raydd.distill.experts import Experts
from raydd.place import device_of
from raydd.progress import Progress, silent
from raydd.stages.features import features as make_features
from raydd.store import Record, Store


def experts(
    config: Config,
    store: Store,
    progress: Progress = silent,
    *,
    claim: Callable[[int], bool] = lambda expert: True,
    epochs: Collection[int] = (),
) -> Experts:
    """The experts that a distillation reads, those that the store lacks trained here.

    Args:
        config: all settings.
        store: where trajectories are kept.
        progress: told about epochs.
        claim: asked before an expert is trained; False leaves it to whoever has it.
        epochs: snapshots that each must have; as default those that the distillation reads.
    """
    opened = open_experts(config, store, make_features(config, store, progress))
    wanted = epochs or config.distill.expert_epochs
    for expert in opened.missing(wanted):
        if claim(expert):
            _train(config, opened, expert, wanted, make_features(config, store), progress)
    return opened


def missing_experts(config: Config, store: Store) -> list[int]:
    """The experts whose snapshots for this distillation are not all in the store."""
    return open_experts(config, store, make_features(config, store)).missing(config.distill.expert_epochs)


def train_expert(config: Config, store: Store, expert: int, progress: Progress = silent) -> None:
    """Train what one expert lacks for this distillation."""
    cached = make_features(config, store, progress)
    _train(config, open_experts(config, store, cached), expert, config.distill.expert_epochs, cached, progress)


def open_experts(config: Config, store: Store, features: Features, *, count: int = 0) -> Experts:
    """The place of the trajectories of this recipe on these features; `count` overrides the configured number."""
    recipe = config.experts
    width = recipe.width or features.image_width
    settings = {
        "lr": recipe.lr,
        "batch_size": recipe.batch_size,
        "dropout": recipe.dropout,
        "temperature": recipe.temperature,
        "width": width,
    }
    upstream = {"features": features.fingerprint}
    record = Record.of(store, "experts", settings, upstream, version=trajectories.VERSION)
    return Experts(record, features.image_width, features.text_width, width, recipe.seed, count or recipe.count)


def full_students(config: Config, store: Store, progress: Progress = silent) -> Experts:
    """The upper row: as many experts as student seeds, at the end of a full trajectory.

    They are experts of seeds that distillation reads too, trained on where needed: nothing is trained twice.
    """
    cached = make_features(config, store, progress)
    opened = replace(open_experts(config, store, cached), count=config.evaluate.seeds)
    for expert in opened.missing([config.experts.epochs]):
        _train(config, opened, expert, [config.experts.epochs], cached, progress)
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
