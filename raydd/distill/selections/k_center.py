"""K-Center (Sener and Savarese, ICLR 2018, the greedy one): pairs that leave no other pair far from all of them."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from raydd.distill.selections.evidence import WARM_UP, Evidence, Joint, greedily


def k_center(evidence: Evidence, pairs: int, seed: int) -> Int[Tensor, "N"]:
    """Greedy centres in the joint space, the first one drawn by seed."""
    return centres(evidence.joint(WARM_UP), pairs, seed)


def centres(joint: Joint, pairs: int, seed: int) -> Int[Tensor, "N"]:
    """A random pair, then each time the pair that is farthest from the nearest centre so far."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(len(joint.image_of_text), (), generator=generator)
    # Squared, to the nearest centre: 8 is the largest that there is, and the first centre goes before all.
    distances = torch.full((len(joint.image_of_text),), 8.0)
    distances[first] = torch.inf

    def best(free: Bool[Tensor, "C"]) -> int:
        chosen = int(distances.masked_fill(~free, -torch.inf).argmax())
        to_chosen = 4 - 2 * joint.products(*joint.row(chosen))  # |x - y|² of joint features, whose |x|² is 2
        torch.minimum(distances, to_chosen, out=distances)
        return chosen

    return greedily(joint.image_of_text, pairs, best)
