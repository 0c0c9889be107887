"""The busy share of a sweep's slots, with trials that sleep instead of distilling."""

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.measuring import Size
from bench.rows.row import SHARE, Row
from raydd.config import Config
from raydd.settings import with_settings
from search_spaces import Space

_TRIALS, _SECONDS, _SLOTS = 16, 5.0, 2


def busy_seconds(
    folder: Path, *, trials: int, seconds: float, slots: int, address: str = "local"
) -> tuple[float, float]:
    """Return the seconds that the slots were busy and that they were available, both summed over slots.

    Slots count as available from the start of the first trial to the end of the last one, so starting Ray and the first
    workers is not counted. The trials use Ray Tune, the study and the searcher like those of a sweep. `address` is
    Ray's address.
    """
    from raydd.cluster.environment import prepare_environment

    prepare_environment(address)
    import optuna

    from raydd.cluster.connect import cluster
    from raydd.tuning.study import open_study
    from raydd.tuning.trials import run_trials

    folder = folder.absolute()
    config = with_settings(Config(), {"sweep.name": "sleepers", "sweep.trials": trials, "sweep.pruner": "none"})
    space = Space("sleepers", _suggest_settings)
    with cluster(address, folder):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = open_study(config, space, f"sqlite:///{folder / 'studies.db'}")
        trial = partial(_sleeping_trial, seconds=seconds, folder=str(folder))
        run_trials(trial, study, space, config.sweep, [], folder=str(folder / "tune"), capacity=lambda: slots)
    times = [json.loads(path.read_text()) for path in folder.glob("trial-*.json")]
    available = max(end for _, end in times) - min(begin for begin, _ in times)
    return trials * seconds, slots * available


def _suggest_settings(trial: Any) -> Mapping[str, Any]:
    trial.suggest_float("distill.image_lr", 0.01, 0.1, log=True)
    return {}


def _sleeping_trial(trial: Mapping[str, Any], *, seconds: float, folder: str) -> None:
    from ray import tune

    from raydd.cluster.trial_report import TrialReport

    begin = time.time()
    time.sleep(seconds)
    report = TrialReport(step=1, steps=1, r_mean=1.0, seconds=seconds, bytes=1, record="none")
    tune.report(report.as_result())
    (Path(folder) / f"trial-{trial['number']}.json").write_text(json.dumps([begin, time.time()]))


def _measure_busy_share(size: Size, folder: Path) -> tuple[float, float]:  # noqa: ARG001
    return busy_seconds(folder, trials=_TRIALS, seconds=_SECONDS, slots=_SLOTS)


SWEEP = (
    Row(
        "sweep",
        "busy share of the slots, 16 trials of 5 s on 2 slots",
        "16 x 5 s of sleep",
        floor=90,
        aim=97,
        measure=SHARE,
        memory=None,
        numbers=_measure_busy_share,
    ),
)
