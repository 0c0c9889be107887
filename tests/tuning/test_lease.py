import json
import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest

from raydd.cluster import connect
from raydd.errors import ConfigError, PlaceError
from raydd.settings import with_settings
from raydd.tuning import lease
from raydd.tuning import study as studies


@pytest.fixture
def study(config, space, address):
    return studies.open_study(config, space, address)


def test_a_second_driver_is_refused(study):
    with lease.driving(study), pytest.raises(ConfigError, match=f"by process {os.getpid()} on"), lease.driving(study):
        pass
    with lease.driving(study):
        pass


def test_only_one_process_begins_a_study(config, space, address):
    first = studies.open_study(config, space, address, exclusive=lease.driving)
    assert first.user_attrs["driver"] is None  # begun, and nobody drives it yet
    studies.open_study(config, space, address, exclusive=None)  # which a begun one does not ask for

    study = optuna.create_study(storage=first._storage, study_name="other", direction="maximize")
    other = with_settings(config, {"sweep.name": "other"})
    with lease.driving(study), pytest.raises(ConfigError, match="is being run by process"):
        studies.open_study(other, space, address, exclusive=lease.driving)
    assert study.trials == []


@pytest.mark.slow
def test_of_two_that_start_together_one_drives_and_the_other_is_told(study, config, address):
    code = """
import sys, time
from raydd.errors import ConfigError
from raydd.tuning import lease, study as studies
study = studies.load_study(*sys.argv[1:])
for line in sys.stdin:
    while time.time() < float(line):
        pass
    try:
        with lease.driving(study):
            print("drives", flush=True)
            time.sleep(0.4)
    except ConfigError as error:
        print(error, flush=True)
"""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, config.sweep.name, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for race in range(10):
            start = time.time() + (20 if race == 0 else 0.3)  # the first time they still import
            for racer in racers:
                print(start, file=racer.stdin, flush=True)
            ends = sorted(racer.stdout.readline() for racer in racers)
            assert ends[1] == "drives\n", (race, ends)
            assert "is being run by process" in ends[0], (race, ends)
            while lease.is_driven(study):
                time.sleep(0.05)
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()


def test_a_driver_that_was_taken_for_dead_ends(study):
    def drive():
        with lease.driving(study, beat_seconds=0.1):
            study.set_user_attr("driver", {"host": "elsewhere", "pid": 1, "begun": 0.0, "beat": time.time()})
            time.sleep(5)

    with connect._terminated_as_interrupted():
        with pytest.raises(ConfigError, match="by process 1 on elsewhere"):
            drive()
        connect.heed_interrupt()  # the interrupt that ended it is answered: the next sweep of this process goes on
    assert study.user_attrs["driver"]["host"] == "elsewhere"  # whose mark stays


def test_a_killed_driver_leaves_the_study_free_at_once(study, config, address, monkeypatch):
    code = f"""
import optuna, os, signal
from raydd.tuning.lease import driving
study = optuna.load_study(study_name={config.sweep.name!r}, storage={address!r})
with driving(study):
    while "driver" not in study.user_attrs:
        pass
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as killed:
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # a zombie: nobody has asked for its exit code yet
        assert study.user_attrs["driver"]["pid"] == killed.pid
        assert not lease.is_driven(study)
        monkeypatch.setattr(lease, "Path", lambda _: Path("/nowhere"))  # as without /proc
        with pytest.raises(psutil.NoSuchProcess):
            lease._process_start(killed.pid)
        monkeypatch.undo()
        with lease.driving(study):
            pass


def test_a_driver_elsewhere_is_given_time(study):
    study.set_user_attr("driver", {"host": "elsewhere", "pid": 1, "begun": 0.0, "beat": time.time() - 80})
    with pytest.raises(ConfigError, match="on elsewhere"), lease.driving(study):
        pass
    study.set_user_attr("driver", {"host": "elsewhere", "pid": 1, "begun": 0.0, "beat": time.time() - 100})
    with lease.driving(study, beat_seconds=0.1):
        pass


def test_a_driver_whose_clock_is_wrong_is_seen_to_beat(study, monkeypatch):
    def mark(beat):
        study.set_user_attr("driver", {"host": "elsewhere", "pid": 1, "begun": 0.0, "beat": beat})

    mark(0.0)
    read = lease._read_mark

    def beating(study):
        found = read(study)
        mark(time.time() - 1000)
        return found

    monkeypatch.setattr(lease, "_read_mark", beating)
    with pytest.raises(ConfigError, match="on elsewhere"), lease.driving(study, beat_seconds=0.5):
        pass


def test_a_step_of_the_clock_kills_no_driver(study, monkeypatch):
    with lease.driving(study):
        created = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + 3600)
        assert lease.is_driven(study)


def test_a_database_that_is_away_for_long_takes_no_mark_away(study, monkeypatch):
    replace, calls = lease._replace_mark, []

    def away(study, before, after):
        calls.append(after)
        if len(calls) == 2:
            replace(study, before, after)  # heard, although the answer is lost
        if len(calls) in (2, 3):
            raise PlaceError("The study's database has not answered for 5 minutes.")
        return replace(study, before, after)

    with lease.driving(study, beat_seconds=0.05):
        monkeypatch.setattr(lease, "_replace_mark", away)
        while len(calls) < 6:
            time.sleep(0.05)
        beats = {json.loads(call)["beat"] for call in calls}
        assert study.user_attrs["driver"]["beat"] in beats
    assert study.user_attrs["driver"] is None
