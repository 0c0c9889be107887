"""What a sweep queues before its first trial."""

import pytest
from optuna.trial import TrialState
from rich.console import Console

from raydd.config import Config
from raydd.tuning import study as studies
from raydd.tuning.expected import Expected
from raydd.tuning.plan import Plan
from raydd.tuning.preparing import Planned, begin_sweep
from raydd.tuning.trials import run_trials


@pytest.fixture
def begin(space, address):
    """Begins a sweep whose data and expected time are known; returns its plan and its study."""

    def begin(config: Config, *, retry_failed: bool = False):
        study = studies.open_study(config, space, address)
        plan = Plan(config, space, studies.counts(study), 1, True, "", (), Expected(1.0, 1.0, 1.0), "", 0.0, 0)
        planned = Planned(plan, None, (), {})  # type: ignore[arg-type] - the workbench is not asked
        return begin_sweep(planned, study, address, Console(), retry_failed=retry_failed), study

    return begin


def test_a_sweep_that_has_all_its_trials_runs_its_failed_ones_again(begin, ray_here, config, with_sweep, tmp_path):
    bad = tmp_path / "bad"
    bad.touch()

    def trial(given):
        from ray import tune

        from raydd.cluster.trial_report import TrialReport

        failure = "ValueError: the disk of node 3" if given["number"] == 0 and bad.exists() else ""
        tune.report(TrialReport(step=1, steps=1, r_mean=1.0, failure=failure, record="synthetic/0").as_result())

    def run(plan, study):
        folder = str(tmp_path / "tune")
        run_trials(trial, study, plan.space, plan.config.sweep, [], folder=folder, capacity=lambda: 1)
        return studies.counts(study)

    config = with_sweep(config, trials=2)
    assert run(*begin(config)) == {"complete": 2, "fail": 1}
    bad.unlink()
    begin(config, retry_failed=True)  # and was killed
    plan, study = begin(config, retry_failed=True)
    assert (plan.config.sweep.trials, plan.done) == (3, {"complete": 2})
    assert run(plan, study) == {"complete": 3}
    assert study.get_trials(states=(TrialState.WAITING,)) == []
    assert begin(config, retry_failed=True)[0].remaining == 0
