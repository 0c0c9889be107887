import io
import json
import signal
import time
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from rich.console import Console
from stage_settings import TINY

from raydd.code_version import code_version
from raydd.errors import ConfigError
from raydd.report.making import report_of_sweep
from raydd.report.sets import PageOptions
from raydd.sets.read import open_set
from raydd.settings import load
from raydd.sweep import enqueue, sweep
from raydd.tuning import study as studies
from raydd.tuning import sweeping
from raydd.tuning.lease import driving
from raydd.tuning.redraws import draws_of

SETS = "synthetic.safetensors"


def run(settings, **options):
    console = Console(file=io.StringIO(), width=200)
    result = sweep(load(settings=settings), console=console, **options)
    return result, console.file.getvalue()


def study_of(settings):
    address = f"sqlite:///{settings['place.home']}/studies.db"
    return optuna.load_study(study_name=settings["sweep.name"], storage=address)


def test_a_sweep_from_pairs_to_test_scores(ray_here, settings):
    settings["sweep.drawn_again"] = 3
    result, shown = run(settings)
    planning = [line for line in shown.splitlines() if line == "planning the sweep" or line.startswith("time")]
    assert [line.split()[0] for line in planning] == ["planning", "time", "planning", "time:"]
    assert planning[1].rstrip().endswith("known once the features are made")
    assert "about" in planning[3]
    home = Path(settings["place.home"])
    assert len(result.scores) == 3
    assert len(result.best.draws) == 2
    drawn = draws_of(study_of(settings))
    assert set(drawn) == {0, 1, 2}
    assert any(first != second for first, second in drawn.values())  # some tie: val has few images
    sets = [open_set(path.parent).provenance.settings for path in home.glob("store/synthetic/*/manifest.json")]
    of_best = [made for made in sets if made["distill.image_lr"] == result.settings["distill.image_lr"]]
    assert {made.get("distill.seed", 0) for made in of_best} >= {0, 1, 2}
    assert [finalist.r_mean for finalist in result.finalists] == sorted(
        (finalist.r_mean for finalist in result.finalists), reverse=True
    )
    assert len(result.finalists[0].test["r_mean"]["seeds"]) == 2
    kept = json.loads((home / "sweeps/small/result.json").read_text())
    assert kept["finalists"][0]["test"] == result.finalists[0].test
    assert kept["raydd"] == code_version()
    assert {"distillation steps", "experts", "scores"} <= kept["cpu_seconds"].keys()
    assert "CPU time of the trials: " in shown
    assert kept["best"]["settings"]["distill.text_lr"] == 0.05  # the space sets it, beside what it searches

    winner = load(home / "sweeps/small/best.yaml")
    assert winner.distill.image_lr == result.settings["distill.image_lr"]

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("raydd").experiment_id])
    finals = [f"final {finalist.number}" for finalist in result.finalists]
    names = [run.info.run_name.partition(" · ")[0] for run in runs]
    assert sorted(names) == sorted(["small", "0", "1", "2", *finals])
    assert {run.info.status for run in runs} == {"FINISHED"}
    final = next(run for run in runs if run.info.run_name.startswith(f"{finals[0]} · "))
    assert final.data.metrics["test/r_mean"] == pytest.approx(result.finalists[0].test["r_mean"]["mean"])
    trial = next(run for run in runs if run.info.run_name.startswith("0 · "))
    assert "image_lr" in trial.info.run_name
    assert trial.data.tags["images"] == "features"
    assert trial.data.tags["code"] == code_version()
    assert "synthetic set](get-artifact?path=figures" in trial.data.tags["mlflow.note.content"]
    assert {"val/IR_at_1", "distill/loss", "collapse/modality_gap", "seconds"} <= set(trial.data.metrics)
    assert {item.path for item in client.list_artifacts(trial.info.run_id, "synthetic")} >= {f"synthetic/{SETS}"}

    client.delete_run(trial.info.run_id)  # as if the driver had been killed before it was logged
    again, shown = run(settings)
    assert again.scores == result.scores
    assert again.finalists == result.finalists
    assert again.best == result.best
    assert "0 to run of 3 (3 complete)" in shown
    assert "val then test; 2 of 2 made already" in shown
    runs = client.search_runs([client.get_experiment_by_name("raydd").experiment_id])
    assert len(runs) == len(names)
    (late,) = [run for run in runs if run.info.run_name == trial.info.run_name]
    assert late.data.metrics == trial.data.metrics
    assert late.info.status == "FINISHED"
    steps = [
        [point.step for point in client.get_metric_history(run.info.run_id, "distill/loss")] for run in (trial, late)
    ]
    assert steps[0] == steps[1]

    more, shown = run({**settings, "sweep.finalists": 4})
    assert "finals of 3 trials instead of 4" in shown
    assert len(more.finalists) == 3


ENCODER_SPACE = """
def small(trial):
    trial.suggest_float("distill.image_lr", 0.01, 0.1, log=True)
    trial.suggest_categorical("experts.encoder_lr", [0.02, 0.05])
    return {}
"""


@pytest.mark.slow
def test_a_sweep_of_trained_encoders_learns_pixels_in_its_trials_too(ray_here, tiny_data, tmp_path):
    (tmp_path / "mine.py").write_text((Path(__file__).parents[1] / "tiny_encoders.py").read_text())
    (tmp_path / "space.py").write_text(ENCODER_SPACE)
    settings = {
        **TINY,
        "data.root": str(tiny_data),
        "encoders.image": f"{tmp_path}/mine.py:image",
        "encoders.text": f"{tmp_path}/mine.py:text",
        "distill.protocol": "encoder",
        "distill.images": "pixels",
        "distill.gradient": "constant-memory",
        "distill.steps": 4,
        "sweep.space": f"{tmp_path}/space.py:small",
        "sweep.name": "trained",
        "sweep.trials": 2,
        "sweep.finalists": 1,
        "sweep.pruner": "none",
        "place.home": str(tmp_path / "home"),
    }
    _, plan = run(settings, dry_run=True)
    assert "to make: 24 training captions; images are read as pixels" in plan
    result, shown = run(settings)
    assert result.failed == {}
    assert len(result.scores) == 2
    assert "the best 1 again on pixels" in shown
    assert "finals on pixels" in shown
    assert f"best trial: {result.best.number}, val r_mean on pixels {result.best.in_words()}" in shown
    (finalist,) = result.finalists
    assert finalist.number == result.best.number
    assert len(finalist.test["r_mean"]["seeds"]) == 2
    store = tmp_path / "home" / "store"
    assert not (store / "features").exists()
    made = {json.loads(file.read_text())["facts"]["protocol"] for file in store.glob("synthetic/*/manifest.json")}
    assert made == {"encoder"}
    client = MlflowClient(f"sqlite:///{tmp_path}/home/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("raydd").experiment_id])
    (final,) = [run for run in runs if run.data.tags.get("kind") == "final"]
    assert final.data.metrics["test/r_mean"] == pytest.approx(finalist.test["r_mean"]["mean"])
    assert {run.data.params["distill.images"] for run in runs if run.data.tags.get("kind") == "trial"} == {"pixels"}

    _, again = run(settings)
    assert "0 to run of 2 (2 complete)" in again
    config = load(settings={"sweep.name": "trained", "place.home": settings["place.home"]})
    page = report_of_sweep(config, PageOptions(), lambda *told: None, use_stored_settings=True)
    assert "image encoder and text head trained" in page.results_note
    assert {row.kind for row in page.results} == {"ours", "baseline"}


def test_a_dry_run_shows_the_plan_and_starts_nothing(ray_here, settings):
    result, shown = run(settings, dry_run=True)
    assert result is None
    assert "3 to run of 3" in shown
    assert "1 CPU a trial" in shown
    assert "to make: 12 training images, 1 views" in shown
    with pytest.raises(KeyError):
        study_of(settings)


def test_trials_that_are_draws_themselves_are_not_drawn_again(ray_here, settings):
    settings["sweep.drawn_again"] = 2
    _, shown = run(settings, dry_run=True)
    assert "new draws   the best 2 again" in shown
    _, shown = run({**settings, "sweep.space": "starts"}, dry_run=True)
    assert "starts, 100 settings of its own first" in shown
    assert "new draws   none" in shown


def test_a_wrong_space_stops_before_ray_starts(settings, tmp_path):
    (tmp_path / "space.py").write_text("def small(trial):\n    return {'distill.imag_lr': 1.0}\n")
    with pytest.raises(ConfigError, match=r"distill\.image_lr"):
        run(settings)


def test_other_settings_and_a_second_driver_are_refused_before_ray_starts(settings, tmp_path, monkeypatch):
    def join(*_):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(sweeping, "cluster", join)
    (tmp_path / "trials.yaml").write_text("- distill.image_lr: 0.07\n")
    enqueue(load(settings=settings), tmp_path / "trials.yaml", console=Console(file=io.StringIO()))  # begins the sweep
    with pytest.raises(ConfigError, match=r"was started with distill\.steps 10, and this command says 20"):
        run({**settings, "distill.steps": 20})
    with driving(study_of(settings)), pytest.raises(ConfigError, match="is being run by process"):
        run(settings)
    with pytest.raises(AssertionError, match="Ray was started"):
        run(settings)


@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_same_command_goes_on_where_the_driver_ended(settings, drive, tmp_path, blow):
    settings = {**settings, "distill.steps": 200, "sweep.trials": 4}
    log = tmp_path / "log"
    driver = drive(settings, log)
    wait_until(lambda: "trial 0: r_mean" in log.read_text(), driver)
    time.sleep(2.0)
    driver.send_signal(blow)
    driver.wait(600)
    assert "SIGTERM received" not in log.read_text()  # what Ray's own handler prints before it aborts
    before = study_of(settings).trials
    done = [trial for trial in before if trial.state == TrialState.COMPLETE]
    orphans = [trial for trial in before if trial.state == TrialState.RUNNING]
    assert done
    assert orphans

    store = Path(settings["place.home"], "store")
    found = [path for path in store.rglob(SETS) if path.with_name("manifest.json").is_file()]
    assert found
    sets = {path: path.stat().st_mtime_ns for path in found}
    assert drive(settings, log).wait(1200) == 0
    after = study_of(settings)
    assert [trial.params for trial in after.trials[: len(done)]] == [trial.params for trial in before[: len(done)]]
    assert len(after.get_trials(states=(TrialState.COMPLETE,))) == 4
    assert not after.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    again = {trial.user_attrs["again"] for trial in after.trials if "again" in trial.user_attrs}
    # One whose settings were still being drawn is drawn anew, unless they were queued.
    begun = [one for one in orphans if studies.SETTINGS in one.user_attrs or one.system_attrs.get("fixed_params")]
    assert again == {trial.number for trial in begun}
    assert all(path.stat().st_mtime_ns == then for path, then in sets.items())  # nothing finished was made again
    client = MlflowClient(f"sqlite:///{settings['place.home']}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("raydd").experiment_id])
    assert len([run for run in runs if run.data.tags.get("kind") == "trial"]) == 4
    assert len([run for run in runs if run.info.run_name == "small"]) == 1


def wait_until(holds, driver, seconds=600):
    end = time.monotonic() + seconds
    while not holds():
        assert driver.poll() is None, "the driver ended by itself"
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
def test_trials_side_by_side_come_to_what_each_comes_to_alone(ray_here, settings, tmp_path):
    settings |= {"sweep.trials": 5, "sweep.pruner": "asha", "sweep.finalists": 1, "distill.steps": 20}
    settings |= {"sweep.at_once": 3, "sweep.sampler": "random", "place.mlflow": "none"}
    side_by_side, shown = run({**settings, "sweep.together": 3})
    assert "3 at once" in shown
    assert len(side_by_side.scores) + len(side_by_side.stopped) == 5
    assert side_by_side.stopped
    alone, _ = run({**settings, "sweep.pruner": "none", "place.home": str(tmp_path / "alone")})
    for number, r_mean in side_by_side.scores.items():
        assert r_mean == pytest.approx(alone.scores[number], abs=13)  # a picture of eight has 12.5 points
    made = study_of(settings).get_trials(states=(TrialState.COMPLETE,))
    assert all(trial.user_attrs[studies.REPORT]["curve"] for trial in made)
    assert all(trial.user_attrs[studies.SLOT] and trial.user_attrs[studies.HELD] > 0 for trial in made)
