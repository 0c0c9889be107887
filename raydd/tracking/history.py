"""Reads the metrics that MLflow has of a sweep's trials."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raydd.place import sqlite_file
from raydd.tracking.connection import EXPERIMENT, Connection, answering, metric_name, open_client


class History:
    """The MLflow runs of one sweep's trials, for reading only; empty if there is no database."""

    def __init__(self, address: str, study: str, trials: Sequence[int] | None = None) -> None:
        """Find the runs.

        Args:
            address: MLflow's tracking address; `none` has no runs.
            study: identifier of the sweep, see `raydd.tuning.study.study_id`.
            trials: numbers of the trials to read; None: read all trials.

        Raises:
            PlaceError: MLflow does not answer.
        """
        self._address = address
        self._runs: dict[int, Any] = {}
        if address == "none" or not _may_exist(address):
            return
        with answering(address):
            self._client = open_client(address)
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                return
            connection = Connection(self._client, experiment.experiment_id)
            wanted = [f"LIKE '{study}/%'"] if trials is None else [f"= '{study}/{number}'" for number in trials]
            runs = [run for condition in wanted for run in connection.runs(f"tags.`raydd.trial` {condition}")]
        self._runs = {int(run.data.tags["raydd.trial"].rpartition("/")[2]): run for run in runs}

    def last(self) -> dict[int, Mapping[str, float]]:
        """Return the last value of each metric of each trial, under MLflow's names (`val/IR_at_1`)."""
        return {number: run.data.metrics for number, run in self._runs.items()}

    def curves(self, number: int, keys: Iterable[str]) -> dict[str, Sequence[tuple[int, float]]]:
        """Return step and value of the given metrics of one trial, without those that MLflow does not have.

        Raises:
            PlaceError: MLflow does not answer.
        """
        run = self._runs.get(number)
        names = {key: metric_name(key) for key in keys}
        if run is None:
            return {}
        with answering(self._address):
            return {
                key: sorted(
                    (point.step, point.value) for point in self._client.get_metric_history(run.info.run_id, name)
                )
                for key, name in names.items()
                if name in run.data.metrics
            }


def _may_exist(address: str) -> bool:
    file = sqlite_file(address)
    return file is None or file.is_file()
