"""The objectives by name. Each is a file and one line here; `raydd.distill.content` lists the settings it reads."""

from collections.abc import Callable

from raydd.distill.objectives.covariance import CovarianceMatching
from raydd.distill.objectives.distribution import DistributionMatching
from raydd.distill.objectives.gradient import GradientMatching
from raydd.distill.objectives.objective import LossOfPairs, Objective, ObjectiveInputs
from raydd.distill.objectives.projector import ProjectorMatching
from raydd.distill.objectives.real_pairs import RealPairs
from raydd.distill.objectives.ridge import RidgeStudents
from raydd.distill.objectives.trajectory import TrajectoryMatching

OBJECTIVES: dict[str, Callable[[ObjectiveInputs], Objective]] = {
    "trajectory": TrajectoryMatching,
    "covariance": CovarianceMatching,
    "projector": ProjectorMatching,
    "ridge": RidgeStudents,
    "distribution": DistributionMatching,
    "gradient": GradientMatching,
}

__all__ = ["OBJECTIVES", "LossOfPairs", "Objective", "ObjectiveInputs", "RealPairs"]
