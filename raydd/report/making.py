"""Makes the page of a sweep or of a set: reads results from the store, and computes those that are missing."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from raydd.charts.trials import best_first
from raydd.config import Config
from raydd.errors import RecordError
from raydd.place import home, mlflow_address, open_store, study_address
from raydd.progress import Progress
from raydd.protocols import Workbench, changed, open_workbench, trial_settings
from raydd.report.page import Page
from raydd.report.search import objectives_of, sweep_parts, trials_of
from raydd.report.set_page import best_finalist, result_rows, set_page
from raydd.report.sets import PageOptions, set_parts
from raydd.sets.read import OpenedSet, open_set, set_of_record, store_of, stored_scores
from raydd.settings import flatten, load, with_settings
from raydd.stages import scores_of, scores_of_set
from raydd.store import Record, Store
from raydd.terminal.text import share_of_full
from raydd.tracking.history import History
from raydd.tuning import study as studies
from raydd.tuning.results import SETTINGS


def report_of_sweep(
    config: Config, page_options: PageOptions, progress: Progress, *, use_stored_settings: bool
) -> Page:
    """Return the page of the sweep `sweep.name`, which may still be running, with the best set that it has.

    Args:
        config: settings with the place and the sweep's name; the other settings are used only without
            `use_stored_settings`.
        page_options: projection of the maps, and number of frames of the film.
        progress: reports the progress of what is computed.
        use_stored_settings: use the settings that the sweep stored.

    Raises:
        ConfigError: there is no sweep of that name.
        RecordError: no trial of the sweep is complete.
    """
    name = config.sweep.name
    study = studies.load_study(name, study_address(config.place))
    objectives = objectives_of(study)
    history = History(mlflow_address(config.place), studies.study_id(study))
    best = best_first(trials_of(study, objectives, {}))
    if not best:
        raise RecordError(f"The sweep {name} has no complete trial yet. `raydd watch` shows its progress.")
    folder, store = home(config.place) / "sweeps" / name, open_store(config.place)
    final = best_finalist(folder)
    if use_stored_settings:
        config = _sweep_settings(study, config, folder / SETTINGS)
    settings = final["settings"] if final else {**best[0].settings, **trial_settings(config)}
    config = with_settings(config, _current_settings(config, settings))
    opened = set_of_record(_open_record(store, final["record"] if final else best[0].record))
    scored_splits = ("val", "test") if final else stored_scores(opened)
    return _result_page(
        opened,
        open_workbench(config, store, progress),
        scored_splits,
        sweep_parts(study, objectives, history),
        page_options,
        title=f"Sweep {name}",
        command=f"raydd sweep --config FILE.yaml --sweep.name {name} --sweep.trials {config.sweep.trials}",
    )


def report_of_set(folder: Path, config: Config, page_options: PageOptions, progress: Progress) -> Page:
    """Return the page of the set in a folder; the settings say where its data are.

    Raises:
        RecordError: the folder is not a synthetic set.
        ConfigError: the settings name other data.
    """
    opened = open_set(folder)
    opened.provenance.require_encoders(config)
    work = open_workbench(config, store_of(opened, config.place), progress)
    return _result_page(
        opened,
        work,
        stored_scores(opened, work.store),
        {},
        page_options,
        title=opened.title,
        command="raydd run --config FILE.yaml",
    )


def _result_page(
    opened: OpenedSet,
    work: Workbench[Any],
    scored_splits: Collection[str],
    parts: Mapping[str, Any],
    page_options: PageOptions,
    *,
    title: str,
    command: str,
) -> Page:
    config = work.config
    opened.require_data(work.data)
    fields = set_parts(opened, work, page_options)
    if config.evaluate.split not in scored_splits:  # a page alone does not score on test, which is for finished work
        work = changed(work, {"evaluate.split": "val"})
    # The set and its baselines are scored by the same students and the same choice of their epoch.
    scores = scores_of_set(work, opened).as_json()
    baselines = {name: scores_of(work, name).as_json() for name in config.evaluate.baselines}
    rows = result_rows(opened, scores, baselines)
    real_pairs = len(work.data.train.captions)
    share = share_of_full({"synthetic": scores, **baselines}, len(opened.synthetic), real_pairs)
    return set_page(opened, work.config, rows, {**fields, **parts}, title=title, share=share, command=command)


def _sweep_settings(study: Any, config: Config, file: Path) -> Config:
    """Return the settings that a sweep was started with, from its `best.yaml` and its study.

    Before the sweep has finished, there is no `best.yaml`, and its trials are those that count so far.
    """
    here = {name: value for name, value in flatten(config).items() if name.startswith("place.") or name == "sweep.name"}
    base = load(file) if file.is_file() else with_settings(config, {"sweep.trials": studies.finished(study)})
    return with_settings(base, {**_current_settings(base, studies.shared_settings(study)), **here})


def _current_settings(config: Config, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that this version still has; a sweep of an older version may have others.

    Leaving out the others is safe, since the page shows results and does not make new ones.
    """
    current = flatten(config)
    return {name: value for name, value in settings.items() if name in current}


def _open_record(store: Store, folder: str) -> Record:
    stage, name = folder.split("/")
    return Record(store, stage, name, {}, {})
