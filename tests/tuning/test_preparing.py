"""What a sweep refuses before anything is computed, and what it queues before its first trial."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from ray.train.v2.api.exceptions import WorkerGroupError
from rich.console import Console
from stage_settings import TINY

import raydd
from raydd.cluster import connect
from raydd.cluster.gpus import Cards
from raydd.cluster.growth import Growth
from raydd.config import Config
from raydd.errors import ConfigError, NonFiniteError, PlaceError, RayddError
from raydd.settings import with_settings
from raydd.store import Store
from raydd.tuning import preparing
from raydd.tuning import study as studies
from raydd.tuning.expected import Expected
from raydd.tuning.plan import Plan
from raydd.tuning.preparing import Planned, begin_sweep, plan_sweep
from raydd.tuning.trials import run_trials
from search_spaces import Space

Planning = Callable[..., Planned]


@pytest.fixture
def planned(tiny_data: Path, store: Store, tmp_path: Path) -> Planning:
    """Plans a sweep with further settings, on a cluster at an address."""

    def plan(address: str, **sweep: object) -> Planned:
        settings = {
            **TINY,
            "data.root": str(tiny_data),
            "sweep.space": "matching",
            "place.study": f"sqlite:///{tmp_path}/studies.db",
            **{f"sweep.{name}": value for name, value in sweep.items()},
        }
        work = raydd.open(with_settings(Config(), settings), store)
        console = Console(file=io.StringIO())
        return plan_sweep(work, Space("mine", lambda _: {}), address, [], console, dry_run=False)

    return plan


@pytest.mark.parametrize("at_once", [0, 1])
@pytest.mark.parametrize("address", ["local", "10.0.0.1:6379"])
def test_trials_that_fit_on_no_machine_are_refused(ray_here, planned: Planning, address: str, at_once: int):
    with pytest.raises(ConfigError, match="A trial asks for 512 CPUs and 0 GPUs, but Ray has"):
        planned(address, cpus=512.0, gpus=0.0, at_once=at_once)
    planned(address, cpus=1.0, gpus=0.0, at_once=at_once)


def test_trials_that_fit_on_a_machine_that_may_start_are_not_refused(ray_here, planned: Planning, monkeypatch):
    monkeypatch.setattr(connect, "growth", lambda: Growth(({"CPU": 8, "GPU": 1},) * 8, 8))
    assert planned("10.0.0.1:6379", cpus=8.0, gpus=1.0, at_once=1).plan.at_once == 1
    with pytest.raises(ConfigError, match=r"8 and 1 at most on one machine that runs or may start"):
        planned("10.0.0.1:6379", cpus=8.0, gpus=2.0)  # eight GPUs, but one on each machine


def test_a_card_that_holds_no_trial_is_named_and_gets_none(monkeypatch):
    large, small = (Cards(host, (name,), (int(size),)) for host, name, size in (("a", "A100", 80e9), ("b", "T4", 2e9)))
    told, kept = io.StringIO(), []
    monkeypatch.setattr(preparing, "hold", kept.extend)
    preparing._hold_others([large, small], [large], Console(file=told, width=200))
    assert kept == [small]
    assert told.getvalue() == "not used: the GPUs of b (T4, 2.0 GB) hold no trial\n"


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


def test_experts_that_diverge_leave_the_trials_to_train_them_and_other_errors_end_the_sweep(monkeypatch):
    told = io.StringIO()

    def share(error: RayddError, cause: Exception | None) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error from cause

        monkeypatch.setattr(preparing, "make_experts", fail)
        work = SimpleNamespace(is_prepared=True, with_progress=lambda progress: work)
        plan = SimpleNamespace(config=Config(), remaining=2, space=None)
        preparing.make_shared_experts(work, plan, None, Console(file=told, width=300))  # type: ignore[arg-type]

    monkeypatch.setattr(preparing, "held", list)
    monkeypatch.setattr(preparing, "slots_now", lambda *_: 2)
    monkeypatch.setattr(preparing, "queued_settings", lambda *_: [{}, {}])
    monkeypatch.setattr(preparing, "_open_trial_workbenches", lambda *_: [])
    monkeypatch.setattr(preparing, "sharing_experts", lambda _: ["work"])
    diverged, died = NonFiniteError("Expert 0 diverged. Lower experts.lr."), PlaceError("A worker failed: it died.")
    for error, cause in ((diverged, None), (died, WorkerGroupError("Traceback", {0: died}))):
        share(error, cause)
        assert told.getvalue().endswith(f"not all experts were trained: {error} Trials train the missing ones.\n")
    with pytest.raises(ConfigError, match="no GPU"):
        share(ConfigError("There is no GPU. Lower sweep.gpus."), None)
