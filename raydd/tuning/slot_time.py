"""Counts for how long slots were held, which GPU-hours, cost and a metric are computed from."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter


@dataclass(frozen=True)
class Stay:
    """The time in which a trial held its slot, in seconds of any clock."""

    slot: str
    """Id of the slot; empty for a slot that the trial shares with no other."""
    begin: float
    end: float


def slot_seconds(stays: Iterable[Stay]) -> float:
    """Return for how many seconds slots were held, summed over the slots.

    The time in which several trials shared a slot counts once.
    """
    total, shared = 0.0, defaultdict[str, list[Stay]](list)
    for stay in stays:
        if stay.slot:
            shared[stay.slot].append(stay)
        else:
            total += stay.end - stay.begin
    for slot_stays in shared.values():
        counted_until = -math.inf
        for stay in sorted(slot_stays, key=attrgetter("begin")):
            total += max(0.0, stay.end - max(stay.begin, counted_until))
            counted_until = max(counted_until, stay.end)
    return total
