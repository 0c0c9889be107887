"""Logs a sweep to MLflow: a run for the sweep, and a nested run for each trial and each final."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from matplotlib.figure import Figure
from optuna.trial import TrialState

from raydd.charts import figures
from raydd.cluster.trial_report import TrialReport
from raydd.code_version import code_version
from raydd.config import Config
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import ConfigError
from raydd.protocols import Workbench, changed, trial_settings
from raydd.sets.write import image_file
from raydd.settings import flatten, with_settings
from raydd.stages import load_synthetic
from raydd.store import Record
from raydd.terminal.text import brief
from raydd.tracking.connection import ORDER
from raydd.tracking.runs import Run, Tracking
from raydd.tracking.student_model import write_model
from raydd.tuning import study as studies
from raydd.tuning.finals import Finalist
from raydd.tuning.results import SweepResult

_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED", TrialState.FAIL: "FAILED"}
_ORDERED = {TrialState.COMPLETE: "trial", TrialState.PRUNED: "weak"}  # in alphabetical order, after "final"
NAMED = 4  # searched settings in a run's name
_NAME_LENGTH = 120
_TRIAL = "raydd.trial"  # the tag by which a trial's run is found
_ROW, _PAIRS, _SIMILARITY = (f"figures/{name}.png" for name in ("synthetic_row", "synthetic_pairs", "similarity"))
_SET_FILES = ("synthetic.safetensors", "pairs.parquet", "manifest.json")


class Logbook:
    """Logs a sweep to MLflow, as a listener of the searcher. None of its methods waits for the server."""

    def __init__(self, tracking: Tracking, study: str, work: Workbench[Any]) -> None:
        """Log the sweep's settings. Its run is found or created when the first entry is sent.

        Args:
            tracking: the open connection.
            study: id that is different for every sweep, see `raydd.tuning.study.study_id`.
            work: the workbench of the settings that all trials share; synthetic sets are read from its store.
        """
        config = work.config
        self._tracking, self._study, self._config, self._store, self._work = tracking, study, config, work.store, work
        self._sweep = tracking.run(config.sweep.name, ("raydd.sweep", study))
        self._runs: dict[int, Run] = {}
        self._sweep.params(_logged_params(config))
        self._sweep.tags({"code": code_version(), "sweep": config.sweep.name})

    def catch_up(self, study: optuna.Study) -> None:
        """Log the trials that ended in the study but not in MLflow, because their driver ended before it logged them.

        Args:
            study: the sweep's study, before it continues.
        """
        ended_trials = iter(studies.ended(study))

        def log_next(ended: Collection[str]) -> None:  # submits the next one itself: the queue cannot hold thousands
            for trial in ended_trials:
                number, report = studies.identity(trial), studies.report(trial)
                if f"{self._study}/{number}" not in ended:
                    run = self._open_run(number, studies.settings(trial))
                    run.curve(report.curve)
                    self._close_run(run, trial.state, report, studies.reason(trial))
                    self._tracking.submit(partial(log_next, ended))
                    return

        self._tracking.submit(lambda: log_next(self._tracking.ended(_TRIAL, f"{self._study}/%")))

    def started(self, number: int, settings: Mapping[str, Any]) -> None:
        """Open a nested run with the trial's settings."""
        self._runs[number] = self._open_run(number, settings)

    def began(self, number: int, slot: str) -> None:
        """Log nothing."""

    def reported(self, number: int, report: TrialReport) -> None:
        """Log the curve since the last report."""
        self._runs[number].curve(report.curve)

    def ended(self, number: int, state: TrialState, report: TrialReport, reason: str) -> None:
        """Log the synthetic set of a complete trial, and how the trial ended."""
        self._close_run(self._runs.pop(number), state, report, reason)

    def final(self, finalist: Finalist) -> None:
        """Log a finalist: its scores on val and test, its synthetic set, and its images next to the real ones."""
        number = finalist.number
        params = self._trial_params(finalist.settings)
        name = f"final {run_name(number, finalist.settings)}"
        # MLflow keeps the first parameters and scores of a run: if images or seeds change, the final gets another one.
        evaluate = self._config.evaluate
        scored = (self._study, number, finalist.record, evaluate.seeds, evaluate.choice, evaluate.checks)
        run = self._tracking.run(name, ("raydd.final", "/".join(map(str, scored))), self._sweep)
        run.params(params)
        run.tags(
            {
                **_filter_tags(params, "final"),
                "sweep": self._config.sweep.name,
                ORDER: _sort_key("final", finalist.r_mean),
            }
        )
        pictures = (_ROW, _PAIRS) if params.get("distill.images") != "features" else (_SIMILARITY,)
        run.describe(lambda run_id: _describe_run(params, finalist.settings, run_id, *pictures))
        scores = {
            f"{split}/{metric}{suffix}": values[key]
            for split, rows in (("val", finalist.val), ("test", finalist.test))
            for metric, values in rows.items()
            for key, suffix in (("mean", ""), ("std", "_std"))
        }
        run.curve([{"step": 0, "cheap_r_mean": finalist.cheap, **scores}])
        record = self._open_record(finalist.record)
        self._log_set(run, record, ("val", "test"))
        if "images" in self._work.cached:  # only a frozen encoder can be opened by its name; a trained one has none
            run.model("student", lambda folder: self._write_student(folder, finalist.settings, record))
        if record.has(image_file(0)):
            run.figure(_PAIRS, lambda: self._pairs_picture(load_synthetic(record)))
            run.figure(_ROW, lambda: _row_picture(load_synthetic(record)))
        run.end()

    def concluded(self, result: SweepResult, importances: Mapping[str, float]) -> None:
        """Log the sweep's figures and result, and end its run.

        Args:
            result: the result of the sweep.
            importances: importance of each setting for val r_mean, see `raydd.tuning.results`; not drawn if all are
                zero.
        """
        self._sweep.figure("figures/history.png", lambda: figures.search_history(result.scores, result.stopped))
        if any(importances.values()):
            self._sweep.figure("figures/importance.png", lambda: figures.importance(importances))
        if len(result.objectives) > 1 and result.points:
            points, front = list(result.points.values()), [result.points[number] for number in result.front]
            self._sweep.figure("figures/front.png", lambda: figures.front(points, front, result.objectives))
        self._sweep.files("", lambda folder: result.write(folder))
        if result.best:
            self._sweep.curve([{"step": result.finished, "val/r_mean": result.best.cheap}])
        self._sweep.end()

    def _open_run(self, number: int, settings: Mapping[str, Any]) -> Run:
        params = self._trial_params(settings) | trial_settings(self._config)
        run = self._tracking.run(run_name(number, settings), (_TRIAL, f"{self._study}/{number}"), self._sweep)
        run.params(params)
        run.tags({**_filter_tags(params, "trial"), "sweep": self._config.sweep.name})
        run.describe(lambda run_id: _describe_run(params, settings, run_id, _SIMILARITY))
        return run

    def _close_run(self, run: Run, state: TrialState, report: TrialReport, reason: str) -> None:
        """Log how a trial ended; `report` has its whole curve."""
        run.tags({"raydd.state": state.name, "raydd.reason": reason, "node": report.node, "gpu": report.gpu})
        if state in _ORDERED:
            run.tags({ORDER: _sort_key(_ORDERED[state], report.r_mean)})
        if state == TrialState.COMPLETE:
            run.curve([{"step": report.step, "seconds": report.seconds, "bytes": report.bytes}])
            run.curve([{"step": report.step, "peak_bytes": report.peak_bytes}])
            self._log_set(run, self._open_record(report.record), ("val",))
            for prefix in ("collapse/", "distill/", "val/"):
                run.figure(
                    f"figures/{prefix.rstrip('/')}.png", lambda prefix=prefix: figures.curves(report.curve, prefix)
                )
        run.end(_STATUS[state])

    def _trial_params(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return _logged_params(with_settings(self._config, settings))
        except ConfigError:  # the trial itself fails with this error and reports it
            return dict(settings)

    def _write_student(self, folder: Path, settings: Mapping[str, Any], record: Record) -> None:
        """Train a student on a final's set with seed 0, and write it as a model."""
        work = changed(self._work, {**settings, "place.device": "cpu"})  # GPUs are reserved for trials and finals
        (student,) = work.train_students(load_synthetic(record), [0])
        write_model(folder, work.student_tensors(student), work.config.encoders)

    def _log_set(self, run: Run, record: Record, scored_splits: Sequence[str]) -> None:
        """Log a synthetic set and the data sets that its run has read; it was scored on `scored_splits`."""

        def write(folder: Path) -> None:
            names = [*_SET_FILES, *(name for name in self._store.names(record.folder) if name.endswith(".png"))]
            for name in names:
                name = name.removeprefix(f"{record.folder}/")
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(record.read(name))

        def similarity() -> Figure:
            return figures.similarity_matrix(load_synthetic(record).similarity.matrix().numpy())

        data, config = self._work.data, self._config.data
        splits = {"source": ("train", data.train), **{name: (name, getattr(data, name)) for name in scored_splits}}
        run.files("synthetic", write)
        address = f"{self._store.root}/{record.folder}"
        run.dataset("synthetic", record.fingerprint, address, "train", lambda: len(load_synthetic(record)))
        for context, (split, rows) in splits.items():
            count = len(rows.captions)
            run.dataset(f"{data.name} {split}", data.fingerprint, config.root, context, lambda count=count: count)
        run.figure(_SIMILARITY, similarity)

    def _open_record(self, folder: str) -> Record:
        stage, name = folder.split("/")
        return Record(self._store, stage, name, {}, {})

    def _pairs_picture(self, synthetic: SyntheticSet) -> Figure:
        assert synthetic.pixels is not None
        return figures.pairs_picture(synthetic, self._work.data.train, synthetic.pixels.shape[-1])


def run_name(number: int, settings: Mapping[str, Any]) -> str:
    """Return a run's name: the trial's number and its first searched settings."""
    setting_texts = brief(dict(list(settings.items())[:NAMED])).split(", ") if settings else []
    return " · ".join([str(number), *setting_texts])[:_NAME_LENGTH]


def _sort_key(kind: str, r_mean: float) -> str:
    """Return a text by which runs are sorted: finals, trials, weak trials; each group by val r_mean, highest first."""
    return f"{kind} {100 - r_mean:06.2f}"


def in_words(params: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Describe a run in words: method, pairs, what is learned of the images, and the first searched settings."""
    parts = [str(params.get("distill.method", "")), f"{params.get('distill.pairs', '?')} pairs"]
    parts.append(str(params.get("distill.images", "")))
    searched = {name: value for name, value in settings.items() if name not in ("distill.method", "distill.images")}
    return ", ".join([*filter(None, parts), brief(dict(list(searched.items())[:NAMED]))])[:_NAME_LENGTH]


def _filter_tags(params: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Return tags for filters in MLflow's search, such as `tags.pairs = '99'`."""
    names = {"method": "distill.method", "pairs": "distill.pairs", "images": "distill.images", "data": "data.name"}
    return {
        "kind": kind,
        "code": code_version(),
        **{tag: str(params[name]) for tag, name in names.items() if params.get(name)},
    }


def _row_picture(synthetic: SyntheticSet) -> Figure:
    assert synthetic.pixels is not None
    return figures.row_of_images(synthetic.pixels.numpy())


def _describe_run(
    params: Mapping[str, Any], settings: Mapping[str, Any], run_id: str, first_picture: str, *more_pictures: str
) -> str:
    """Return a run's description for MLflow: a picture of its synthetic set, its settings, and more pictures.

    One picture comes first, since MLflow shows only the first 100 pixels until the user asks for more.
    """
    above, *below = (
        f"![its synthetic set](get-artifact?path={quote(picture, safe='')}&run_uuid={run_id})"
        for picture in (first_picture, *more_pictures)
    )
    return "\n\n".join([above, in_words(params, settings), brief(settings), *below])


def _logged_params(config: Config) -> dict[str, Any]:
    return {name: value for name, value in flatten(config).items() if not name.startswith(("place.", "sweep."))}
