"""Reads the metrics that MLflow has of a sweep's trials."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raydd.place import sqlite_file
from raydd.tracking.connection import EXPERIMENT, Connection, metric_name


class History:
    """The MLflow runs of one sweep's trials, for reading only; empty if there is no database."""

    def __init__(self, address: str, study: str, trial: int | None = None) -> None:
        """Find the runs.

        Args:
            address: MLflow's tracking address; `none` has no runs.
            study: identifier of the sweep, see `raydd.tuning.study.study_id`.
            trial: number of the trial to read; None: read all trials.
        """
        tag_condition = f"LIKE '{study}/%'" if trial is None else f"= '{study}/{trial}'"
        self._runs: dict[int, Any] = {}
        if address == "none" or not _may_exist(address):
            return
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient(address)
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return
        runs = Connection(self._client, experiment.experiment_id).runs(f"tags.`raydd.trial` {tag_condition}")
        self._runs = {int(run.data.tags["raydd.trial"].rpartition("/")[2]): run for run in runs}

    def last(self) -> dict[int, Mapping[str, float]]:
        """Return the last value of each metric of each trial, under MLflow's names (`val/IR_at_1`)."""
        return {number: run.data.metrics for number, run in self._runs.items()}

    def curves(self, number: int, keys: Iterable[str]) -> dict[str, Sequence[tuple[int, float]]]:
        """Return step and value of the given metrics of one trial, without those that MLflow does not have."""
        run = self._runs.get(number)
        names = {key: metric_name(key) for key in keys}
        if run is None:
            return {}
        return {
            key: sorted((point.step, point.value) for point in self._client.get_metric_history(run.info.run_id, name))
            for key, name in names.items()
            if name in run.data.metrics
        }


def _may_exist(address: str) -> bool:
    file = sqlite_file(address)
    return file is None or file.is_file()
