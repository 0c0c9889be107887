"""The selections by name: coresets of real pairs. Each selection is a file that names its paper, and one line here."""

from raydd.distill.selections.co_occurrence import nearest_to_shared
from raydd.distill.selections.evidence import WARM_UP, Evidence, Forgetting, Joint, Select
from raydd.distill.selections.forgetting import EPOCHS, least_forgotten
from raydd.distill.selections.herding import herd
from raydd.distill.selections.k_center import centres
from raydd.distill.selections.k_means import nearest_to_means
from raydd.distill.selections.random_pairs import random_captions

SELECTIONS: dict[str, Select] = {
    "random": lambda evidence, pairs, seed: random_captions(evidence.image_of_text, pairs, seed),
    "herding": lambda evidence, pairs, seed: herd(evidence.joint(WARM_UP), pairs),
    "k-center": lambda evidence, pairs, seed: centres(evidence.joint(WARM_UP), pairs, seed),
    "k-means": lambda evidence, pairs, seed: nearest_to_means(evidence.joint(WARM_UP), pairs, seed),
    "co-occurrence": lambda evidence, pairs, seed: nearest_to_shared(evidence.joint(WARM_UP), pairs, seed),
    "forgetting": lambda evidence, pairs, seed: least_forgotten(
        evidence.forgetting(EPOCHS), evidence.image_of_text, pairs, seed
    ),
}

__all__ = ["SELECTIONS", "Evidence", "Forgetting", "Joint", "Select"]
