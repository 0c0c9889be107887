"""All settings of raydd, as one tree of frozen dataclasses. YAML files, flags, trials and records use the same names.

Each section belongs to one stage, and a stage's record is named by the settings that the stage reads. This package
imports only the standard library, so that the command line answers `--help` without loading torch.
"""

from dataclasses import dataclass, field

from raydd.config.compare import CompareConfig
from raydd.config.data import DataConfig, EncodersConfig, FeaturesConfig
from raydd.config.distill import DistillConfig, PixelsConfig, Selection
from raydd.config.evaluate import EvaluateConfig, StudentsConfig
from raydd.config.experts import ExpertsConfig
from raydd.config.place import PlaceConfig
from raydd.config.sweep import SweepConfig
from raydd.ranges import require

__all__ = [
    "CompareConfig",
    "Config",
    "DataConfig",
    "DistillConfig",
    "EncodersConfig",
    "EvaluateConfig",
    "ExpertsConfig",
    "FeaturesConfig",
    "PixelsConfig",
    "PlaceConfig",
    "Selection",
    "StudentsConfig",
    "SweepConfig",
]


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings."""

    data: DataConfig = field(default_factory=DataConfig)
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    students: StudentsConfig = field(default_factory=StudentsConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    place: PlaceConfig = field(default_factory=PlaceConfig)

    def __post_init__(self) -> None:
        if self.distill.protocol == "encoder":
            unsupported = [name for name in self.evaluate.baselines if name not in ("random", "full")]
            require(not unsupported, "evaluate.baselines", unsupported, "random or full under distill.protocol encoder")
        if self.experts.anneal:
            last_epoch = self.distill.expert_epochs[-1]
            require(
                last_epoch <= self.experts.anneal,
                "the last target epoch",
                last_epoch,
                f"at most experts.anneal, {self.experts.anneal}",
            )
