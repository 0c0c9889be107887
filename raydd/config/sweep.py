"""Settings of the search over settings."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from raydd.ranges import MOST, Between, Count, FromZero, RateFromZero, Seed, check_name, check_numbers, require

RUNG_EPOCHS = 25  # of students that score a trial at a rung: a quarter of the time, and better for early sets
LAST_RUNG_EPOCHS = 50  # with fitted learning rates: fewer epochs underrate sets that need large ones
TRIAL_SEEDS = 3  # students that score a trial; enough to rank trials (finals use `evaluate.seeds`)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The search over settings by Ray Tune and Optuna."""

    name: str = "matching"
    """Name of the sweep. The same name continues an interrupted sweep, or extends a finished one. `raydd report`,
    `watch` and `board` take the latest sweep if none is named."""
    space: str = "matching"
    """Search space: demo, matching, repblend, lors, mtt_vl, tesla_vl, covmatch, apm, ridge, mdm, lgm, starts, or
    your own (FILE.py:NAME or module:NAME)."""
    first: bool = True
    """Begin with the settings that the search space lists for the first trials; off: begin without them."""
    trials: Count = 16
    """Total number of trials, including those of earlier runs of this sweep. Stopped trials count, failed ones do not.
    The report shows which settings matter from 20 complete trials on; stopped trials are not complete."""
    max_failures: FromZero = 5
    """Stop the sweep after N trials in a row failed for the same reason (0: never)."""
    hours: RateFromZero = 0.0
    """Start no new trials after this many hours (0: no limit)."""
    gpu_hours: Annotated[float, Between(0, MOST)] = 0.0
    """Start no new trials once this sweep, including earlier commands, has used this many GPU-hours (0: no limit)."""
    cost: Annotated[float, Between(0, MOST)] = 0.0
    """Start no new trials once this sweep, including earlier commands, has cost this much at `sweep.price` (0: no
    limit)."""
    price: Annotated[float, Between(0, MOST)] = 0.0
    """Price of a slot (`sweep.cpus` and `sweep.gpus`) per hour, in any currency: a machine's hourly price divided by
    the number of slots that it holds."""
    plateau: FromZero = 0
    """Start no new trials once this many trials in a row gained less than `sweep.plateau_gain` (0: no limit)."""
    plateau_gain: Annotated[float, Between(0, 100)] = 0.5
    """Gain over the best trial so far, in points of val r_mean, from which a trial counts as better. Other start pairs
    alone change r_mean by some tenths of a point to a point."""
    warm_start: str = ""
    """Another sweep in the same `place.study` database, whose best trials a new sweep tries first: NAME, or NAME:K for
    the best K (default 5)."""
    at_once: FromZero = 0
    """Limit on trials at once (0: all resources)."""
    cpus: Annotated[float, Between(1e-4, 65_536)] = 1.0
    """CPU cores of each trial, or of each slot (see `sweep.together`)."""
    gpus: float | Literal["auto"] = "auto"
    """GPUs of each trial or slot; auto is -1 if there is a GPU, else 0. Fractions are allowed. -1: a share of a GPU by
    the memory that a trial needs, or one GPU per slot (`sweep.together`); 0: CPU."""
    together: FromZero = 0
    """Number of trials on features that share a slot (one process); trials of equal shape step as one batch. 0: 16 on a
    GPU, which one trial would leave mostly idle, and 1 on CPUs and for spaces whose trials mostly differ in shape. With
    `sweep.gpus` -1, at most as many as fit in the GPU's memory."""
    objectives: tuple[Literal["r_mean", "seconds", "bytes"], ...] = ("r_mean",)
    """What to optimise: r_mean on val (mean of recall at 1, 5 and 10, both directions), alone or with seconds (of
    distillation) or bytes (of the set), which gives a Pareto front."""
    pruner: Literal["hyperband", "asha", "median", "wilcoxon", "none"] = "asha"
    """Which trials are stopped early. At each of `sweep.rungs`, asha: trials below the best third of those that reached
    the rung, by more than a point while there are few; hyperband: the same, but some trials skip the first rungs;
    median: trials below the median of the complete trials; wilcoxon: trials whose students are significantly worse than
    the best trial's; none: no trials. With several objectives, a trial is stopped only if others beat it in all of
    them."""
    rungs: tuple[int, ...] = (5, 15, 45)
    """Rungs of a trial: percent of its steps after which it is scored on val and may be stopped."""
    rung_students: FromZero = 0
    """Number of students, one per seed, that score a trial at a rung, with unfitted learning rates. 0: score in closed
    form, by ridge regression, which takes milliseconds; if the image encoder is trained, 0 means 1."""
    last_rung_students: FromZero = 3
    """Number of students, with fitted learning rates, that score a trial at the last rung instead of ridge regression,
    which does not tell good sets apart (0: ridge regression). Without a pruner, there are none."""
    drawn_again: FromZero = 4
    """Number of best trials that are distilled again before the finals, from other start pairs and with other students;
    the mean of these draws ranks them. 0: rank trials by their own scores, the best of which is partly luck."""
    draws: Count = 2
    """How many times each of the `sweep.drawn_again` trials is distilled again."""
    finalists: FromZero = 2
    """Number of best trials that are run again and scored on test (finals), with all student seeds and with
    `distill.images` as you set it."""
    sampler: str = "auto"
    """What draws the settings of the next trial: auto (a Gaussian process among neighbours of the best trial; tpe with
    several objectives), per-second (the same, by gain per second, starting with cheap trials), Optuna's tpe, gp, cmaes
    or random, or your own (FILE.py:NAME or module:NAME)."""
    seed: Seed = 0
    """Seed of the sampler."""

    @property
    def gpu_share(self) -> float:
        """`sweep.gpus` as a number; auto counts as 0, the CPU, until it is resolved."""
        return 0.0 if self.gpus == "auto" else self.gpus

    def __post_init__(self) -> None:
        check_numbers("sweep", self)
        check_name("sweep.name", self.name)
        share = self.gpu_share  # Ray gives a process a fraction of one GPU, or whole GPUs
        valid_gpus = share == -1 or 0 <= share <= 1 or (share > 1 and share % 1 == 0)
        require(valid_gpus, "sweep.gpus", self.gpus, "auto, -1, 0 to 1, or a whole number")
        require(self.price > 0 or not self.cost, "sweep.cost", self.cost, "0 while sweep.price is 0")
        require("r_mean" in self.objectives, "sweep.objectives", self.objectives, "a list that holds r_mean")
        ascending = all(low < high for low, high in pairwise((0, *self.rungs, 99)))
        require(bool(self.rungs) and ascending, "sweep.rungs", self.rungs, "percents from 1 to 98, ascending")
        if self.pruner == "wilcoxon":  # a difference needs at least four pairs of students to reach p < 0.1
            enough_students = len(self.rungs) * self.rung_students >= 4
            require(
                enough_students, "sweep.rung_students", self.rung_students, "4 or more over all rungs under wilcoxon"
            )

    def fitted_students(self, rung: int) -> int:
        """Number of students with fitted learning rates that score a trial at a rung, given in percent of its steps."""
        judged_by_students = rung == self.rungs[-1] and self.pruner != "none" and not self.rung_students
        return self.last_rung_students if judged_by_students else 0
