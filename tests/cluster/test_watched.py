import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from raydd.cluster import watched
from raydd.errors import PlaceError


@pytest.fixture
def raylet(monkeypatch, tmp_path: Path):
    """A process that stands for Ray's, and SIGTERM as a cluster takes it."""
    link = tmp_path / "raylet"
    link.symlink_to(sys.executable)
    process = subprocess.Popen([link, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(watched, "_LOOK_SECONDS", 0.05)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield process
    signal.signal(signal.SIGTERM, before)
    process.kill()
    process.wait()


def test_the_end_of_one_ends_the_block_with_a_sentence(raylet: subprocess.Popen, tmp_path: Path):
    def block() -> None:
        with watched.ray_is_watched(tmp_path):
            raylet.kill()
            time.sleep(60)

    with pytest.raises(PlaceError, match=r"Ray's process raylet ended on this machine.*logs are in .*test_the_end"):
        block()


def test_what_else_ends_the_block_is_left_as_it_is(raylet: subprocess.Popen, tmp_path: Path):
    with watched.ray_is_watched(tmp_path):
        pass
    with pytest.raises(KeyboardInterrupt), watched.ray_is_watched(tmp_path):
        raise KeyboardInterrupt
    raylet.kill()
    time.sleep(0.3)  # nobody looks any more


BLOCK_THAT_HEARS_NO_SIGNAL = """
import signal, subprocess, sys, time
from pathlib import Path
from raydd.cluster import watched

signal.signal(signal.SIGTERM, signal.SIG_IGN)
watched._PATIENCE_SECONDS = 0.5
with watched.ray_is_watched(Path("logs")):
    print("began", flush=True)
    time.sleep(60)
"""


def test_a_block_that_hears_no_signal_is_ended_with_a_sentence_too(tmp_path: Path):
    link = tmp_path / "raylet"
    link.symlink_to(sys.executable)
    start = f"import subprocess; raylet = subprocess.Popen([{str(link)!r}, '-c', 'import time; time.sleep(60)'])\n"
    program = start + BLOCK_THAT_HEARS_NO_SIGNAL
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True) as driver:
        assert driver.stdout.readline() == "began\n"
        (raylet,) = psutil.Process(driver.pid).children()
        raylet.kill()
        _, said = driver.communicate(timeout=30)
    assert driver.returncode == 2
    assert "raydd: Ray's process raylet ended on this machine" in said
