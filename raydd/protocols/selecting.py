"""Selects coresets of real pairs on cached features; each is a record with the time and memory of the choice.

Some selections read warmed-up heads. These are trained as experts are, so the warm-up of a seed is the beginning of
that expert's trajectory.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from raydd.cpu_time import ElapsedTime, Watch
from raydd.data import Features
from raydd.distill.experts import train_epoch_
from raydd.distill.heads import Head, embed
from raydd.distill.selections import SELECTIONS, Evidence, Forgetting, Joint
from raydd.distill.selections.forgetting import count_forgetting, ranked_first
from raydd.distill.trajectories import epoch_seed
from raydd.memory import peak_bytes, reset_peak
from raydd.store import Record

if TYPE_CHECKING:
    from raydd.protocols.heads import HeadsWorkbench

VERSION = 2  # 2: files are sealed to their place
CAPTIONS_FILE, EVENTS_FILE = "captions.safetensors", "forgetting.safetensors"
_ROWS = 4096  # features embedded at once

Result = TypeVar("Result")


def select(work: "HeadsWorkbench", selection: str, pairs: int, seed: int) -> Int[Tensor, "N"]:
    """Return the captions that a selection chooses, each of a different training image.

    Args:
        work: gives data, encoders, features and the experts' recipe.
        selection: a name of `raydd.distill.selections.SELECTIONS`.
        pairs: number of pairs.
        seed: seed of the draws, and of the expert whose heads are warmed up.

    Raises:
        ConfigError: there are fewer training images than `pairs`.
    """
    record = selection_record(work, selection, pairs, seed)
    if not record.complete:
        clock = _Clock()
        evidence = _collect_evidence(work, seed, clock)
        reset_peak(work.device)
        watch = Watch()
        captions = SELECTIONS[selection](evidence, pairs, seed)
        elapsed = watch.read() - clock.elapsed
        record.write_tensors(CAPTIONS_FILE, {"captions": captions})
        record.finish(
            facts={
                "seconds": elapsed.seconds,
                "cpu_seconds": elapsed.cpu_seconds,
                "warm_up_seconds": clock.elapsed.seconds,
                "peak_bytes": peak_bytes(work.device),
            }
        )
    return record.read_tensors(CAPTIONS_FILE)["captions"]


def selection_record(work: "HeadsWorkbench", selection: str, pairs: int, seed: int) -> Record:
    """Return the record of a choice. Its facts: seconds of the choice and of its warm-up, peak memory in bytes."""
    content, upstream = work.selection_content(selection)
    settings = {"selection": selection, "pairs": pairs, "seed": seed, **content}
    return Record.of(work.store, "selections", settings, upstream, version=VERSION)


@dataclass
class _Clock:
    """Time spent on the warm-up, which does not count as time of the choice."""

    elapsed: ElapsedTime = field(default_factory=ElapsedTime)

    def timed(self, function: Callable[[int], Result]) -> Callable[[int], Result]:
        def timed(epochs: int) -> Result:
            watch = Watch()
            result = function(epochs)
            self.elapsed += watch.read()
            return result

        return timed


def _collect_evidence(work: "HeadsWorkbench", seed: int, clock: _Clock) -> Evidence:
    features, within = work.trained_on, work.config.experts.within
    warmed_up_heads = clock.timed(lambda epochs: work.warmed_up(seed, within(epochs)))
    forgetting_after = clock.timed(lambda epochs: _forgetting_counts(work, seed, within(epochs)))
    return Evidence(
        features.train.image_of_text,
        lambda epochs: _joint_features(features, *warmed_up_heads(epochs), work.device),
        forgetting_after,
    )


def _joint_features(features: Features, image: Head, text: Head, device: str) -> Joint:
    """Compute the joint features of all training pairs, with the first view of each image, chunk by chunk."""
    train = features.train
    images = torch.arange(train.images.shape[0]).split(_ROWS)
    captions = torch.arange(len(train.texts)).split(_ROWS)
    return Joint(
        torch.cat([_embed_rows(image, train.images.gather(rows, 0), device) for rows in images]),
        torch.cat([_embed_rows(text, train.texts[rows].float(), device) for rows in captions]),
        train.image_of_text,
    )


def _embed_rows(head: Head, rows: Tensor, device: str) -> Float[Tensor, "B D"]:
    with torch.inference_mode():
        embeddings = embed(Head(*(parameter.to(device) for parameter in head)), rows.to(device)).cpu()
    return embeddings.clone()  # a copy made outside inference mode may be written to


def _forgetting_counts(work: "HeadsWorkbench", seed: int, epochs: int) -> Forgetting:
    """Count forgetting events over the first epochs of an expert's training; the counts have their own record.

    Unlike the expert's trajectory, this training does not round the heads to half precision after each epoch.
    """
    recipe, experts = work.config.experts, work.open_experts(seed + 1)
    settings = {"expert": recipe.seed + seed, "epochs": epochs}
    record = Record.of(work.store, "forgetting", settings, {"experts": experts.record.fingerprint}, version=VERSION)
    if not record.complete:
        counts = count_forgetting(
            len(work.features.train.texts), _watch_training(work, experts.initial(seed), seed, epochs)
        )
        record.write_tensors(EVENTS_FILE, {"events": counts.events, "learned": counts.learned})
        record.finish(facts={"recipe": asdict(recipe)})
    tensors = record.read_tensors(EVENTS_FILE)
    return Forgetting(tensors["events"], tensors["learned"])


def _watch_training(
    work: "HeadsWorkbench", start_heads: tuple[Head, Head], expert: int, epochs: int
) -> Iterator[tuple[Int[Tensor, "B"], Bool[Tensor, "B"]]]:
    """Train heads from their start; yields the pairs of each minibatch, and whether each pair is learned."""
    recipe = work.config.experts
    image, text = (Head(*(parameter.to(work.device, copy=True) for parameter in head)) for head in start_heads)
    for epoch in range(1, epochs + 1):
        minibatches: list[tuple[Tensor, Tensor]] = []
        train_epoch_(
            image,
            text,
            work.trained_on.train,
            recipe,
            epoch=epoch,
            seeds=[epoch_seed(recipe.seed, expert, epoch)],
            device=work.device,
            on_logits=lambda captions, logits, minibatches=minibatches: minibatches.append(
                (captions, ranked_first(logits).cpu())
            ),
        )
        work.progress("epochs that are watched for forgetting", epoch, epochs)
        yield from minibatches
