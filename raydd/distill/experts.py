"""Expert trajectories: both projection heads trained on all real pairs, a snapshot an epoch.

A snapshot is stored as the half-precision difference to the initial state, which its seed regenerates
(`raydd.distill.trajectories` says how they are extended).

Letters: B minibatch, P head parameters (flat).
"""

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from raydd.config import ExpertsConfig
from raydd.data.features import SplitFeatures
from raydd.distill.heads import Head, dropout_mask, initial_heads, taps, to_sphere
from raydd.distill.losses import find_loss
from raydd.distill.products import add_product_
from raydd.distill.trajectories import Trajectories, extend
from raydd.memory import free_bytes
from raydd.place import sent
from raydd.store import Record

VERSION = 2  # 2: sealed to their place
Heads = tuple[Head, Head]  # image head, text head


@dataclass(frozen=True)
class Experts(Trajectories[Heads]):
    """Expert trajectories in the store: `count` of them, read snapshot by snapshot."""

    record: Record
    """The trajectories of one recipe on one set of features, whatever their number or length."""
    image_width: int
    text_width: int
    width: int
    """Width D of the shared space."""
    first_seed: int
    count: int
    rates: ClassVar[str] = "experts.lr"

    def initial(self, expert: int) -> Heads:
        """Both heads of an expert before its first step."""
        return _drawn(self.image_width, self.text_width, self.width, self.first_seed + expert)

    def differences(self, start: Heads, state: Heads) -> dict[str, Float[Tensor, "P"]]:
        """All parameters of each head, flat."""
        sides = zip(("image", "text"), state, start, strict=True)
        return {side: now.flat().cpu() - then.flat() for side, now, then in sides}

    def moved(self, start: Heads, differences: Mapping[str, Float[Tensor, "P"]]) -> Heads:
        """Both heads after such differences."""
        image = Head.of_flat(differences["image"], self.image_width, self.width)
        text = Head.of_flat(differences["text"], self.text_width, self.width)
        return _sum(start[0], image), _sum(start[1], text)


@functools.lru_cache(maxsize=1)
def _drawn(image_width: int, text_width: int, width: int, seed: int) -> Heads:
    """The initial heads of the last expert asked for: a distillation step takes its start and its target from them."""
    return initial_heads(image_width, text_width, width, seed)


def _sum(one: Head, other: Head) -> Head:
    return Head(*(a + b for a, b in zip(one, other, strict=True)))


def train_expert(
    experts: Experts,
    expert: int,
    features: SplitFeatures,
    recipe: ExpertsConfig,
    keep: Collection[int],
    *,
    device: str,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Train one expert from its last useful snapshot and store the epochs of `keep` that are missing.

    On a GPU the features are copied there first if they take at most half of what is free.

    Args:
        experts: where snapshots are read from and written to.
        expert: which trajectory.
        features: cached features of the training pairs.
        recipe: SGD, on InfoNCE as published or on `experts.loss`.
        keep: epochs after which a snapshot is wanted.
        device: where to compute.
        on_epoch: called after each epoch with its number and mean loss.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
        ConfigError: the loss is a user's own and fails.
    """

    fits = device != "cpu" and 2 * features.nbytes <= free_bytes(device)
    features = features.on(device) if fits else features

    def train_epoch(heads: Heads, epoch: int, seed: int) -> tuple[float, Heads]:
        image, text = (Head(*(part.to(device, copy=True) for part in head)) for head in heads)
        loss = train_epoch_(image, text, features, recipe, epoch=epoch, seed=seed, device=device)
        return loss, (image, text)

    extend(experts, expert, keep, train_epoch, on_epoch=on_epoch)


def train_epoch_(
    image: Head,
    text: Head,
    features: SplitFeatures,
    recipe: ExpertsConfig,
    *,
    epoch: int,
    seed: int,
    device: str,
    on_logits: Callable[[Int[Tensor, "B"], Float[Tensor, "B B"]], None] = lambda captions, logits: None,
) -> float:
    """One epoch of both heads, in place, over all captions in shuffled minibatches, the last short one dropped.

    Every pair's image is one of its augmented views, drawn anew each time. Gives the mean loss. `epoch`, from 1,
    decides the LR multipliers where the recipe anneals the learning rate. `on_logits` is called before each step with
    the minibatch's captions and logits.
    """
    draws = Generator().manual_seed(seed)
    masks = Generator(device).manual_seed(seed)
    order = torch.randperm(len(features.image_of_text), generator=draws)
    views = torch.randint(features.images.shape[1], (len(order),), generator=draws)
    place = str(features.image_of_text.device)  # where features are gathered
    order, views = sent(order, place), sent(views, place)
    size = min(recipe.batch_size, len(order))
    width = image.fc_bias.shape[-1]
    total, steps = torch.zeros((), device=device), len(order) // size
    loss = expert_loss(recipe)
    for step, multiplier in enumerate(recipe.lr_multipliers(epoch, steps)):
        batch = order[step * size : (step + 1) * size]
        rows = features.images.gather(features.image_of_text[batch], views[step * size : (step + 1) * size])
        total += sgd_step_(
            image,
            text,
            sent(rows, device),
            sent(features.texts[batch], device).float(),
            lr=recipe.lr * multiplier,
            temperature=recipe.temperature,
            dropout=(
                dropout_mask((size, width), recipe.dropout, masks),
                dropout_mask((size, width), recipe.dropout, masks),
            ),
            loss_of=loss,
            on_logits=partial(on_logits, batch),
        )
    return float(total) / steps


def sgd_step_(
    image: Head,
    text: Head,
    image_rows: Float[Tensor, "B d"],
    text_rows: Float[Tensor, "B e"],
    *,
    lr: float,
    temperature: float,
    dropout: tuple[Tensor | None, Tensor | None] = (None, None),
    loss_of: Callable[[Float[Tensor, "B B"]], Float[Tensor, ""]] | None = None,
    on_logits: Callable[[Float[Tensor, "B B"]], None] = lambda logits: None,
) -> Float[Tensor, ""]:
    """One plain SGD step of both heads, in place, on a minibatch's loss of its logits; gives the loss before it.

    The loss is InfoNCE unless `loss_of` is another. A weight's gradient is a product of two thin matrices, which is
    added to the weight at once.
    """
    # Gradients are asked for at the layers' outputs alone; the rows ask for one so that there is a graph.
    image_rows, text_rows = (rows.detach().requires_grad_() for rows in (image_rows, text_rows))
    seen = taps(image, image_rows, dropout[0]), taps(text, text_rows, dropout[1])
    logits = to_sphere(seen[0].out) @ to_sphere(seen[1].out).T / temperature
    on_logits(logits.detach())
    loss = (loss_of or contrastive_loss)(logits)
    gradients = torch.autograd.grad(loss, (*seen[0].differentiable(), *seen[1].differentiable()))
    with torch.no_grad():
        for head, rows, tap, (at_p, at_h, at_out) in (
            (image, image_rows, seen[0], gradients[:3]),
            (text, text_rows, seen[1], gradients[3:]),
        ):
            add_product_(head.projection_weight, at_p, rows, -lr)
            head.projection_bias.sub_(at_p.sum(0), alpha=lr)
            add_product_(head.fc_weight, at_h, tap.hidden, -lr)
            head.fc_bias.sub_(at_h.sum(0), alpha=lr)
            head.norm_weight.sub_((at_out * tap.normed).sum(0), alpha=lr)
            head.norm_bias.sub_(at_out.sum(0), alpha=lr)
    return loss.detach()


def expert_loss(recipe: ExpertsConfig) -> Callable[[Float[Tensor, "B B"]], Float[Tensor, ""]]:
    """The recipe's loss of logits, the similarity being the identity and the loss's own parameters as they start.

    Raises:
        ConfigError: there is no such loss, or it is a user's own and fails.
    """
    if recipe.loss == "infonce":
        return contrastive_loss  # the fast form of the same loss
    loss = find_loss(recipe.loss, "experts.loss")
    return lambda logits: loss(logits, torch.eye(len(logits), dtype=logits.dtype, device=logits.device))


def contrastive_loss(logits: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    """InfoNCE: half the sum of the mean cross-entropies of rows and columns, the right class of row k being k."""
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
