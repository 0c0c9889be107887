import json
import re
import socket
import time
from pathlib import Path

import pytest
from postgres import Postgres, postgres  # noqa: F401

from raydd.errors import PlaceError
from raydd.tracking import connection
from raydd.tracking.connection import COLUMNS, KEY, connect, keep_view
from raydd.tracking.history import History
from raydd.tracking.runs import Tracking


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mlflow")
    address = f"sqlite:///{folder / 'mlflow.db'}"
    with Tracking(address, folder / "artifacts") as tracking:
        for study in ("one", "two"):
            for number in range(3):
                run = tracking.run(f"trial-{number}", ("raydd.trial", f"{study}/{number}"))
                run.curve([{"step": step, "val/IR@1": number + step} for step in (2, 1)])
                run.describe(lambda id: f"run {id}")
    return address


def test_trials_of_one_sweep_are_read_back(address: str):
    history = History(address, "one")
    assert history.last() == {number: {"val/IR_at_1": number + 2.0} for number in range(3)}
    assert history.curves(2, ["val/IR@1", "loss"]) == {"val/IR@1": [(1, 3.0), (2, 4.0)]}
    assert history.curves(9, ["val/IR@1"]) == {}


def test_some_trials_are_read_alone(address: str):
    assert set(History(address, "two", [1]).last()) == {1}


def test_where_nothing_was_tracked_there_is_nothing_and_no_file_is_made(tmp_path: Path):
    assert History("none", "one").last() == {}
    assert History(f"sqlite:///{tmp_path / 'mlflow.db'}", "one").last() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_named_at_once_without_its_password():
    began = time.monotonic()
    with pytest.raises(
        PlaceError, match=r"MLflow at http://me:\*\*\*@127\.0\.0\.1:9 does not answer .* set place\.mlflow"
    ) as e:
        History("http://me:secret@127.0.0.1:9", "one")
    assert "secret" not in str(e.value)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("scheme", "said"),
    [("postgresql+psycopg", "refused"), ("postgresql+nothing", "Can't load plugin"), ("mysql+pymysql", "pymysql")],
)
def test_a_database_that_is_away_is_named_at_once_without_its_password(scheme: str, said: str):
    began = time.monotonic()
    with pytest.raises(PlaceError, match=rf"MLflow at {re.escape(scheme)}://me:\*\*\*@127\.0\.0\.1:9/x does not") as e:
        History(f"{scheme}://me:secret@127.0.0.1:9/x", "one")
    assert said in str(e.value)
    assert "secret" not in str(e.value)
    assert time.monotonic() - began < 20


def test_a_database_that_accepts_and_says_nothing_is_named_soon(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "_ANSWER_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(PlaceError, match=r"does not answer .*timeout"):
            History(f"postgresql+psycopg://me@127.0.0.1:{silent.getsockname()[1]}/x", "one")
        assert time.monotonic() - began < 20


def test_postgresql_gets_time_limits_that_the_user_has_not_set():
    address = "postgresql+psycopg://me:p%40ss@host:5432/x?connect_timeout=3&sslmode=require"
    assert connection._with_limits(address) == f"{address}&tcp_user_timeout=5000"
    for other in ("sqlite:////x.db", "mysql+pymysql://me@host/x", "http://host:5000", "postgresql+pg8000://host/x"):
        assert connection._with_limits(other) == other


@pytest.mark.slow
def test_runs_in_postgresql_are_read_back(postgres: Postgres, tmp_path: Path):  # noqa: F811
    with Tracking(postgres.address, tmp_path) as tracking:
        tracking.run("trial-0", ("raydd.trial", "one/0")).curve([{"step": 1, "loss": 2.0}])
    assert History(postgres.address, "one").last() == {0: {"loss": 2.0}}


def test_the_view_and_the_descriptions_are_kept(address: str):
    page = keep_view(address, "two")
    connection = connect(address)
    view = json.loads(connection.client.get_experiment(connection.experiment).tags[f"mlflow.sharedViewState.{KEY}"])
    assert view["searchFilter"] == ""  # no run says that it belongs to that sweep
    (run, *_) = connection.client.search_runs([connection.experiment])
    connection.client.set_tag(run.info.run_id, "sweep", "two")
    keep_view(address, "two")
    view = json.loads(connection.client.get_experiment(connection.experiment).tags[f"mlflow.sharedViewState.{KEY}"])
    assert view["searchFilter"] == "tags.`sweep` = 'two'"
    keep_view(address)
    assert page.endswith(f"/{connection.experiment}/runs?viewStateShareKey={KEY}&workflowType=machine_learning")
    assert view["columnOrder"][:2] == ["attributes.`Run Name`", "metrics.`val/r_mean`"]
    tags = connection.client.get_experiment(connection.experiment).tags
    assert all(column in tags[f"mlflow.sharedViewState.{KEY}"] for column in COLUMNS)
    (run, *_) = connection.client.search_runs([connection.experiment])
    assert run.data.tags["mlflow.note.content"] == f"run {run.info.run_id}"
