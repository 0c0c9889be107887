import math

import pytest
from made_studies import OBJECTIVES, searched

from raydd.tuning.results import importances


@pytest.mark.parametrize("objectives", [OBJECTIVES, ("r_mean",)])
def test_the_setting_that_matters_most_is_named_first(objectives: tuple[str, ...]):
    shares = importances(searched(200, objectives), objectives)
    assert next(iter(shares)) == "distill.image_lr"
    assert math.isclose(sum(shares.values()), 1.0, rel_tol=1e-6)


def test_with_too_few_trials_nothing_is_said_to_matter():
    shares = importances(searched(4), OBJECTIVES)
    assert shares
    assert not any(shares.values())
