"""Settings of the students that score a set, and of what they are scored on."""

from dataclasses import dataclass
from typing import Annotated, Literal

from raydd.config.distill import Selection
from raydd.ranges import MOST, Between, check_numbers


@dataclass(frozen=True, kw_only=True)
class StudentsConfig:
    """How to train the students that score a synthetic set: as published, except for ten times the weight decay, larger
    minibatches, and a learned learning rate that is scaled for momentum."""

    epochs: Annotated[int, Between(1, 1_000_000)] = 100
    """Number of epochs on the synthetic set; one more is trained, as published."""
    batch_size: Annotated[int, Between(2, MOST)] = 512
    """Minibatch size; at most the number of pairs (published: 128). Weight decay acts at each minibatch: where an epoch
    has several, students may need less of it."""
    momentum: Annotated[float, Between(0, 1, below=True)] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Between(0, 1e3)] = 5e-3
    """Weight decay of SGD (published: 5e-4)."""
    dropout: Annotated[float, Between(0, 1, below=True)] = 0.1
    """Dropout inside the heads."""
    rate: Literal["effective", "published"] = "effective"
    """How students use the learned learning rate. effective: scale it by 1 - momentum, so that a momentum-SGD student
    moves as far as the plain-SGD student it was learned for; published: use it unscaled, which moves 10 times as far at
    momentum 0.9."""

    def __post_init__(self) -> None:
        check_numbers("students", self)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Scores of a synthetic set, of selected real pairs, and of all real pairs."""

    split: Literal["val", "test"] = "test"
    """Split to score. All choices are made on val."""
    seeds: Annotated[int, Between(1, 100_000)] = 5
    """Number of students trained on each set, one per seed."""
    baselines: tuple[Selection | Literal["full"], ...] = ("random", "full")
    """What the set is compared with: students of the same number of real pairs, chosen by a selection; full: students
    of all real pairs."""
    choice: Literal["last", "best-on-split"] = "last"
    """Which epoch of a student is scored: last; or best-on-split, the best of `evaluate.checks` epochs on the scored
    split itself, as published. Use best-on-split only to compare with published tables. Trials of a sweep are always
    scored at the last epoch."""
    checks: Annotated[int, Between(2, 1_000)] = 6
    """Number of epochs at which a student is scored under best-on-split, from its first epoch to its last; RepBlend's
    code has 6, LoRS's 11."""
    encoders: tuple[str, ...] = ()
    """Other encoders, IMAGE or IMAGE+TEXT, with which `raydd evaluate` also scores a set that has pixels. Another text
    encoder encodes the real captions that are nearest to the learned text features."""
    classes: str = ""
    """A folder with one folder of images per class, for zero-shot classification by the set's students. A
    `classes.json` in this folder or above it maps folders to class names."""
    unseen: str = ""
    """A YAML file of another data set: the set's students are scored on all of its pairs, without training on them."""

    def __post_init__(self) -> None:
        check_numbers("evaluate", self)
