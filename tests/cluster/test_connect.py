"""Where Ray keeps its sessions: it opens the folder that it is given to all, so that folder lies in a closed one."""

import contextlib
import re
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ray.exceptions import AuthenticationError, OutOfMemoryError, RaySystemError, RayTaskError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from raydd.cluster import connect
from raydd.cluster.failures import failure_of
from raydd.errors import ConfigError, DataError, NonFiniteError, PlaceError


@pytest.fixture
def short():
    with tempfile.TemporaryDirectory(prefix="r-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("too_long", [False, True])
def test_ray_s_sessions_lie_in_a_folder_of_their_owner_alone(short: Path, too_long: bool, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(short / "tmp"))
    home = short / ("h" * 60 if too_long else "home")
    (home / "ray").mkdir(parents=True, mode=0o777)
    for _ in range(2):
        given = connect._session_folder(home)
        given.chmod(0o777)  # as Ray does
        assert stat.S_IMODE(given.parent.stat().st_mode) == 0o700
        assert given.is_relative_to(short / "tmp" if too_long else home / "ray")
        assert len(str(given)) <= connect._LONGEST_FOLDER


@pytest.mark.parametrize("name", ["ray", "ray/s"])
def test_a_folder_that_another_user_put_there_is_refused(short: Path, name: str):
    (short / "elsewhere").mkdir()
    (short / name).parent.mkdir(exist_ok=True)
    (short / name).symlink_to(short / "elsewhere")
    with pytest.raises(ConfigError, match=r"belongs to somebody else\. Set place\.home"):
        connect._session_folder(short)


def test_a_ray_that_does_not_start_is_said_with_the_place_of_its_logs(tmp_path: Path, monkeypatch):
    def fail(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(connect.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(connect.ray, "init", fail)
    with pytest.raises(PlaceError, match="timed out during startup") as error, connect.cluster("local", tmp_path):
        pass
    assert str(connect._session_folder(tmp_path)) in str(error.value)


MISMATCH = "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.4\nThis process on here"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ConnectionError("Could not find any running Ray instance. Specify one."),
            "There is no Ray cluster at place.ray",
        ),
        (ConnectionError(), "There is no Ray cluster at place.ray"),
        (
            RuntimeError(MISMATCH),
            "with: Ray: 2.60.0 Python: 3.11.4 This process on here). Use the cluster's versions of",
        ),
        (
            AuthenticationError("Authentication failed."),
            "refuses this process (Authentication failed). Set $RAY",
        ),
        (RaySystemError("System error: lost"), "cannot be joined (System error: "),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_named_in_one_line(tmp_path: Path, monkeypatch, error: Exception, said: str):
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(connect.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(connect.ray, "init", fail)
    with pytest.raises(ConfigError, match=re.escape(said)) as told, connect.cluster("10.0.0.1:6379", tmp_path):
        pass
    assert "place.ray '10.0.0.1:6379'" in str(told.value)
    assert "\n" not in str(told.value)


def test_an_interrupt_that_python_dropped_is_raised_later():
    """As one that comes while the garbage collector calls back: the exception is shown there and lost."""
    with connect._terminated_as_interrupted():
        connect.heed_interrupt()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            connect.heed_interrupt()
    connect.heed_interrupt()


@pytest.fixture
def in_the_foreground():
    """SIGINT as Python has it at a terminal; what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_sigterm_does_not_break_off_the_end_that_the_first_one_began(in_the_foreground: None):
    ended = []
    with connect._terminated_as_interrupted():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)
            ended.append("in good order")
            with pytest.raises(KeyboardInterrupt):  # who presses Ctrl-C is in a hurry
                signal.raise_signal(signal.SIGINT)
        connect.forget_interrupt()
        with pytest.raises(KeyboardInterrupt):  # the first was answered, so this one counts
            signal.raise_signal(signal.SIGTERM)
    assert ended == ["in good order"]


CHATTER = """
import os
from raydd.cluster.environment import prepare_environment
prepare_environment("local")
from raydd.cluster.connect import _without_log_level_message
with _without_log_level_message():
    os.write(2, b"[I 7] logging.cc:303: Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\\n")
    os.write(2, b"the disk is full\\n")
os.write(2, b"later\\n")
"""


LATE = """
import ray
from raydd.cluster.environment import prepare_environment
prepare_environment("local")
from ray._private import services
print(services.get_node_ip_address())
"""


def test_a_ray_that_was_imported_before_is_closed_to_other_machines_too(monkeypatch):
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "127.0.0.1"


def test_what_ray_says_of_its_log_level_is_kept_off_the_terminal_and_nothing_else():
    done = subprocess.run([sys.executable, "-c", CHATTER], capture_output=True, text=True, check=True)
    assert done.stderr == "the disk is full\nlater\n"


def test_reasons_that_are_kept_and_shown_hide_secrets():
    error = ValueError("no answer\nfrom postgresql://me:geheim@host/raydd")
    assert connect.reason_of(error) == "ValueError: from postgresql://me:***@host/raydd"
    assert "geheim" not in failure_of(error).failure


def test_a_store_that_was_away_ends_a_command_whose_tasks_needed_it(monkeypatch):
    away = RayTaskError("score", "", PlaceError("The store s3://b did not answer."))
    results = {"a": 1, "b": away, "c": RayTaskError("score", "", ValueError("diverged"))}

    def get(reference):
        if isinstance(results[reference], Exception):
            raise results[reference]
        return results[reference]

    monkeypatch.setattr(connect.ray, "wait", lambda left, timeout: (left, []))
    monkeypatch.setattr(connect.ray, "get", get)
    found = connect.outcomes({name: name for name in results})
    told = [next(found)[1:] for _ in results]  # all of them first
    assert told[0] == (1, "")
    with pytest.raises(PlaceError, match="Not all was made: PlaceError: The store s3://b did not answer"):
        next(found)
    del results["b"]
    assert len(list(connect.outcomes({name: name for name in results}))) == 2


def test_a_worker_s_error_is_raydd_s_own_or_one_sentence_that_names_it():
    told = DataError("The image a.png is gone. Put it back.")
    remote = RayTaskError("judge", "\x1b[36mray::judge()\x1b[39m\nTraceback", told).as_instanceof_cause()
    assert isinstance(remote, DataError)  # and its text is that of the traceback
    assert connect.workers_error(remote) is told
    diverged = NonFiniteError("Expert 3 diverged. Lower experts.lr.")
    assert connect.workers_error(WorkerGroupError("Traceback", {3: diverged})) is diverged
    assert connect.workers_error(ControllerError(told)) is told
    for error, reason in (
        (RayTaskError("judge", "Traceback", KeyError("jpg")), "KeyError: 'jpg'"),
        (WorkerGroupError("Traceback", {0: ValueError("no room\nat all")}), "ValueError: at all"),
        (ControllerError(TimeoutError("no CPU came")), "TimeoutError: no CPU came"),
        (OutOfMemoryError("Memory on the node was full."), "OutOfMemoryError: Memory on the node was full"),
    ):
        found = connect.workers_error(error)
        assert isinstance(found, PlaceError)
        assert str(found).startswith(f"A worker failed: {reason}. Finished work is kept: ")
