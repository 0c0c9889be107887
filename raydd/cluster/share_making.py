"""What several processes need of the store is made once: whoever claims it makes it, the others wait."""

import time
from typing import Any

from raydd.cluster.claims import Claimant
from raydd.distill.trajectories import Trajectories
from raydd.protocols import Workbench
from raydd.store import fingerprint

WAIT_SECONDS = 1.0  # between two looks at what others are making


def share_making(work: Workbench[Any], claimant: Claimant) -> None:
    """Have what a distillation reads in the store, made together with everybody who needs the same."""
    config = work.config
    sections = {"data": config.data, "encoders": config.encoders, "features": config.features}
    with claimant.waiting_for(f"features {fingerprint('features', 1, sections, {})}"):
        work.prepare()
    experts, epochs = work.open_experts(), config.distill.expert_epochs
    while missing := experts.missing(epochs):
        if not any(_trained(work, experts, claimant, expert) for expert in missing):
            time.sleep(WAIT_SECONDS)  # others are at all of them


def _trained(work: Workbench[Any], experts: Trajectories[Any], claimant: Claimant, expert: int) -> bool:
    with claimant.holding(f"experts {experts.record.fingerprint} {expert}") as granted:
        if granted:
            work.train_expert(experts, expert, work.config.distill.expert_epochs)
    return granted
