"""The selections by name: coresets of real pairs. Each selection is a file that names its paper, and one line here."""

from raydd.distill.selections.co_occurrence import co_occurrence
from raydd.distill.selections.evidence import Evidence, Forgetting, Joint, Select
from raydd.distill.selections.forgetting import forgetting
from raydd.distill.selections.herding import herding
from raydd.distill.selections.k_center import k_center
from raydd.distill.selections.k_means import k_means
from raydd.distill.selections.random_pairs import random_pairs

SELECTIONS: dict[str, Select] = {
    "random": random_pairs,
    "herding": herding,
    "k-center": k_center,
    "k-means": k_means,
    "co-occurrence": co_occurrence,
    "forgetting": forgetting,
}

__all__ = ["SELECTIONS", "Evidence", "Forgetting", "Joint", "Select"]
