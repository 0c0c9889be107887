"""Settings of the table of methods."""

from dataclasses import dataclass
from typing import Annotated, Literal

from raydd.ranges import Between, check_name, check_numbers, require

MOST_SETS = 1000  # of a row


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """The table of methods, numbers of pairs and data sets that `raydd compare` makes."""

    name: str = "compare"
    """Name of the comparison. The same name continues an interrupted one."""
    methods: tuple[str, ...] = (
        "random",
        "herding",
        "k-center",
        "forgetting",
        "k-means",
        "mtt-vl",
        "tesla-vl",
        "lors",
        "repblend",
        "full",
    )
    """Methods to compare. Selections, methods (your own as in `distill.method`), presets, and full: all real pairs."""
    pairs: tuple[int, ...] = (99, 199, 499)
    """Number of synthetic pairs N of each table. Rows without a learned similarity matrix get N + 1, because the matrix
    counts as a pair."""
    sets: Annotated[int, Between(1, MOST_SETS)] = 5
    """Number of sets in each row, each from another seed. The seed draws start pairs, minibatches and the order of
    experts; set 0 uses `distill.seed`. The table's ± is over the sets. With 1 set, no row is reported as better than
    another."""
    checks: Annotated[int, Between(0, 10_000)] = 8
    """Number of points on each distillation's curve, the val r_mean of a student at equal intervals of the steps. The
    last quarter of the curve minus the quarter before shows whether a row was still rising. 0: no curves."""
    data: tuple[str, ...] = ()
    """YAML files, one for each data set; their settings win over all others. Empty: the data of your own settings."""
    trials: Annotated[int, Between(0, 1_000_000)] = 12
    """Number of trials that tune each method on val, for each number of pairs. 0: no tuning."""
    published: bool = True
    """Give each tuned method a second row, at its published settings except the optimiser and the learning rates of the
    synthetic pairs, which are meant for pixels."""
    choice: Literal["held-out", "published"] = "held-out"
    """How students are scored. held-out: nothing is chosen on the scored split; published: as each method's own code
    does, in most cases by the best of several checks on the scored split, with unscaled learned learning rates. Rows
    scored as published are marked."""

    @property
    def as_published(self) -> bool:
        """Whether students are chosen as the published code chooses them."""
        return self.choice == "published"

    def __post_init__(self) -> None:
        check_numbers("compare", self)
        check_name("compare.name", self.name)
        require(bool(self.methods), "compare.methods", self.methods, "one or more")
        require(bool(self.pairs) and min(self.pairs) >= 3, "compare.pairs", self.pairs, "numbers from 3 on")
