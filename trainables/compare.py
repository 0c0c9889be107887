"""One row of a comparison, as a Ray task: what it shares with others is made once, then it is made and scored."""

from typing import Any

from raydd.distill.selections import SELECTIONS
from raydd.place import open_store, use_threads
from raydd.protocols import Listings, Opened, open_workbench
from raydd.stages.comparing import Cell, Row, make_row
from raydd.tuning.claims import Claimant
from trainables.distill import share_making


def compare_cell(cell: Cell, listings: Listings, claims: Any) -> Row:
    """Make one row; runs in a Ray worker.

    Args:
        cell: what to make.
        listings: the data sets that the driver has read.
        claims: handle of the actor of `raydd.tuning.claims`.
    """
    config = cell.config
    use_threads(config.place)
    with Claimant(claims, f"{cell.name} {cell.data} {cell.pairs}".strip()) as claimant:
        work = open_workbench(config, open_store(config.place), claimant.progress, Opened(listings))
        if cell.method in SELECTIONS:
            # Selections of one size or another share warm-ups: one of them makes all at a time.
            with claimant.waiting_for(f"selections of {cell.data}"):
                for seed in range(config.evaluate.seeds):
                    work.select(cell.method, cell.pairs, seed)
        else:
            share_making(work, claimant)
        return make_row(cell, work)
