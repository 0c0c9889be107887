"""Students of protocol A: trains the pretrained image encoder and a fresh text head on a set's pixels, and scores them.

Letters: N pairs, B minibatch, S side in pixels, C captions, d and e widths of the image and the text encoder.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from jaxtyping import Float, Float16, Int, UInt8
from torch import Generator, Tensor

from raydd.config import StudentsConfig
from raydd.device import in_tf32
from raydd.distill.encoder_passes import TrainedEncoder, Weights, leaves
from raydd.distill.encoder_student import Networks, loss_and_gradient
from raydd.distill.heads import Head, dropout_mask, initial_head, project, to_sphere
from raydd.distill.losses import find_loss
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError, RecordError
from raydd.evaluate.retrieval import retrieval_hits
from raydd.evaluate.students import FIRST_SEED, rate_factors


def train_student(
    encoder: TrainedEncoder,
    pairs: SyntheticSet,
    recipe: StudentsConfig,
    *,
    temperature: float,
    seed: int,
    device: str = "cpu",
    on_epoch: Callable[[int, Callable[[], Networks]], None] = lambda epoch, networks: None,
) -> Networks:
    """Train one student by the recipe of `raydd.evaluate.students`, with the image encoder instead of an image head.

    Args:
        encoder: the image encoder, on `device`.
        pairs: the training pairs, with pixels.
        recipe: the students' settings.
        temperature: tau, which divides the cosines.
        seed: seed of the text head, the minibatches and dropout.
        device: where to compute.
        on_epoch: called after each epoch with its number, from 0, and a function that returns the current networks.

    Raises:
        NonFiniteError: the training diverged.
        ConfigError: the pairs' loss is user-defined and fails.
        RecordError: the pairs have no pixels.
    """
    if pairs.pixels is None:
        raise RecordError("This set has no pixels, but students that train an image encoder need them.")
    pixels, texts = pairs.pixels.to(device), pairs.text_features.to(device)
    similarity, width = pairs.similarity.matrix().to(device), pairs.image_features.shape[1]
    loss_function = find_loss(pairs.loss)
    loss_parameters = loss_function.tensors(pairs.loss_parameters, texts)
    batch_generator = Generator().manual_seed(FIRST_SEED + seed)
    mask_generator = Generator(device).manual_seed(FIRST_SEED + seed)
    head = initial_head(texts.shape[1], width, Generator().manual_seed(FIRST_SEED + seed))
    networks = Networks.of({name: weight.clone() for name, weight in encoder.start.items()}, head).to(device)
    networks = Networks(leaves(networks.image), leaves(networks.text))
    rates = pairs.rate_image, pairs.rate_text
    groups = [{"params": list(side.values())} for side in networks]
    decay = recipe.weight_decay
    optimizer = torch.optim.SGD(groups, lr=0, momentum=recipe.momentum, weight_decay=decay, fused=True)
    size = min(recipe.batch_size, len(pixels))

    def loss_of(features: Float[Tensor, "B d"], text: Weights, *, batch: Int[Tensor, "B"]) -> Float[Tensor, ""]:
        dropout = dropout_mask((size, width), recipe.dropout, mask_generator)
        logits = to_sphere(features) @ to_sphere(project(Head(**text), texts[batch], dropout)).T / temperature
        return loss_function(logits, similarity[batch][:, batch], loss_parameters)

    @in_tf32()
    def train_step() -> None:
        batch = torch.randperm(len(pixels), generator=batch_generator)[:size].to(device)
        loss, direction = loss_and_gradient(encoder, networks, pixels[batch] / 255, partial(loss_of, batch=batch))
        if not bool(loss.isfinite()):
            raise NonFiniteError(
                f"A student diverged at the learning rates {pairs.rate_image:.3g} and {pairs.rate_text:.3g}. "
                "If a distillation learned them, lower its distill.encoder_rate or distill.start_rate."
            )
        _set_gradients(networks, direction)
        optimizer.step()

    for epoch, factor in enumerate(rate_factors(recipe)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        for _ in range(math.ceil(len(pixels) / size)):
            train_step()
        on_epoch(epoch, lambda: networks)
    return Networks(*({name: weight.detach() for name, weight in side.items()} for side in networks))


def _set_gradients(networks: Networks, gradients: Networks) -> None:
    for side, side_gradients in zip(networks, gradients, strict=True):
        for name, weight in side.items():
            gradient = side_gradients[name]
            # The fused step reads both in the order of their memory, which can differ: a convolution over channels-last
            # images gives its gradient in that order.
            same_order = gradient.stride() == weight.stride()
            weight.grad = gradient if same_order else torch.empty_like(weight).copy_(gradient)


def hits_of_networks(
    encoder: TrainedEncoder,
    networks: Networks,
    images: Iterable[UInt8[Tensor, "_ 3 S S"]],
    texts: Float16[Tensor, "C e"],
    image_of_text: Int[Tensor, "C"],
    *,
    device: str = "cpu",
) -> Int[Tensor, "I 7"]:
    """Return what a student or an expert finds (`retrieval_hits`), its own encoder embedding the images in batches.

    Raises:
        NonFiniteError: an embedding is not finite.
    """
    networks = networks.to(device)
    with torch.inference_mode():
        with in_tf32():
            image_embeddings = torch.cat(
                [to_sphere(encoder(networks.image, pixels.to(device) / 255)) for pixels in images]
            )
        text_embeddings = to_sphere(project(Head(**networks.text), texts.to(device, torch.float32)))
        return retrieval_hits(image_embeddings, text_embeddings, image_of_text.to(device))


@in_tf32()
def embed_pairs(
    encoder: TrainedEncoder, networks: Networks, pairs: SyntheticSet, *, device: str = "cpu"
) -> tuple[Float[Tensor, "N d"], Float[Tensor, "N d"]]:
    """Embed a set's images and texts in the shared space of an expert or a student."""
    assert pairs.pixels is not None
    networks = networks.to(device)
    with torch.no_grad():
        images = [encoder(networks.image, batch.to(device) / 255) for batch in pairs.pixels.split(encoder.at_once)]
        texts = project(Head(**networks.text), pairs.text_features.to(device))
    return to_sphere(torch.cat(images)).cpu(), to_sphere(texts).cpu()
