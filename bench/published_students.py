"""The published evaluation in plain code: trains students one after another, and encodes inputs whenever they are used.

Shapes: N synthetic pairs, B minibatch, I images, C captions, D shared width.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Generator, Tensor

from bench.published_loop import EncodeImages, EncodeTexts, Loss, embed, weighted_bce

Heads = tuple[Float[Tensor, "P"], Float[Tensor, "Q"]]


def train_student(
    flats: Heads,
    image: Tensor,
    text: Float[Tensor, "N e"],
    similarity: Float[Tensor, "N N"],
    rates: tuple[float, float],
    encode_images: EncodeImages,
    *,
    width: int,
    temperature: float,
    epochs: int,
    batch_size: int,
    momentum: float,
    weight_decay: float,
    dropout: float,
    seed: int,
    loss: Loss = weighted_bce,
) -> Heads:
    """Train one student on a synthetic set, encoding the images of each minibatch, and return its heads.

    Args:
        flats: parameters of both heads before the first step.
        image: the N synthetic images.
        text: text features of the N pairs.
        similarity: similarity matrix of the N pairs.
        rates: learning rates of both heads, which are divided by 10 half-way.
        encode_images: the image encoder.
        width: width of the shared space.
        temperature: divisor of the cosines.
        epochs: number of epochs; as in the published code, one more is run.
        batch_size: pairs in a minibatch; all pairs if there are fewer.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
        dropout: dropout rate in the heads.
        seed: seed of minibatches and dropout.
        loss: loss of logits and similarities.
    """
    flats = (flats[0].clone().requires_grad_(), flats[1].clone().requires_grad_())
    optimizer = torch.optim.SGD(
        [{"params": [flat], "lr": rate} for flat, rate in zip(flats, rates, strict=True)],
        momentum=momentum,
        weight_decay=weight_decay,
    )
    size = min(batch_size, len(image))
    draws, masks = Generator().manual_seed(seed), Generator().manual_seed(seed)
    for epoch in range(epochs + 1):
        if epoch == epochs // 2 + 1:
            for group in optimizer.param_groups:
                group["lr"] *= 0.1
        for _ in range(math.ceil(len(image) / size)):
            index = torch.randperm(len(image), generator=draws)[:size]
            dropout_masks = [(torch.rand(size, width, generator=masks) >= dropout) / (1 - dropout) for _ in range(2)]
            images = embed(flats[0], encode_images(image[index]), width, dropout_masks[0])
            texts = embed(flats[1], text[index], width, dropout_masks[1])
            value = loss(images @ texts.T / temperature, similarity[index][:, index])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return flats[0].detach(), flats[1].detach()


@torch.no_grad()
def retrieval_scores(
    flats: Heads,
    pictures: Sequence[Image.Image],
    captions: Sequence[str],
    image_of_text: Int[Tensor, "C"],
    pixels_of: Callable[[Sequence[Image.Image]], Tensor],
    encode_images: EncodeImages,
    encode_texts: EncodeTexts,
    *,
    width: int,
    batch_size: int = 128,
) -> dict[str, float]:
    """Encode a whole split, and rank it image by image and caption by caption.

    Args:
        flats: parameters of both heads.
        pictures: the I images of the split.
        captions: the C captions of the split.
        image_of_text: index of each caption's image.
        pixels_of: converts pictures to the encoder's input.
        encode_images: the image encoder.
        encode_texts: the text encoder.
        width: width of the shared space.
        batch_size: number of images or captions encoded at once.
    """
    images = [
        embed(flats[0], encode_images(pixels_of(pictures[begin : begin + batch_size])), width)
        for begin in range(0, len(pictures), batch_size)
    ]
    texts = [
        embed(flats[1], encode_texts(captions[begin : begin + batch_size]), width)
        for begin in range(0, len(captions), batch_size)
    ]
    return recalls((torch.cat(images) @ torch.cat(texts).T).numpy(), image_of_text.numpy())


def recalls(scores: np.ndarray, image_of_text: np.ndarray) -> dict[str, float]:
    """Return IR@K and TR@K in percent from the cosines [I C] of images and captions, sorting each row and column."""
    text_ranks, image_ranks = [], []
    for image, row in enumerate(scores):
        order = np.argsort(row)[::-1]
        text_ranks.append(min(np.where(order == caption)[0][0] for caption in np.where(image_of_text == image)[0]))
    for text, column in enumerate(scores.T):
        order = np.argsort(column)[::-1]
        image_ranks.append(np.where(order == image_of_text[text])[0][0])
    return {
        f"{name}@{k}": 100 * float(np.mean(np.array(ranks) < k))
        for name, ranks in (("IR", image_ranks), ("TR", text_ranks))
        for k in (1, 5, 10)
    }
