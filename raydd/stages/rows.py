"""The rows beside a synthetic set, whatever is trained: how the epoch of all pairs is chosen."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from raydd.config import Config
from raydd.distill.trajectories import Trajectories
from raydd.evaluate.scores import Scores

State = TypeVar("State")
Row = tuple[Scores, Mapping[str, Any]]  # and what made them


def row_of_experts(
    config: Config,
    trained: Callable[[int, Collection[int]], Trajectories[State]],
    score: Callable[[State, str], Mapping[str, float]],
) -> Row:
    """Scores of experts, one a seed, after the epoch that is best for the first of them.

    Args:
        config: seeds, epochs, the split, and what the epoch is chosen on.
        trained: so many experts with their snapshots of these epochs.
        score: retrieval scores of a snapshot on a split.
    """
    chosen_on = config.evaluate.split if config.evaluate.choice == "best-on-split" else "val"
    epochs, seeds = range(1, config.experts.last_epoch + 1), config.evaluate.seeds
    first = trained(1, epochs)
    found = {epoch: score(first.snapshot(0, epoch), chosen_on)["r_mean"] for epoch in epochs}
    best = max(found, key=lambda epoch: found[epoch])
    experts = trained(seeds, [best])
    scored = [dict(score(experts.snapshot(seed, best), config.evaluate.split)) for seed in range(seeds)]
    return Scores(tuple(scored)), {"epoch": best, "chosen_on": chosen_on}
