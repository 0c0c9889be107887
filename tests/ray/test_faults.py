"""What may be lost in the middle of a sweep, and that its result is that of a sweep that lost nothing.

`docs/faults.md` has the table. Faults of single parts are tested beside these: a worker in a trajectory in
tests/trainables, the driver in test_sweep.py, MLflow in tests/tracking, damaged files and a store that is away in
tests/store.
"""

import contextlib
import json
import shutil
import subprocess
import time
from pathlib import Path

import optuna
import psutil
import pytest
from nodes import cluster_of
from optuna.trial import TrialState
from postgres import Postgres
from s3_server import BUCKET, Server
from safetensors.torch import load_file

from raydd.tuning import study as studies

SET = "synthetic.safetensors"
FIRST_RUNG = 15  # steps, 5 % of 300


@pytest.fixture
def sweep_settings(settings: dict) -> dict:
    """Trials of some seconds, so that they can be met in the middle."""
    steps = {"distill.steps": 300, "distill.checkpoint_every": 20}
    sweep = {"sweep.trials": 2, "sweep.finalists": 1, "sweep.at_once": 2}
    return {**settings, **steps, **sweep, "place.mlflow": "none"}


@pytest.fixture(scope="module")
def undisturbed() -> dict:
    """The first sweep that ran through; all others of the module are to come out as it did."""
    return {}


def outcome(settings: dict) -> dict:
    """What a sweep came to: settings and score of its trials, and the finals' scores; numbers are but names."""
    home = Path(settings["place.home"])
    storage = settings.get("place.study", f"sqlite:///{home}/studies.db")
    study = optuna.load_study(study_name=settings["sweep.name"], storage=storage)
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    failed = {trial.number: studies.reason(trial) for trial in study.get_trials(states=(TrialState.FAIL,))}
    assert set(failed.values()) <= {studies.INTERRUPTED}, failed
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    trials = sorted((trial.value, sorted(trial.params.items())) for trial in complete)
    kept = json.loads((home / f"sweeps/{settings['sweep.name']}/result.json").read_text())
    best = kept["best"]["cheap"], kept["best"]["settings"]
    return {"trials": trials, "best": best, "finals": [(one["val"], one["test"]) for one in kept["finalists"]]}


@pytest.fixture
def compare(sweep_settings: dict, undisturbed: dict, drive, tmp_path: Path):
    """Compare a disturbed sweep's outcome with that of one of the same seeds that ran in peace."""

    def compare(disturbed: dict) -> None:
        if not undisturbed:
            peaceful = {**sweep_settings, "place.home": str(tmp_path / "peaceful")}
            assert drive(peaceful, tmp_path / "peaceful.log").wait(900) == 0
            undisturbed.update(outcome(peaceful))
        assert outcome(disturbed) == undisturbed

    return compare


def wait_for(holds, driver: subprocess.Popen, log: Path, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def checkpoints(settings: dict) -> dict[Path, int]:
    """The states that running trials have kept, and when."""
    found = {}
    for path in Path(settings["place.home"]).rglob("checkpoint.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # finished meanwhile
            found[path] = path.stat().st_mtime_ns
    return found


def done_in(checkpoint: Path) -> int:
    """The distillation steps that a checkpoint has behind it."""
    return int(load_file(checkpoint)["done"])


@pytest.mark.slow
@pytest.mark.parametrize("notice", [True, False], ids=["with notice", "without"])
def test_a_node_is_lost_with_a_trial_on_it(sweep_settings: dict, drive, compare, tmp_path: Path, notice: bool):
    log = tmp_path / "log"
    with cluster_of(tmp_path, nodes=2) as (cluster, workers):
        settings = {**sweep_settings, "place.ray": cluster.address, "sweep.at_once": 1}
        if notice:
            settings["distill.checkpoint_every"] = 300  # so that rungs and the notice alone keep a state
        driver = drive(settings, log)
        wait_for(lambda: any(done_in(state) > FIRST_RUNG for state in checkpoints(settings)), driver, log)
        lost = next(node for node in workers if cluster.trials(node))
        before = checkpoints(settings)
        if notice:
            for trial in cluster.trials(lost):
                trial.terminate()
            wait_for(lambda: not cluster.trials(lost), driver, log, seconds=60)
            (state,) = checkpoints(settings)
            kept_there = done_in(state) in (45, 135)  # a rung: kept before the driver was asked to go on
            assert kept_there or checkpoints(settings) != before, done_in(state)  # it kept its state before it left
        cluster.lose(lost)
        lost_at, kept = time.monotonic(), checkpoints(settings)
        wait_for(lambda: set(checkpoints(settings).items()) - set(kept.items()), driver, log)
        print(f"another node went on after {time.monotonic() - lost_at:.1f} s")
        assert driver.wait(900) == 0, log.read_text()
    compare(settings)


@pytest.mark.slow
def test_a_lost_head_ends_the_driver_and_the_same_command_goes_on(sweep_settings, drive, compare, tmp_path: Path):
    log = tmp_path / "log"
    with cluster_of(tmp_path, nodes=2) as (cluster, _):
        settings = {**sweep_settings, "place.ray": cluster.address}
        driver = drive(settings, log)
        wait_for(lambda: "trial 0: r_mean" in log.read_text(), driver, log)
        cluster.lose(cluster.head)
        lost_at = time.monotonic()
        assert driver.wait(300) != 0
        print(f"the driver ended after {time.monotonic() - lost_at:.1f} s")
    sets = {path: path.stat().st_mtime_ns for path in Path(settings["place.home"]).rglob(SET)}
    assert sets
    with cluster_of(tmp_path, nodes=2) as (cluster, _):
        settings = {**settings, "place.ray": cluster.address}
        assert drive(settings, log).wait(900) == 0, log.read_text()
    assert all(path.stat().st_mtime_ns == then for path, then in sets.items())  # nothing finished was made again
    compare(settings)


@pytest.mark.slow
@pytest.mark.parametrize("process", ["raylet", "gcs_server"])
def test_a_lost_process_of_a_local_ray_ends_the_driver_with_a_sentence(sweep_settings, drive, tmp_path: Path, process):
    log = tmp_path / "log"
    driver = drive(sweep_settings, log)
    wait_for(lambda: "trial 0: r_mean" in log.read_text() or checkpoints(sweep_settings), driver, log)
    (lost,) = [one for one in psutil.Process(driver.pid).children() if one.name() == process]
    lost.kill()
    assert driver.wait(120) != 0
    assert f"Ray's process {process} ended" in log.read_text()
    assert drive(sweep_settings, log).wait(900) == 0, log.read_text()


@pytest.mark.slow
def test_a_bucket_that_answers_503_for_a_while(sweep_settings: dict, drive, compare, s3: Server, tmp_path: Path):
    settings, log = {**sweep_settings, "place.store": f"s3://{BUCKET}/raydd"}, tmp_path / "log"
    driver = drive(settings, log)
    wait_for(lambda: any("checkpoint" in path for _, path, _ in s3.requests), driver, log)
    with s3.ill("503 Slow Down", seconds=5):
        time.sleep(5)
        assert driver.poll() is None
    assert driver.wait(900) == 0, log.read_text()
    compare(settings)


@pytest.mark.slow
def test_a_database_that_is_away_for_a_minute(sweep_settings, drive, compare, postgres: Postgres, tmp_path: Path):
    settings, log = {**sweep_settings, "place.study": postgres.address}, tmp_path / "log"
    driver = drive(settings, log)
    wait_for(lambda: checkpoints(settings), driver, log)
    postgres.stop()
    time.sleep(60)
    assert driver.poll() is None, log.read_text()
    postgres.start()
    assert driver.wait(900) == 0, log.read_text()
    compare(settings)


@pytest.mark.slow
def test_two_sweeps_on_one_store_at_once(sweep_settings: dict, drive, compare, tmp_path: Path):
    both = [{**sweep_settings, "sweep.name": name, "sweep.at_once": 1} for name in ("small", "other")]
    drivers = [drive(settings, tmp_path / settings["sweep.name"]) for settings in both]
    ended = [driver.wait(900) for driver in drivers]
    assert ended == [0, 0], [(tmp_path / settings["sweep.name"]).read_text() for settings in both]
    for settings in both:
        compare(settings)


@pytest.mark.slow
def test_a_full_disk_fails_no_trial_for_good(sweep_settings: dict, drive, compare, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=False).returncode:
        pytest.skip("needs root for a small disk")
    settings, log = {**sweep_settings, "place.store": str(disk)}, tmp_path / "log"
    try:
        driver = drive(settings, log)
        wait_for(lambda: list(disk.rglob("checkpoint.safetensors")), driver, log)
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(4096))
        driver.wait(900)
        filler.unlink()
        assert drive(settings, log).wait(900) == 0, log.read_text()
        compare(settings)
    finally:
        subprocess.run(["umount", disk], check=True)
        shutil.rmtree(disk)


@pytest.mark.slow
def test_a_killed_driver_s_successor_stops_what_it_would_have_stopped(sweep_settings: dict, drive, tmp_path: Path):
    pruned = {"sweep.pruner": "asha", "sweep.trials": 5, "sweep.at_once": 1, "distill.steps": 100}
    ended = {}
    for name in ("peaceful", "killed"):
        settings, log = {**sweep_settings, **pruned, "place.home": str(tmp_path / name)}, tmp_path / f"{name}.log"
        driver = drive(settings, log)
        if name == "killed":
            wait_for(lambda log=log: "(2/5" in log.read_text(), driver, log)
            driver.kill()
            driver.wait()
            driver = drive(settings, log)
        assert driver.wait(900) == 0, log.read_text()
        study = optuna.load_study(study_name="small", storage=f"sqlite:///{settings['place.home']}/studies.db")
        over = sorted(studies.ended(study), key=studies.identity)
        ended[name] = [(trial.state, trial.params, studies.last_score(trial)) for trial in over]
    assert TrialState.PRUNED in {state for state, _, _ in ended["peaceful"]}
    assert ended["killed"] == ended["peaceful"]
