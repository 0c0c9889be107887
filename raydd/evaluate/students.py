"""Students: fresh heads trained on a synthetic set or on real pairs, several seeds as one batched computation.

Letters: S student seeds, R distinct seeds, N pairs, B minibatch, d and e encoder widths, D shared width.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from raydd.config import StudentsConfig
from raydd.data.features import SplitFeatures
from raydd.device import in_tf32, sent
from raydd.distill.experts import Heads
from raydd.distill.heads import Head, centred, dropout_mask, embed, initial_heads, on, split_heads, uncentred
from raydd.distill.losses import find_loss
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.evaluate.retrieval import retrieval_hits
from raydd.evaluate.trained_heads import Descent, TrainedHead

FIRST_SEED = 10_000  # far from the usual seeds of experts, so that students start with other weights than experts
FIRST_FACTORS = (1.0, 0.5, 2.0)  # a fit of learning rates first trains a student at its first multiple times each
_DECAY = 0.1  # LR multiplier after half the epochs (published: x 0.1 at epoch 51 of 100)


def train_students(
    pairs: SyntheticSet,
    recipe: StudentsConfig,
    *,
    width: int,
    temperature: float,
    seeds: Sequence[int],
    device: str = "cpu",
    on_epoch: Callable[[int, Callable[[], Heads]], None] = lambda epoch, heads: None,
) -> Heads:
    """Train one student per seed by the published recipe; return both heads with a leading axis of students.

    Args:
        pairs: what to train on; real pairs can be put as a synthetic set too (`start_of`).
        recipe: the students' settings.
        width: width D of the shared space.
        temperature: tau, which divides the cosines.
        seeds: one seed per student.
        device: where to compute.
        on_epoch: called after each epoch with its number, from 0, and a function that returns the current heads.

    Raises:
        NonFiniteError: the training of a student diverged.
        ConfigError: the pairs' loss is user-defined and fails.
    """
    run = StudentsRun(pairs, recipe, width=width, temperature=temperature, seeds=seeds, device=device)
    for epoch in range(recipe.epochs + 1):
        run.train_epoch()
        on_epoch(epoch, run.heads)
    if not bool(run.finite.all()):
        raise NonFiniteError(
            f"Students diverged at the learning rates {pairs.rate_image:.3g} and {pairs.rate_text:.3g}. "
            "If a distillation learned them, lower its distill.start_rate or distill.rate_lr."
        )
    return run.heads()


def train_at_multiples(
    pairs: SyntheticSet,
    recipe: StudentsConfig,
    multiples: Sequence[float],
    *,
    width: int,
    temperature: float,
    seed: int,
    device: str = "cpu",
) -> list[Heads | None]:
    """Train one student at each multiple of the pairs' learning rates, all with the same seed.

    Returns None for a student that diverged. The other arguments are those of `train_students`.
    """
    seeds = [seed] * len(multiples)
    run = StudentsRun(
        pairs, recipe, width=width, temperature=temperature, seeds=seeds, multiples=multiples, device=device
    )
    for _ in range(recipe.epochs + 1):
        run.train_epoch()
    image, text = run.heads()
    return [
        (Head(*(part[[student]] for part in image)), Head(*(part[[student]] for part in text))) if finite else None
        for student, finite in enumerate(run.finite.tolist())
    ]


class StudentsRun:
    """Students that are trained side by side, epoch by epoch.

    They train by SGD with momentum, weight decay and dropout, without blending. The learning rates are cut to a tenth
    after half the epochs. An epoch is ceil(N/B) minibatches, each drawn from all pairs independently, as published.
    """

    def __init__(
        self,
        pairs: SyntheticSet,
        recipe: StudentsConfig,
        *,
        width: int,
        temperature: float,
        seeds: Sequence[int],
        multiples: Sequence[float] = (),
        device: str = "cpu",
    ) -> None:
        """Initialise the students.

        Args:
            pairs: the pairs to train on.
            recipe: the students' settings.
            width: width D of the shared space.
            temperature: tau, which divides the cosines.
            seeds: one seed per student; students of one seed have the same start, minibatches and dropout.
            multiples: what each student's learning rates are multiplied by; 1 for all if empty.
            device: where to compute.
        """
        images, texts = pairs.image_features.to(device), pairs.text_features.to(device)
        self._centre = pairs.image_centre
        images = centred(images, self._centre)
        self._similarity, self._pair_count, self._device = pairs.similarity.matrix().to(device), len(images), device
        self._batch_size = min(recipe.batch_size, self._pair_count)
        self._batches_per_epoch = math.ceil(self._pair_count / self._batch_size)
        self._temperature, self._mask_arguments = temperature, ((self._batch_size, width), recipe.dropout)
        factors = (
            _step_factors(recipe, self._batches_per_epoch)[:, None]
            * torch.tensor(multiples or [1.0] * len(seeds)).double()
        )
        start_heads = [initial_heads(images.shape[1], texts.shape[1], width, FIRST_SEED + seed) for seed in seeds]
        self._sides = tuple(
            TrainedHead(
                Head(*(torch.stack(parameters).to(device) for parameters in zip(*heads, strict=True))),
                features,
                Descent.of(rate * factors, recipe.momentum, recipe.weight_decay, device),
            )
            for heads, features, rate in zip(
                zip(*start_heads, strict=True), (images, texts), (pairs.rate_image, pairs.rate_text), strict=True
            )
        )
        distinct_seeds = list(dict.fromkeys(seeds))
        self._seed_indices = [distinct_seeds.index(seed) for seed in seeds]
        self._order_generators = [Generator().manual_seed(FIRST_SEED + seed) for seed in distinct_seeds]
        self._mask_generators = [Generator(device).manual_seed(FIRST_SEED + seed) for seed in distinct_seeds]
        self._loss, self._last_losses = find_loss(pairs.loss), torch.zeros(len(seeds), device=device)
        self._parameters = self._loss.tensors(pairs.loss_parameters, self._last_losses)

    @in_tf32()
    def train_epoch(self) -> None:
        """Train one epoch. All its minibatches are sent to the device in one transfer, before the first step."""
        orders = torch.stack([self._draw_batches() for _ in range(self._batches_per_epoch)])
        # In a full batch the pairs keep their order, and the dropout masks are permuted instead.
        is_full_batch = self._batch_size == self._pair_count
        for order in sent(orders.argsort(-1) if is_full_batch else orders, self._device):
            self._step(order, full_batch=is_full_batch)

    def heads(self) -> Heads:
        """Return both heads in their current state, for features without a centre, with a leading axis of students."""
        image, text = self._sides
        return uncentred(image.head(), self._centre), text.head()

    @property
    def finite(self) -> Bool[Tensor, "S"]:
        """Whether each student's last loss was finite."""
        return self._last_losses.isfinite()

    def _draw_batches(self) -> Int[Tensor, "R B"]:
        """Draw the next minibatch of each distinct seed."""
        return torch.stack(
            [
                torch.randperm(self._pair_count, generator=generator)[: self._batch_size]
                for generator in self._order_generators
            ]
        )

    def _step(self, rows: Int[Tensor, "R B"], *, full_batch: bool) -> None:
        """Take one step; `rows` are each distinct seed's minibatch or, if `full_batch`, each pair's place in it."""
        masks = [self._draw_masks(rows if full_batch else None) for _ in self._sides]
        batch = None if full_batch else torch.stack([rows[seed_index] for seed_index in self._seed_indices])
        image, text = (
            side.forward(batch, mask).requires_grad_() for side, mask in zip(self._sides, masks, strict=True)
        )
        logits = image @ text.mT / self._temperature
        similarity = self._similarity
        target = similarity.expand_as(logits) if batch is None else similarity[batch[:, :, None], batch[:, None, :]]
        losses = self._loss(logits, target, self._parameters)
        # Students share no parameters, so the gradient of the sum is the gradient of each.
        for side, gradient in zip(self._sides, torch.autograd.grad(losses.sum(), (image, text)), strict=True):
            side.step(gradient)
        self._last_losses = losses.detach()

    def _draw_masks(self, orders: Int[Tensor, "R B"] | None) -> Float[Tensor, "S B D"] | None:
        """Draw a minibatch's dropout masks, once per distinct seed; `orders`, if given, are the rows to take."""
        shape, rate = self._mask_arguments
        drawn_masks = [dropout_mask(shape, rate, generator) for generator in self._mask_generators]
        masks = [mask for mask in drawn_masks if mask is not None]
        if orders is not None:
            masks = [mask[order] for mask, order in zip(masks, orders, strict=False)]
        return torch.stack([masks[seed_index] for seed_index in self._seed_indices]) if masks else None


def _step_factors(recipe: StudentsConfig, batches_per_epoch: int) -> Float[Tensor, "T"]:
    """Return the factor on the learned learning rates in each step."""
    factors = torch.tensor(list(rate_factors(recipe)), dtype=torch.double)
    return factors.repeat_interleave(batches_per_epoch)


def rate_factors(recipe: StudentsConfig) -> list[float]:
    """Return the factor on the learned learning rates in each epoch, cut to a tenth after half of them."""
    scale = 1 - recipe.momentum if recipe.rate == "effective" else 1.0
    epochs = range(recipe.epochs + 1)  # as published, one epoch more than the setting says
    return [scale * (_DECAY if epoch > recipe.epochs // 2 else 1.0) for epoch in epochs]


def hits_of_heads(image: Head, text: Head, split: SplitFeatures, *, device: str = "cpu") -> list[Int[Tensor, "I 7"]]:
    """Return what one student, or each of several side by side, finds on cached features (`retrieval_hits`).

    The features may be on the CPU, or already on the device (`SplitFeatures.on`).
    """
    image_features, text_features, image_of_text = rows_of(split, device)
    hits = []
    for image_head, text_head in zip(split_heads(image), split_heads(text), strict=True):
        with torch.inference_mode():
            image_embeddings = embed(on(image_head, device), image_features)
            text_embeddings = embed(on(text_head, device), text_features)
            hits.append(retrieval_hits(image_embeddings, text_embeddings, image_of_text))
    return hits


def rows_of(split: SplitFeatures, device: str) -> tuple[Float[Tensor, "I d"], Float[Tensor, "C e"], Int[Tensor, "C"]]:
    """Return a split's image features, one view each, its text features and each caption's image, on a device."""
    image_rows = torch.arange(split.images.shape[0], device=split.image_of_text.device)
    images = split.images.gather(image_rows, 0).to(device)
    return images, split.texts.whole().float().to(device), split.image_of_text.to(device)
