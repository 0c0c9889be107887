"""Expert trajectories: both projection heads trained on all real pairs, with one snapshot per epoch.

A snapshot is stored as the half-precision difference to the initial state, which can be drawn again from its seed.
`raydd.distill.trajectories` describes how trajectories are extended.

On a GPU several experts train side by side: with a single one, the GPU waits for the next operation most of the time.

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
from raydd.device import in_tf32, sent
from raydd.distill.heads import Head, dropout_mask, head_size, initial_heads, on, reduced, split_heads, taps, to_sphere
from raydd.distill.losses import find_loss
from raydd.distill.products import add_product_
from raydd.distill.trajectories import Trajectories, extend
from raydd.memory import free_bytes
from raydd.store import Record

VERSION = 2  # 2: sealed to their place
MOST_AT_ONCE = 8  # experts side by side; with more, matrix products take the time, not kernel launches
_STEPS_PER_MASK_DRAW = 8  # steps whose dropout masks are drawn together
# Copies of an expert's parameters in memory: the weights, products that are added to them, the initial and the rounded
# state.
_COPIES = 5
Heads = tuple[Head, Head]  # image head, text head


@dataclass(frozen=True)
class Experts(Trajectories[Heads]):
    """Expert trajectories in the store: `count` of them, read snapshot by snapshot."""

    record: Record
    """Record of all trajectories of one recipe on the same features, of any number and length."""
    image_width: int
    text_width: int
    width: int
    """Width D of the shared space."""
    first_seed: int
    count: int
    rates: ClassVar[str] = "experts.lr"

    def initial(self, expert: int) -> Heads:
        """Return both heads of an expert before its first step."""
        return _draw_initial_heads(self.image_width, self.text_width, self.width, self.first_seed + expert)

    def differences(self, start: Heads, state: Heads) -> dict[str, Float[Tensor, "P"]]:
        """Return the differences of all parameters of each head, flat; both states are on one device."""
        sides = zip(("image", "text"), state, start, strict=True)
        return {side: head.flat() - initial.flat() for side, head, initial in sides}

    def moved(self, start: Heads, differences: Mapping[str, Float[Tensor, "P"]]) -> Heads:
        """Return both heads after adding these differences."""
        image = Head.of_flat(differences["image"], self.image_width, self.width)
        text = Head.of_flat(differences["text"], self.text_width, self.width)
        return _add_heads(start[0], image), _add_heads(start[1], text)


@functools.lru_cache(maxsize=1)
def _draw_initial_heads(image_width: int, text_width: int, width: int, seed: int) -> Heads:
    """Draw an expert's initial heads and cache the last ones: a step's start and target are both relative to them."""
    return initial_heads(image_width, text_width, width, seed)


def _add_heads(start: Head, difference: Head) -> Head:
    return Head(*(a + b for a, b in zip(start, difference, strict=True)))


def train_experts(
    experts: Experts,
    numbers: Sequence[int],
    features: SplitFeatures,
    recipe: ExpertsConfig,
    snapshot_epochs: Collection[int],
    *,
    device: str,
    at_once: int = 0,
    on_epoch: Callable[[int, int, float], None] = lambda expert, epoch, loss: None,
) -> None:
    """Train experts on from their last useful snapshots, and store the snapshots of `snapshot_epochs` that are missing.

    On a GPU, features are first copied to the GPU if they take at most half of its free memory, and as many experts
    as fit train side by side.

    Args:
        experts: where snapshots are read from and written to.
        numbers: numbers of the experts.
        features: cached features of the training pairs.
        recipe: settings of SGD, on InfoNCE as published or on `experts.loss`.
        snapshot_epochs: epochs after which a snapshot is wanted.
        device: where to compute.
        at_once: how many train side by side; 0: one on a CPU, as many as fit on a GPU.
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
        return losses.reshape(-1).tolist(), list(zip(split_heads(image), split_heads(text), strict=True))

    at_once = at_once or (1 if device == "cpu" else most_at_once(experts, free_bytes(device)))

    def on_device(heads: Heads) -> Heads:
        image, text = heads
        return on(image, device), on(text, device)

    extend(experts, numbers, snapshot_epochs, train_epoch, at_once=at_once, on_epoch=on_epoch, on_device=on_device)


def most_at_once(experts: Experts, available_bytes: int) -> int:
    """Return how many experts train side by side in `available_bytes` of GPU memory, at least one."""
    parameters = sum(head_size(width, experts.width) for width in (experts.image_width, experts.text_width))
    return max(1, min(MOST_AT_ONCE, available_bytes // (_COPIES * 4 * parameters)))


def copies_on(heads: Sequence[Head], device: str) -> Head:
    """Copy the heads of several experts to a device, side by side."""
    return Head(*(_stack_experts([part.to(device, copy=True) for part in parts]) for parts in zip(*heads, strict=True)))


def _stack_experts(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Stack the tensors of several experts along an axis of experts; a single expert's tensor stays as it is."""
    return torch.stack(list(parts), dim) if len(parts) > 1 else parts[0]


@in_tf32()
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
    """Train both heads for one epoch, in place; return the mean loss.

    An epoch goes through all captions in shuffled minibatches; a short last minibatch is dropped. For each caption, one
    augmented view of its image is drawn anew. `epoch`, counted from 1, decides the LR multipliers if the recipe anneals
    the learning rate. Each expert has its own seed; with several experts the heads have a leading axis. `on_logits` is
    called before each step with the minibatch's captions and logits.
    """
    draws = [_draw_epoch(len(features.image_of_text), features.images.shape[1], seed) for seed in seeds]
    features_device = str(features.image_of_text.device)  # where features are gathered
    order, views = (sent(_stack_experts(tensors), features_device) for tensors in zip(*draws, strict=True))
    size, experts = min(recipe.batch_size, order.shape[-1]), image.fc_bias.shape[:-1]
    steps, loss = order.shape[-1] // size, expert_loss(recipe)
    masks = _draw_dropout_masks((size, image.fc_bias.shape[-1]), recipe.dropout, seeds, steps, device)
    total = torch.zeros(experts, device=device)
    multipliers = recipe.lr_multipliers(epoch, steps)
    for step, (multiplier, dropout) in enumerate(zip(multipliers, masks, strict=True)):
        batch, batch_views = (tensor[..., step * size : (step + 1) * size] for tensor in (order, views))
        rows = features.images.gather(features.image_of_text[batch.flatten()], batch_views.flatten())
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


def _draw_epoch(captions: int, views: int, seed: int) -> tuple[Int[Tensor, "C"], Int[Tensor, "C"]]:
    """Draw the order of an epoch's captions, and the view of each caption's image."""
    generator = Generator().manual_seed(seed)
    return torch.randperm(captions, generator=generator), torch.randint(views, (captions,), generator=generator)


def _draw_dropout_masks(
    shape: tuple[int, int], rate: float, seeds: Sequence[int], steps: int, device: str
) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Yield the masks of both heads, step by step. Each expert draws its own masks, those of several steps together."""
    generators = [Generator(device).manual_seed(seed) for seed in seeds]
    for begin in range(0, steps, _STEPS_PER_MASK_DRAW):
        count = min(_STEPS_PER_MASK_DRAW, steps - begin)
        expert_masks = [dropout_mask((count, 2, *shape), rate, generator) for generator in generators]
        masks = [mask for mask in expert_masks if mask is not None]
        yield from zip(*_stack_experts(masks, 2).unbind(1), strict=True) if masks else [(None, None)] * count


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
    """Take one plain SGD step of both heads on a minibatch, in place; return the loss before the step.

    The loss is InfoNCE unless `loss_of` gives another one. A weight's gradient is a product of two thin matrices, which
    is added to the weight directly.
    """
    # Gradients are only computed at the layers' outputs. The rows require one so that there is a graph.
    image_rows, text_rows = (rows.detach().requires_grad_() for rows in (image_rows, text_rows))
    both_taps = taps(reduced(image), image_rows, dropout[0]), taps(reduced(text), text_rows, dropout[1])
    logits = to_sphere(both_taps[0].out) @ to_sphere(both_taps[1].out).mT / temperature
    on_logits(logits.detach())
    loss = (loss_of or contrastive_loss)(logits)
    # Experts share no parameter, so the gradient of the sum is each expert's own gradient.
    gradients = torch.autograd.grad(loss.sum(), (*both_taps[0].differentiable(), *both_taps[1].differentiable()))
    with torch.no_grad():
        for head, rows, tap, (at_p, at_h, at_out) in (
            (image, image_rows, both_taps[0], gradients[:3]),
            (text, text_rows, both_taps[1], gradients[3:]),
        ):
            add_product_(head.projection_weight, at_p, rows, -lr)
            head.projection_bias.sub_(at_p.sum(-2), alpha=lr)
            add_product_(head.fc_weight, at_h, tap.hidden, -lr)
            head.fc_bias.sub_(at_h.sum(-2), alpha=lr)
            head.norm_weight.sub_((at_out * tap.normed).sum(-2), alpha=lr)
            head.norm_bias.sub_(at_out.sum(-2), alpha=lr)
    return loss.detach()


def expert_loss(recipe: ExpertsConfig) -> Callable[[Float[Tensor, "*E B B"]], Float[Tensor, "*E"]]:
    """Return the recipe's loss as a function of logits.

    The similarity is the identity, and the loss's own parameters have their start values.

    Raises:
        ConfigError: there is no such loss, or it is a user's own and fails.
    """
    if recipe.loss == "infonce":
        return contrastive_loss  # a faster form of the same loss
    loss = find_loss(recipe.loss, "experts.loss")
    return lambda logits: loss(logits, torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device))


def contrastive_loss(logits: Float[Tensor, "*E B B"]) -> Float[Tensor, "*E"]:
    """Return InfoNCE: half the sum of the mean cross-entropies of rows and columns, with class k correct for row k."""
    labels = torch.arange(logits.shape[-1], device=logits.device)
    if logits.ndim == 2:
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.mT, labels)) / 2
    labels = labels.expand(logits.shape[:-1])
    # cross_entropy takes the classes along axis 1: for logits.mT the columns of `logits`, for logits its rows.
    losses = (F.cross_entropy(side, labels, reduction="none").mean(-1) for side in (logits.mT, logits))
    return torch.stack(list(losses)).mean(0)
