"""Forgetting (Toneva et al., ICLR 2019): the pairs that training forgets least.

A pair counts as learned when it ranks first in its minibatch both ways. It is forgotten when it was learned the last
time that training met it and is not now. Pairs are sorted by their forgettings, ascending as in the published tables;
pairs that were never learned come last, equal ones in an order drawn by seed.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from raydd.distill.selections.evidence import Evidence, Forgetting, first_of_each_image

EPOCHS = 10  # of training that are watched


def forgetting(evidence: Evidence, pairs: int, seed: int) -> Int[Tensor, "N"]:
    """The least forgotten pairs."""
    return least_forgotten(evidence.forgetting(EPOCHS), evidence.image_of_text, pairs, seed)


def least_forgotten(forgotten: Forgetting, image_of_text: Int[Tensor, "C"], pairs: int, seed: int) -> Int[Tensor, "N"]:
    """The pairs with the fewest forgettings, those that were learned at all first."""
    shuffled = torch.randperm(len(image_of_text), generator=Generator().manual_seed(seed))
    events = forgotten.events.long().masked_fill(~forgotten.learned, torch.iinfo(torch.int64).max)
    return first_of_each_image(image_of_text, shuffled[events[shuffled].argsort(stable=True)], pairs)


def ranked_first(logits: Float[Tensor, "B B"]) -> Bool[Tensor, "B"]:
    """Whether each pair of a minibatch is the nearest of its row and of its column; a tie is not."""
    own = logits.diagonal()
    others = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool, device=logits.device), -torch.inf)
    return (own > others.amax(1)) & (own > others.amax(0))


def count_forgetting(captions: int, seen: Iterable[tuple[Int[Tensor, "B"], Bool[Tensor, "B"]]]) -> Forgetting:
    """Forgettings of all pairs, from what training met in its order: pairs of a minibatch, and whether each is learned.

    A pair that training has not met is not learned.
    """
    events = torch.zeros(captions, dtype=torch.int16)
    now, ever = torch.zeros(captions, dtype=torch.bool), torch.zeros(captions, dtype=torch.bool)
    for batch, learned in seen:
        events[batch] += (now[batch] & ~learned).to(torch.int16)
        now[batch] = learned
        ever[batch] |= learned
    return Forgetting(events, ever)
