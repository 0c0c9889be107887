"""The stage experts under protocol A: trajectories of the image encoder and the text head, from pixels."""

import itertools
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor

from raydd.config import Config
from raydd.data import ViewsOf, open_views
from raydd.data.augment import transform_of
from raydd.data.encoding import workers_for
from raydd.distill import encoder_experts as trajectories
from raydd.distill.encoder_experts import EncoderExperts, minibatches
from raydd.distill.encoder_student import Networks
from raydd.distill.trajectories import content_of, extend
from raydd.progress import Progress, silent
from raydd.stages.encoder_bench import EncoderBench, open_bench
from raydd.store import Record, Store


def experts(
    config: Config,
    store: Store,
    progress: Progress = silent,
    *,
    claim: Callable[[int], bool] = lambda expert: True,
) -> EncoderExperts:
    """The experts that a distillation reads, those that the store lacks trained here."""
    bench = open_bench(config, store, progress)
    return trained(bench, count=config.experts.count, epochs=config.distill.expert_epochs, claim=claim)


def trained(
    bench: EncoderBench,
    *,
    count: int,
    epochs: Collection[int],
    claim: Callable[[int], bool] = lambda expert: True,
) -> EncoderExperts:
    """The first `count` experts with their snapshots of these epochs, trained on where the store lacks them.

    `claim` is asked before an expert is trained; False leaves it to whoever has it.
    """
    opened = open_experts(bench, count=count)
    for expert in opened.missing(epochs):
        if claim(expert):
            train_expert(bench, opened, expert, epochs)
    return opened


def experts_record(bench: EncoderBench) -> Record:
    """The place of the trajectories of this recipe on these pairs; builds no network."""
    recipe = bench.config.experts
    settings = {
        "protocol": "encoder",
        "image": bench.identity,
        "augment": bench.config.features.augment,
        **content_of(recipe),
        "encoder_lr": recipe.encoder_lr,
    }
    upstream = {"texts": bench.captions.fingerprint}
    return Record.of(bench.store, "experts", settings, upstream, version=trajectories.VERSION)


def open_experts(bench: EncoderBench, *, count: int = 0) -> EncoderExperts:
    """The trajectories of this recipe on these pairs; `count` overrides the configured number."""
    recipe = bench.config.experts
    pretrained = {name: weight.cpu() for name, weight in bench.trained.start.items()}
    return EncoderExperts(
        experts_record(bench),
        pretrained,
        bench.captions.width,
        bench.encoder.width,
        recipe.seed,
        count or recipe.count,
    )


def train_expert(bench: EncoderBench, opened: EncoderExperts, expert: int, epochs: Collection[int]) -> None:
    """Train what one expert lacks of these epochs."""
    recipe, texts = bench.config.experts, bench.captions.train.texts
    per_epoch = len(minibatches(len(texts), recipe.batch_size, seed=0))
    total = opened.count * max(epochs) * per_epoch

    def epoch_of(networks: Networks, epoch: int, seed: int) -> tuple[float, Networks]:
        done = itertools.count((expert * max(epochs) + epoch - 1) * per_epoch + 1)
        return trajectories.train_epoch(
            bench.trained,
            networks,
            _batches(bench, seed),
            texts,
            recipe,
            lr_multipliers=recipe.lr_multipliers(epoch, per_epoch),
            seed=seed,
            device=bench.device,
            on_batch=lambda: bench.progress("minibatches of experts", next(done), total),
        )

    extend(opened, expert, epochs, epoch_of)


def _batches(bench: EncoderBench, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch's minibatches: captions, and an augmented view of each one's image, drawn from (seed, caption)."""
    train, features = bench.data.train, bench.config.features
    images = [train.images[index] for index in train.image_of_caption.tolist()]
    views = ViewsOf(images, transform_of(features.augment, bench.encoder.size), 1, seed)
    batches = minibatches(len(images), bench.config.experts.batch_size, seed)
    # On a CPU the cores are busy training; beside a GPU they decode.
    workers = 0 if bench.device == "cpu" else workers_for(bench.device)
    for captions, pixels in zip(batches, open_views(views, batches, workers=workers), strict=True):
        yield torch.tensor(captions), pixels[:, 0]
