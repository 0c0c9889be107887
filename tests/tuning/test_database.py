import contextlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from postgres import postgres  # noqa: F401
from sqlalchemy.exc import OperationalError

from raydd.errors import ConfigError, PlaceError
from raydd.tuning import database, lease
from raydd.tuning import study as studies


@pytest.fixture
def study(config, space, address):
    return studies.open_study(config, space, address)


def test_every_call_is_repeated_while_the_database_is_away(study):
    away, met = [0], []

    @sqlalchemy.event.listens_for(study._storage._backend.engine, "before_cursor_execute")
    def refuse(*_):
        if away[0]:
            away[0] -= 1
            met.append(1)
            raise OperationalError("select", {}, ConnectionError("connection refused"))

    def during(call):
        away[0] = 2
        result = call()
        assert not away[0]
        return result

    trial = during(study.ask)
    during(lambda: trial.suggest_float("distill.image_lr", 0.1, 0.2))
    during(lambda: trial.report(1.0, 5))
    during(lambda: trial.set_user_attr("settings", {}))
    during(lambda: study.tell(trial, 2.0))
    during(lambda: study.set_user_attr("a", 1))
    assert during(lambda: study.user_attrs["a"]) == 1
    assert during(lambda: study.get_trials(states=(TrialState.COMPLETE,)))[0].value == 2.0
    away[0] = 2
    with lease.driving(study):
        assert not away[0]
    assert len(met) >= 18


@pytest.mark.parametrize(("kind", "mode"), [("ext4", "wal"), ("nfs4", "delete"), ("fuse.sshfs", "delete")])
def test_a_log_is_written_ahead_where_the_disk_is_the_machines_own(config, space, tmp_path, monkeypatch, kind, mode):
    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(tmp_path), fstype=kind)]
    monkeypatch.setattr(database.psutil, "disk_partitions", lambda all: mounts)
    study = studies.open_study(config, space, f"sqlite:///{tmp_path}/inner/studies.db")
    study.tell(study.ask(), 2.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "inner" / "studies.db")) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == (mode,)
        assert other.execute("SELECT value FROM trial_values").fetchall() == [(2.0,)]


def test_a_link_to_a_disk_of_the_network_is_not_a_local_one(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    mounts = [("/", "ext4"), (str(tmp_path / "far"), "nfs4")]
    there = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts]
    monkeypatch.setattr(database.psutil, "disk_partitions", lambda all: there)
    assert database.is_on_local_disk(tmp_path / "studies.db")
    assert not database.is_on_local_disk(tmp_path / "near" / "studies.db")


def test_a_database_in_use_by_a_process_of_the_old_kind_is_opened_as_it_is(config, space, tmp_path, monkeypatch):
    address = f"sqlite:///{tmp_path}/studies.db"
    monkeypatch.setattr(database, "is_on_local_disk", lambda path: False)
    studies.open_study(config, space, address)
    monkeypatch.undo()
    with contextlib.closing(sqlite3.connect(tmp_path / "studies.db")) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM studies").fetchall()
        assert len(studies.load_study("small", address).trials) == len(space.first)


def test_what_a_killed_process_had_written_is_there(config, space, address):
    code = f"""
import os, signal, optuna
from raydd.tuning.database import open_storage
study = optuna.create_study(storage=open_storage({address!r}), study_name="killed")
study.tell(study.ask(), 2.0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert optuna.load_study(study_name="killed", storage=address).trials[0].value == 2.0


def test_a_connection_that_is_lost_while_trials_are_read_is_replaced(study):
    study.tell(study.ask(), 2.0)
    lost = []

    @sqlalchemy.event.listens_for(study._storage._backend.engine, "before_cursor_execute")
    def lose(connection, cursor, statement, *_):
        if "FROM trials" in statement and not lost:
            lost.append(statement)
            connection.invalidate()
            raise OperationalError(statement, {}, ConnectionError("the server closed the connection"))

    assert [trial.value for trial in study._storage._backend.get_all_trials(study._study_id)] == [2.0]
    assert lost


def test_an_end_whose_answer_was_lost_is_not_told_twice(study, monkeypatch):
    told, heard = RDBStorage.set_trial_state_values, []

    def tell(self, trial_id, state, values=None):
        told(self, trial_id, state, values)
        heard.append(state)
        if len(heard) == 1:
            raise OperationalError("commit", {}, ConnectionError("the server closed the connection"))
        return True

    trial = study.ask()
    trial.suggest_float("distill.image_lr", 0.1, 0.2)
    monkeypatch.setattr(RDBStorage, "set_trial_state_values", tell)
    study.tell(trial, 2.0)
    assert heard == [TrialState.COMPLETE]
    monkeypatch.undo()
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def test_what_no_patience_brings_is_raised_at_once(study):
    with study._storage._backend.engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE trial_values"))
    began = time.monotonic()
    with pytest.raises(optuna.exceptions.StorageInternalError):
        study.get_trials()
    assert time.monotonic() - began < 3


def test_patience_ends(study, monkeypatch):
    @sqlalchemy.event.listens_for(study._storage._backend.engine, "before_cursor_execute")
    def refuse(*_):
        raise OperationalError("select", {}, ConnectionError("connection refused"))

    monkeypatch.setattr(database, "PATIENCE_SECONDS", 1.0)
    with pytest.raises(PlaceError, match="start the database, and give the same command again"):
        study.get_trials()


def test_a_database_that_this_user_may_only_read_is_named_at_once(config, space, address, tmp_path):
    studies.open_study(config, space, address)
    read_only = studies.load_study(config.sweep.name, f"sqlite:///file:{tmp_path}/studies.db?mode=ro&uri=true")
    began = time.monotonic()
    with pytest.raises(ConfigError, match="can only be read by this user"):
        read_only.set_user_attr("order", "stop")
    assert time.monotonic() - began < 3


@pytest.mark.slow
def test_a_server_that_is_restarted(config, space, postgres):  # noqa: F811
    study = studies.open_study(config, space, postgres.address)
    with lease.driving(study, beat_seconds=0.2):
        trial = study.ask()
        postgres.stop()
        back = threading.Timer(4.0, postgres.start)
        back.start()
        settings = space.settings(trial)
        study.tell(trial, 1.0)
        back.join()
        time.sleep(1.0)
        assert lease.is_driven(study)
    assert settings["distill.image_lr"] == study.trials[0].params["distill.image_lr"]
    assert study.trials[0].value == 1.0


def test_a_server_that_is_not_there_is_named(config, space):
    config_error = "postgresql.psycopg://raydd:...@127.0.0.1:1/none cannot be opened"
    with pytest.raises(ConfigError, match=config_error):
        studies.open_study(config, space, "postgresql+psycopg://raydd:secret@127.0.0.1:1/none")
