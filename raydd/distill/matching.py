"""The matching loss: how far the student ends from the expert's target, beside how far it began."""

from collections.abc import Mapping
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from raydd.errors import NonFiniteError


class Walked(Protocol):
    """A network after its walk."""

    def distance(self, target: Any) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """|theta_T - theta*|² and |theta_0 - theta*|², over all parameters."""
        ...


def matching_loss(
    walks: Mapping[str, Walked], targets: Mapping[str, Any], *, merged: bool
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Sum over networks of |theta_T - theta*|² / |theta_0 - theta*|², or merged: one fraction of both sums.

    Args:
        walks: the networks that are matched, after their steps: image and text, or text alone.
        targets: the expert's later snapshot of each.
        merged: sum numerators and denominators before dividing, as the RepBlend paper writes it.

    Returns:
        The loss, and each network's own fraction.

    Raises:
        NonFiniteError: the expert did not move between start and target.
    """
    distances = {name: walk.distance(targets[name]) for name, walk in walks.items()}
    ends = {name: end for name, (end, _) in distances.items()}
    begins = {name: begin for name, (_, begin) in distances.items()}
    if any(float(begin.detach()) == 0 for begin in begins.values()):
        raise NonFiniteError(
            "An expert's start and target snapshots are equal. Train experts with a larger experts.lr."
        )
    fractions = {f"loss/{name}": float(ends[name].detach() / begins[name].detach()) for name in walks}
    if merged:
        return sum(ends.values()) / sum(begins.values()), fractions  # type: ignore[return-value]
    return sum(ends[name] / begins[name] for name in walks), fractions  # type: ignore[return-value]
