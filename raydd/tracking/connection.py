"""The connection to MLflow's database or server, the view of the runs there, and names that MLflow accepts."""

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydd.place import sqlite_file
from raydd.secrets_hidden import hidden

EXPERIMENT = "raydd"

_PAGE = 1000  # runs of one request


def metric_name(key: str) -> str:
    """Return a name that MLflow accepts: `val/IR@1` becomes `val/IR_at_1`."""
    return re.sub(r"[^\w\-. :/]", "_", key.replace("@", "_at_"))


@dataclass(frozen=True)
class Connection:
    """An open client, and the id of raydd's experiment."""

    client: Any
    experiment: str

    def runs(self, run_filter: str) -> list[Any]:
        """Return all runs of the experiment that match a filter in MLflow's syntax."""
        matching_runs, token = [], None
        while token is None or token:
            page = self.client.search_runs([self.experiment], run_filter, max_results=_PAGE, page_token=token)
            matching_runs += page
            token = page.token or ""
        return matching_runs


def first_line(error: Exception) -> str:
    """Return the first line of an error, shortened and without passwords."""
    return (hidden(str(error)).splitlines() or [type(error).__name__])[0][:200]


def prepare_mlflow() -> None:
    """Set MLflow's options that the user has not set: quiet, and no waiting for a server that does not answer."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # raydd decides itself how long it waits
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a server prints it after each run
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def connect(address: str, artifacts: Path | None = None) -> Connection:
    """Connect to MLflow, and create the experiment if it is missing.

    Args:
        address: MLflow's tracking address.
        artifacts: folder for artefacts if `address` is a database.
    """
    prepare_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it would log each migration of a new database
    with _locked(address):  # two processes that create the same database at once would break it
        client = MlflowClient(address)
        location = artifacts.as_uri() if artifacts and address.startswith("sqlite") else None
        if (experiment := client.get_experiment_by_name(EXPERIMENT)) is None:
            try:
                return Connection(client, client.create_experiment(EXPERIMENT, location))
            except MlflowException:
                if (experiment := client.get_experiment_by_name(EXPERIMENT)) is None:  # nobody else created it
                    raise
        return Connection(client, experiment.experiment_id)


@contextlib.contextmanager
def _locked(address: str) -> Iterator[None]:
    database = sqlite_file(address)
    if database is None:
        yield
        return
    import fcntl

    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


KEY = "raydd"
ORDER = "raydd.order"  # the tag of runs by which the view is sorted
_NAME = "attributes.`Run Name`"
_NAME_WIDTH = 360  # pixels, since the name of a run contains its settings
COLUMNS = (  # in the order of the view
    "metrics.`val/r_mean`",
    "metrics.`test/r_mean`",
    "metrics.`val/IR_at_1`",
    "metrics.`val/TR_at_1`",
    "metrics.`collapse/modality_gap`",
    "metrics.`seconds`",
    "metrics.`bytes`",
    "params.`distill.pairs`",
    "params.`distill.blend`",
    "params.`distill.loss`",
    "params.`distill.image_lr`",
    "params.`distill.target_epochs`",
    "tags.`kind`",
)


def keep_view(address: str, sweep: str = "") -> str:
    """Store raydd's view of the runs with the experiment, and return the path of its page below the server's address.

    Args:
        address: address of the MLflow server.
        sweep: name of the sweep whose runs the view shows; all runs if empty, or if the sweep has no tracked run.
    """
    connection = connect(address)
    run_filter = f"tags.`sweep` = '{sweep}'" if sweep and "'" not in sweep else ""
    if run_filter and not connection.client.search_runs([connection.experiment], run_filter, max_results=1):
        run_filter = ""
    view = {
        "searchFilter": run_filter,
        "orderByKey": f"tags.`{ORDER}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
        "columnOrder": [_NAME, *COLUMNS],
        "columnWidths": {_NAME: _NAME_WIDTH},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
    }
    connection.client.set_experiment_tag(
        connection.experiment, f"mlflow.sharedViewState.{KEY}", json.dumps(view, separators=(",", ":"))
    )
    # Without this tag MLflow takes the runs for those of a chat application, and opens a page that does not show them.
    connection.client.set_experiment_tag(connection.experiment, "mlflow.experimentKind", "custom_model_development")
    return f"/#/experiments/{connection.experiment}/runs?viewStateShareKey={KEY}&workflowType=machine_learning"
