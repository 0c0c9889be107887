"""The stage select: a coreset of real pairs, kept as a record together with what its choice took.

Heads are warmed up as experts are trained, so the warm-up of a seed is a prefix of that expert's trajectory.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from raydd.config import Config
from raydd.data import Features
from raydd.distill.experts import train_epoch_
from raydd.distill.heads import Head, embed
from raydd.distill.selections import SELECTIONS, Evidence, Forgetting, Joint
from raydd.distill.selections.forgetting import count_forgetting, ranked_first
from raydd.memory import peak_bytes, reset_peak
from raydd.place import device_of
from raydd.progress import Progress, silent
from raydd.stages.experts import open_experts, warmed_up
from raydd.stages.features import features as make_features
from raydd.store import Record, Store

VERSION = 1
CHOSEN, EVENTS = "captions.safetensors", "forgetting.safetensors"
_ROWS = 4096  # features embedded at once

Answer = TypeVar("Answer")


def select(
    config: Config, store: Store, selection: str, *, pairs: int, seed: int, progress: Progress = silent
) -> Int[Tensor, "N"]:
    """The captions that a selection chooses, each of another training image.

    Args:
        config: data, encoders, features and the experts' recipe are read.
        store: where the choice, the warm-up and the forgettings are kept.
        selection: a name of `raydd.distill.selections.SELECTIONS`.
        pairs: how many.
        seed: of the draws, and of the expert whose heads are warmed up.
        progress: told about the warm-up.

    Raises:
        ConfigError: there are fewer training images than that.
    """
    record = selection_record(config, store, selection, pairs=pairs, seed=seed)
    if not record.complete:
        clock, device = _Clock(), device_of(config.place)
        evidence = _evidence(config, store, seed, progress, clock)
        reset_peak(device)
        began = time.perf_counter()
        captions = SELECTIONS[selection](evidence, pairs, seed)
        took = time.perf_counter() - began
        record.write_tensors(CHOSEN, {"captions": captions})
        record.finish(
            facts={
                "seconds": took - clock.seconds,
                "warm_up_seconds": clock.seconds,
                "peak_bytes": peak_bytes(device),
            }
        )
    return record.read_tensors(CHOSEN)["captions"]


def selection_record(config: Config, store: Store, selection: str, *, pairs: int, seed: int) -> Record:
    """The place of a choice. Its facts: seconds of the choice, of the warm-up that it trained, peak memory in bytes."""
    cached = make_features(config, store)
    settings = {"selection": selection, "pairs": pairs, "seed": seed, "first_expert": config.experts.seed}
    upstream = {"features": cached.fingerprint, "experts": open_experts(config, store, cached).record.fingerprint}
    return Record.of(store, "selections", settings, upstream, version=VERSION)


@dataclass
class _Clock:
    """Seconds spent on the warm-up, which is not the choice's own time."""

    seconds: float = 0.0

    def timed(self, work: Callable[[int], Answer]) -> Callable[[int], Answer]:
        def timed(epochs: int) -> Answer:
            began = time.perf_counter()
            answer = work(epochs)
            self.seconds += time.perf_counter() - began
            return answer

        return timed


def _evidence(config: Config, store: Store, seed: int, progress: Progress, clock: _Clock) -> Evidence:
    cached, within = make_features(config, store, progress), config.experts.within
    warm_up = clock.timed(lambda epochs: warmed_up(config, store, seed, within(epochs), progress))
    watched = clock.timed(lambda epochs: _forgetting(config, store, seed, within(epochs), progress))
    return Evidence(
        cached.train.image_of_text, lambda epochs: _joint(cached, *warm_up(epochs), device_of(config.place)), watched
    )


def _joint(cached: Features, image: Head, text: Head, device: str) -> Joint:
    """Joint features of all training pairs, of the images' first views, chunk by chunk."""
    train = cached.train
    images = torch.arange(train.images.shape[0]).split(_ROWS)
    captions = torch.arange(len(train.texts)).split(_ROWS)
    return Joint(
        torch.cat([_embedded(image, train.images.gather(rows, 0), device) for rows in images]),
        torch.cat([_embedded(text, train.texts[rows].float(), device) for rows in captions]),
        train.image_of_text,
    )


def _embedded(head: Head, rows: Tensor, device: str) -> Float[Tensor, "B D"]:
    with torch.inference_mode():
        embedded = embed(Head(*(part.to(device) for part in head)), rows.to(device)).cpu()
    return embedded.clone()  # outside inference mode, where it may be written to


def _forgetting(config: Config, store: Store, seed: int, epochs: int, progress: Progress) -> Forgetting:
    """Forgettings over the first epochs of an expert's training, kept as a record of their own."""
    cached, recipe = make_features(config, store), config.experts
    experts = open_experts(config, store, cached, count=seed + 1)
    settings = {"expert": recipe.seed + seed, "epochs": epochs}
    record = Record.of(store, "forgetting", settings, {"experts": experts.record.fingerprint}, version=VERSION)
    if not record.complete:
        counted = count_forgetting(
            len(cached.train.texts), _watched(config, cached, experts.initial(seed), seed, epochs, progress)
        )
        record.write_tensors(EVENTS, {"events": counted.events, "learned": counted.learned})
        record.finish(facts={"recipe": asdict(recipe)})
    kept = record.read_tensors(EVENTS)
    return Forgetting(kept["events"], kept["learned"])


def _watched(
    config: Config, cached: Features, start: tuple[Head, Head], expert: int, epochs: int, progress: Progress
) -> Iterator[tuple[Int[Tensor, "B"], Bool[Tensor, "B"]]]:
    """Train heads from their start; yields each minibatch's pairs and whether each is learned."""
    device = device_of(config.place)
    image, text = (Head(*(part.to(device, copy=True) for part in head)) for head in start)
    for epoch in range(1, epochs + 1):
        met: list[tuple[Tensor, Tensor]] = []
        train_epoch_(
            image,
            text,
            cached.train,
            config.experts,
            epoch=epoch,
            seed=(config.experts.seed + expert) * 1_000_003 + epoch,
            device=device,
            on_logits=lambda captions, logits, met=met: met.append((captions, ranked_first(logits).cpu())),
        )
        progress("epochs that are watched for forgetting", epoch, epochs)
        yield from met
