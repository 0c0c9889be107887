"""Expert trajectories: both projection heads trained on all real pairs, a snapshot an epoch.

A snapshot is stored as the half-precision difference to the initial state, which its seed regenerates
(`raydd.distill.trajectories` says how they are extended).

On a GPU several experts train side by side: one alone has it wait for the next operation most of the time.

Letters: E experts side by side (an optional leading axis), B minibatch, P head parameters (flat).
"""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from raydd.config import ExpertsConfig
from raydd.data.features import SplitFeatures
from raydd.distill.heads import Head, apart, dropout_mask, head_size, initial_heads, reduced, taps, to_sphere
from raydd.distill.losses import find_loss
from raydd.distill.products import add_product_
from raydd.distill.trajectories import Trajectories, extend
from raydd.memory import free_bytes
from raydd.place import sent
from raydd.store import Record

VERSION = 2  # 2: sealed to their place
MOST_AT_ONCE = 8  # experts side by side; more would wait for products, not for launches
_MASKED = 8  # steps whose dropout is drawn together
_COPIES = 3  # of an expert's parameters that training holds: the weights, and products on their way into them
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


def train_experts(
    experts: Experts,
    numbers: Sequence[int],
    features: SplitFeatures,
    recipe: ExpertsConfig,
    keep: Collection[int],
    *,
    device: str,
    on_epoch: Callable[[int, int, float], None] = lambda expert, epoch, loss: None,
) -> None:
    """Train experts from their last useful snapshots and store the epochs of `keep` that are missing.

    On a GPU the features are copied there first if they take at most half of what is free, and as many experts as fit
    train side by side.

    Args:
        experts: where snapshots are read from and written to.
        numbers: which trajectories.
        features: cached features of the training pairs.
        recipe: SGD, on InfoNCE as published or on `experts.loss`.
        keep: epochs after which a snapshot is wanted.
        device: where to compute.
        on_epoch: called after each epoch of an expert with the expert, the epoch and its mean loss.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
        ConfigError: the loss is a user's own and fails.
    """
    fits = device != "cpu" and 2 * features.nbytes <= free_bytes(device)
    features = features.on(device) if fits else features

    def train_epoch(states: Sequence[Heads], epoch: int, seeds: Sequence[int]) -> tuple[list[float], list[Heads]]:
        image, text = (copies_on(heads, device) for heads in zip(*states, strict=True))
        losses = train_epoch_(image, text, features, recipe, epoch=epoch, seeds=seeds, device=device)
        return losses.reshape(-1).tolist(), list(zip(apart(image), apart(text), strict=True))

    at_once = 1 if device == "cpu" else most_at_once(experts, free_bytes(device))
    extend(experts, numbers, keep, train_epoch, at_once=at_once, on_epoch=on_epoch)


def most_at_once(experts: Experts, free: int) -> int:
    """How many experts train side by side in so many bytes of a GPU's memory: one at least."""
    parameters = sum(head_size(width, experts.width) for width in (experts.image_width, experts.text_width))
    return max(1, min(MOST_AT_ONCE, free // (_COPIES * 4 * parameters)))


def copies_on(heads: Sequence[Head], device: str) -> Head:
    """Copies of experts' heads on a device, side by side."""
    return Head(*(_joined([part.to(device, copy=True) for part in parts]) for parts in zip(*heads, strict=True)))


def _joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """What several experts have each, along an axis of experts; what one alone has, without such an axis."""
    return torch.stack(list(parts), dim) if len(parts) > 1 else parts[0]


def train_epoch_(
    image: Head,
    text: Head,
    features: SplitFeatures,
    recipe: ExpertsConfig,
    *,
    epoch: int,
    seeds: Sequence[int],
    device: str,
    on_logits: Callable[[Int[Tensor, "*E B"], Float[Tensor, "*E B B"]], None] = lambda captions, logits: None,
) -> Float[Tensor, "*E"]:
    """One epoch of both heads, in place, over all captions in shuffled minibatches, the last short one dropped.

    Every pair's image is one of its augmented views, drawn anew each time. Gives the mean loss. `epoch`, from 1,
    decides the LR multipliers where the recipe anneals the learning rate. There is a seed for each expert, and where
    there are several of them the heads have a leading axis. `on_logits` is called before each step with the minibatch's
    captions and logits.
    """
    drawn = [_drawn_epoch(len(features.image_of_text), features.images.shape[1], seed) for seed in seeds]
    place = str(features.image_of_text.device)  # where features are gathered
    order, views = (sent(_joined(each), place) for each in zip(*drawn, strict=True))
    size, experts = min(recipe.batch_size, order.shape[-1]), image.fc_bias.shape[:-1]
    steps, loss = order.shape[-1] // size, expert_loss(recipe)
    masks = _dropout_masks((size, image.fc_bias.shape[-1]), recipe.dropout, seeds, steps, device)
    total = torch.zeros(experts, device=device)
    multipliers = recipe.lr_multipliers(epoch, steps)
    for step, (multiplier, dropout) in enumerate(zip(multipliers, masks, strict=True)):
        batch, seen = (each[..., step * size : (step + 1) * size] for each in (order, views))
        rows = features.images.gather(features.image_of_text[batch.flatten()], seen.flatten())
        texts = features.texts[batch.flatten()]
        total += sgd_step_(
            image,
            text,
            sent(rows, device).view(*batch.shape, -1),
            sent(texts, device).float().view(*batch.shape, -1),
            lr=recipe.lr * multiplier,
            temperature=recipe.temperature,
            dropout=dropout,
            loss_of=loss,
            on_logits=partial(on_logits, batch),
        )
    return total / steps


def _drawn_epoch(captions: int, views: int, seed: int) -> tuple[Int[Tensor, "C"], Int[Tensor, "C"]]:
    """The order of an epoch's captions, and the view of each one's image."""
    draws = Generator().manual_seed(seed)
    return torch.randperm(captions, generator=draws), torch.randint(views, (captions,), generator=draws)


def _dropout_masks(
    shape: tuple[int, int], rate: float, seeds: Sequence[int], steps: int, device: str
) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """The masks of both heads, step by step; each expert draws its own, those of some steps together."""
    generators = [Generator(device).manual_seed(seed) for seed in seeds]
    for begin in range(0, steps, _MASKED):
        count = min(_MASKED, steps - begin)
        drawn = [dropout_mask((count, 2, *shape), rate, generator) for generator in generators]
        masks = [mask for mask in drawn if mask is not None]
        yield from zip(*_joined(masks, 2).unbind(1), strict=True) if masks else [(None, None)] * count


def sgd_step_(
    image: Head,
    text: Head,
    image_rows: Float[Tensor, "*E B d"],
    text_rows: Float[Tensor, "*E B e"],
    *,
    lr: float,
    temperature: float,
    dropout: tuple[Tensor | None, Tensor | None] = (None, None),
    loss_of: Callable[[Float[Tensor, "*E B B"]], Float[Tensor, "*E"]] | None = None,
    on_logits: Callable[[Float[Tensor, "*E B B"]], None] = lambda logits: None,
) -> Float[Tensor, "*E"]:
    """One plain SGD step of both heads, in place, on a minibatch's loss of its logits; gives the loss before it.

    The loss is InfoNCE unless `loss_of` is another. A weight's gradient is a product of two thin matrices, which is
    added to the weight at once.
    """
    # Gradients are asked for at the layers' outputs alone; the rows ask for one so that there is a graph.
    image_rows, text_rows = (rows.detach().requires_grad_() for rows in (image_rows, text_rows))
    seen = taps(reduced(image), image_rows, dropout[0]), taps(reduced(text), text_rows, dropout[1])
    logits = to_sphere(seen[0].out) @ to_sphere(seen[1].out).mT / temperature
    on_logits(logits.detach())
    loss = (loss_of or contrastive_loss)(logits)
    # Experts share no parameter, so the gradient of a sum is each one's own.
    gradients = torch.autograd.grad(loss.sum(), (*seen[0].differentiable(), *seen[1].differentiable()))
    with torch.no_grad():
        for head, rows, tap, (at_p, at_h, at_out) in (
            (image, image_rows, seen[0], gradients[:3]),
            (text, text_rows, seen[1], gradients[3:]),
        ):
            add_product_(head.projection_weight, at_p, rows, -lr)
            head.projection_bias.sub_(at_p.sum(-2), alpha=lr)
            add_product_(head.fc_weight, at_h, tap.hidden, -lr)
            head.fc_bias.sub_(at_h.sum(-2), alpha=lr)
            head.norm_weight.sub_((at_out * tap.normed).sum(-2), alpha=lr)
            head.norm_bias.sub_(at_out.sum(-2), alpha=lr)
    return loss.detach()


def expert_loss(recipe: ExpertsConfig) -> Callable[[Float[Tensor, "*E B B"]], Float[Tensor, "*E"]]:
    """The recipe's loss of logits, the similarity being the identity and the loss's own parameters as they start.

    Raises:
        ConfigError: there is no such loss, or it is a user's own and fails.
    """
    if recipe.loss == "infonce":
        return contrastive_loss  # the fast form of the same loss
    loss = find_loss(recipe.loss, "experts.loss")
    return lambda logits: loss(logits, torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device))


def contrastive_loss(logits: Float[Tensor, "*E B B"]) -> Float[Tensor, "*E"]:
    """InfoNCE: half the sum of the mean cross-entropies of rows and columns, the right class of row k being k."""
    right = torch.arange(logits.shape[-1], device=logits.device)
    if logits.ndim == 2:
        return (F.cross_entropy(logits, right) + F.cross_entropy(logits.mT, right)) / 2
    right = right.expand(logits.shape[:-1])
    # The classes' axis comes second, so what is told apart are the columns of the first, and the rows of the second.
    sides = (F.cross_entropy(side, right, reduction="none").mean(-1) for side in (logits.mT, logits))
    return torch.stack(list(sides)).mean(0)
