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

from raydd.errors import PlaceError
from raydd.place import sqlite_file, try_database
from raydd.secrets_hidden import hidden, hide_password

EXPERIMENT = "raydd"

_PAGE = 1000  # runs of one request
_SERVERS = ("postgresql", "mysql", "mssql")  # databases of MLflow's that are no file
_ANSWER_SECONDS = 5  # time limit for a database to answer
# Options of PostgreSQL's drivers: time limits for a connection's start, in seconds, and for what is sent, in ms.
_LIMITS = {"connect_timeout": str(_ANSWER_SECONDS), "tcp_user_timeout": str(1000 * _ANSWER_SECONDS)}


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


def open_client(address: str) -> Any:
    """Return MLflow's client, after trying an address that is a database server: MLflow would try for 101 seconds.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database does not answer, or refuses the login.
        ImportError: its driver is not installed.
    """
    prepare_mlflow()
    require_database(address)
    from mlflow import MlflowClient

    return MlflowClient(_with_limits(address))


def require_database(address: str) -> None:
    """Try an address that is a database server; any other address is taken as it is.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: it does not answer, or refuses the login.
        ImportError: its driver is not installed.
    """
    if address.partition("://")[0].partition("+")[0] in _SERVERS:
        try_database(address, _ANSWER_SECONDS)


@contextlib.contextmanager
def answering(address: str) -> Iterator[None]:
    """Turn errors of MLflow and of its database into a PlaceError that names the address."""
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        if not isinstance(error, MlflowException | SQLAlchemyError | ImportError):
            raise
        raise PlaceError(
            f"MLflow at {hide_password(address)} does not answer ({first_line(error)}). Start it, or set place.mlflow "
            "to another address, or to none to track nothing and show no curves."
        ) from error


def _with_limits(address: str) -> str:
    """Return the address with time limits, for a database that goes away while a sweep runs."""
    if not address.startswith("postgresql"):
        return address
    from sqlalchemy import make_url

    url = make_url(address)
    if not url.get_dialect().driver.startswith("psycopg"):
        return address
    missing = {name: value for name, value in _LIMITS.items() if name not in url.query}
    return url.update_query_dict(missing).render_as_string(hide_password=False)


def connect(address: str, artifacts: Path | None = None) -> Connection:
    """Connect to MLflow, and create the experiment if it is missing.

    Args:
        address: MLflow's tracking address.
        artifacts: folder for artefacts if `address` is a database.

    Raises:
        Exception: MLflow does not answer; MLflow, its database and the database's driver have their own error types.
    """
    prepare_mlflow()
    from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it would log each migration of a new database
    with _locked(address):  # two processes that create the same database at once would break it
        client = open_client(address)
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
