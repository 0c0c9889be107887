"""K-Center (Sener and Savarese, ICLR 2018, greedy variant): choose pairs so that no pair is far from all of them."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from raydd.distill.selections.evidence import Joint, choose_greedily


def centres(joint: Joint, pairs: int, seed: int) -> Int[Tensor, "N"]:
    """Choose a random pair, then repeatedly the pair that is farthest from its nearest centre so far."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(len(joint.image_of_text), (), generator=generator)
    # Squared distance to the nearest centre. 8 is the largest possible; infinity makes the first centre come first.
    distances = torch.full((len(joint.image_of_text),), 8.0)
    distances[first] = torch.inf

    def choose_next(free: Bool[Tensor, "C"]) -> int:
        chosen = int(distances.masked_fill(~free, -torch.inf).argmax())
        to_chosen = 4 - 2 * joint.products(*joint.row(chosen))  # |x - y|² of joint features, whose |x|² is 2
        torch.minimum(distances, to_chosen, out=distances)
        return chosen

    return choose_greedily(joint.image_of_text, pairs, choose_next)
