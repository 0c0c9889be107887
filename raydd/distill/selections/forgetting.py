"""Forgetting (Toneva et al., ICLR 2019): choose the pairs that training forgets least often.

A pair counts as learned if it ranks first in its minibatch in both directions. It is forgotten if it was learned the
last time that it occurred in training, and is not learned now. Pairs are sorted by how often they were forgotten,
ascending as in the published tables. Pairs that were never learned come last. The order of ties is drawn by seed.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from raydd.distill.selections.evidence import Forgetting, first_of_each_image

EPOCHS = 10  # epochs of training in which forgetting is counted


def least_forgotten(forgotten: Forgetting, image_of_text: Int[Tensor, "C"], pairs: int, seed: int) -> Int[Tensor, "N"]:
    """Return the pairs that were forgotten least often; pairs that were never learned come last."""
    shuffled = torch.randperm(len(image_of_text), generator=Generator().manual_seed(seed))
    events = forgotten.events.long().masked_fill(~forgotten.learned, torch.iinfo(torch.int64).max)
    return first_of_each_image(image_of_text, shuffled[events[shuffled].argsort(stable=True)], pairs)


def ranked_first(logits: Float[Tensor, "B B"]) -> Bool[Tensor, "B"]:
    """Return whether each pair of a minibatch has the largest logit of its row and of its column, without a tie."""
    diagonal = logits.diagonal()
    off_diagonal = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool, device=logits.device), -torch.inf)
    return (diagonal > off_diagonal.amax(1)) & (diagonal > off_diagonal.amax(0))


def count_forgetting(captions: int, minibatches: Iterable[tuple[Int[Tensor, "B"], Bool[Tensor, "B"]]]) -> Forgetting:
    """Count how often each pair was forgotten.

    Args:
        captions: number of captions.
        minibatches: in the order of training: the pairs of each minibatch, and whether each one is learned then.
            Pairs that have not occurred yet count as not learned.
    """
    events = torch.zeros(captions, dtype=torch.int16)
    learned_now, ever_learned = torch.zeros(captions, dtype=torch.bool), torch.zeros(captions, dtype=torch.bool)
    for batch, learned in minibatches:
        events[batch] += (learned_now[batch] & ~learned).to(torch.int16)
        learned_now[batch] = learned
        ever_learned[batch] |= learned
    return Forgetting(events, ever_learned)
