"""Students: fresh heads trained on a synthetic set or on real pairs, several seeds as one batched computation.

Letters: S student seeds, N pairs, B minibatch, d and e encoder widths, D shared width.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from raydd.config import StudentsConfig
from raydd.data.features import SplitFeatures
from raydd.distill.heads import Head, dropout_mask, embed, initial_heads
from raydd.distill.losses import find_loss
from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.evaluate.retrieval import retrieval_scores

FIRST_SEED = 10_000  # apart from the experts' seeds: no student starts where an expert did
_DECAY = 0.1  # of the learning rates, at half the epochs (published: x 0.1 at epoch 51 of 100)


@dataclass(frozen=True)
class TrainingPairs:
    """What students train on: a synthetic set, or real pairs."""

    image_features: Float[Tensor, "N d"]
    text_features: Float[Tensor, "N e"]
    similarity: Similarity
    rate_image: float
    """Learning rate of the image head."""
    rate_text: float
    """Learning rate of the text head."""
    loss: str = "infonce"
    """Name of the loss (`raydd.distill.losses.find_loss`)."""
    loss_parameters: Mapping[str, float] = field(default_factory=dict)
    """The loss's own parameters by name; those that are missing have their start values."""


def synthetic_pairs(synthetic: SyntheticSet) -> TrainingPairs:
    """A synthetic set as students' training set."""
    return TrainingPairs(
        synthetic.image_features,
        synthetic.text_features,
        synthetic.similarity,
        synthetic.rate_image,
        synthetic.rate_text,
        synthetic.loss,
        synthetic.loss_parameters,
    )


def real_pairs(features: SplitFeatures, captions: Int[Tensor, "N"], rate: float) -> TrainingPairs:
    """Real training pairs, named by their captions, as students' training set: identity similarity, first views."""
    images = features.images.gather(features.image_of_text[captions], 0)
    identity = Similarity("identity", len(captions), {})
    return TrainingPairs(images, features.texts[captions].float(), identity, rate, rate)


def train_students(
    pairs: TrainingPairs,
    recipe: StudentsConfig,
    *,
    width: int,
    temperature: float,
    seeds: Sequence[int],
    device: str = "cpu",
    on_epoch: Callable[[int, Head, Head], None] = lambda epoch, image, text: None,
) -> tuple[Head, Head]:
    """Train one student a seed on the published recipe; gives both heads with a leading axis of students.

    SGD with momentum and weight decay, the learning rates cut to a tenth at half the epochs, dropout on, no blending.
    An epoch is ceil(N/B) minibatches, each drawn from all pairs by itself, as published.

    Args:
        pairs: what to train on.
        recipe: the students' settings.
        width: width D of the shared space.
        temperature: tau, which divides the cosines.
        seeds: one student each.
        device: where to compute.
        on_epoch: called after each epoch with its number, from 0, and the heads.

    Raises:
        NonFiniteError: the training diverged.
        ConfigError: the pairs' loss is a user's own and fails.
    """
    images, texts = pairs.image_features.to(device), pairs.text_features.to(device)
    similarity = pairs.similarity.matrix().to(device)
    starts = [initial_heads(images.shape[1], texts.shape[1], width, FIRST_SEED + seed) for seed in seeds]
    image = Head(*(torch.stack(parts).to(device) for parts in zip(*(start[0] for start in starts), strict=True)))
    text = Head(*(torch.stack(parts).to(device) for parts in zip(*(start[1] for start in starts), strict=True)))
    leaves = [part.requires_grad_() for part in (*image, *text)]
    image, text = Head(*leaves[:6]), Head(*leaves[6:])
    optimizer = optimizer_of(recipe, (leaves[:6], leaves[6:]), (pairs.rate_image, pairs.rate_text))
    size = min(recipe.batch_size, len(images))
    draws = [Generator().manual_seed(FIRST_SEED + seed) for seed in seeds]
    masks = [Generator(device).manual_seed(FIRST_SEED + seed) for seed in seeds]
    loss, total = find_loss(pairs.loss), torch.zeros((), device=device)
    parameters = loss.tensors(pairs.loss_parameters, total)
    for epoch in epochs_of(recipe, optimizer):
        for _ in range(math.ceil(len(images) / size)):
            batch = torch.stack([torch.randperm(len(images), generator=draw)[:size] for draw in draws]).to(device)
            dropout = [_masks((size, width), recipe.dropout, masks) for _ in range(2)]
            logits = embed(image, images[batch], dropout[0]) @ embed(text, texts[batch], dropout[1]).mT / temperature
            target = similarity[batch[:, :, None], batch[:, None, :]]
            total = loss(logits, target, parameters).sum()  # students share no parameter: a sum trains each alone
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        on_epoch(epoch, image, text)
    if not bool(total.isfinite()):
        raise NonFiniteError(
            f"Students diverged at the learning rates {pairs.rate_image:.3g} and {pairs.rate_text:.3g}. "
            "Lower distill.start_rate or distill.rate_lr."
        )
    return Head(*(part.detach() for part in image)), Head(*(part.detach() for part in text))


def optimizer_of(
    recipe: StudentsConfig, sides: tuple[Sequence[Tensor], Sequence[Tensor]], rates: tuple[float, float]
) -> torch.optim.SGD:
    """The recipe's SGD of what is trained on the image side and on the text side, each at its learned
    learning rate."""
    scale = 1 - recipe.momentum if recipe.rate == "effective" else 1.0
    return torch.optim.SGD(
        [{"params": list(side), "lr": rate * scale} for side, rate in zip(sides, rates, strict=True)],
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def epochs_of(recipe: StudentsConfig, optimizer: torch.optim.SGD) -> Iterator[int]:
    """The recipe's epochs, from 0, the learning rates being cut at half of them."""
    for epoch in range(recipe.epochs + 1):  # published: one epoch more than the number says
        if epoch == recipe.epochs // 2 + 1:
            for group in optimizer.param_groups:
                group["lr"] *= _DECAY
        yield epoch


def score_heads(image: Head, text: Head, split: SplitFeatures, *, device: str = "cpu") -> list[dict[str, float]]:
    """Retrieval scores of one student or of several side by side on cached features, one dictionary a student."""
    if image.fc_bias.ndim == 1:
        image, text = Head(*(part[None] for part in image)), Head(*(part[None] for part in text))
    images = split.images.gather(torch.arange(split.images.shape[0]), 0).to(device)
    texts = split.texts.whole().float().to(device)
    scores = []
    for student in range(len(image.fc_bias)):
        with torch.inference_mode():
            image_embeddings = embed(Head(*(part[student].to(device) for part in image)), images)
            text_embeddings = embed(Head(*(part[student].to(device) for part in text)), texts)
            scores.append(retrieval_scores(image_embeddings, text_embeddings, split.image_of_text.to(device)))
    return scores


def _masks(shape: tuple[int, ...], rate: float, generators: list[Generator]) -> Float[Tensor, "S B D"] | None:
    drawn = [dropout_mask(shape, rate, generator) for generator in generators]
    return None if rate == 0 else torch.stack(drawn)  # type: ignore[arg-type]
