"""Completion as a user has it: a shell at a terminal, the script where the documentation puts it, and the tab key."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raydd.cli import main

SECONDS = 60.0
SHELLS = {
    "bash": ("bash --norc --noprofile -i", "source {folder}/_raydd"),
    "fish": ("fish --no-config --interactive", "source {folder}/_raydd"),
    "zsh": ("zsh -f -i", "fpath=({folder} $fpath); autoload -U compinit; compinit -u -D"),
}


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """How to start a shell, and what to tell it first."""
    if not shutil.which(request.param):
        pytest.skip(f"there is no {request.param}; apt-get install {request.param} brings it")
    folder = tmp_path_factory.mktemp(request.param)
    with (folder / "_raydd").open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", file)
        assert main(["--completion", request.param]) == 0
    subprocess.run([request.param, "-n", folder / "_raydd"], check=True)
    start, setup = SHELLS[request.param]
    return start, setup.format(folder=folder)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("raydd expo", "export"),
        ("raydd run --distill.pai", "--distill.pairs"),
        ("raydd run --distill.images pi", "pixels"),
        ("raydd run --preset repblend-coco-1", "repblend-coco-100"),
        ("raydd sweep --sweep.space mt", "mtt_vl"),
    ],
)
def test_the_tab_key_completes_commands_settings_and_choices(shell: tuple[str, str], typed: str, shown: str):
    assert shown in after_tab(*shell, typed, shown)


def after_tab(start: str, setup: str, typed: str, shown: str) -> str:
    """What a terminal shows after a line was begun and tab pressed twice; ends early once it shows what is wanted."""
    process, terminal = pty.fork()
    if process == 0:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the script calls raydd
        os.environ.update({"TERM": "dumb", "PS1": "> ", "COLUMNS": "200", "PATH": path})
        os.execvp(start.split()[0], start.split())
    seen, waiting, end = "", True, time.monotonic() + SECONDS
    os.write(terminal, f"{setup}; echo rea''dy\n".encode())
    while time.monotonic() < end and (waiting or shown not in seen):
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 1 << 16).decode(errors="replace").replace("\a", "")
        if waiting and "ready" in seen:
            seen, waiting = "", False
            os.write(terminal, f"{typed}\t\t".encode())
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(terminal)
    return seen
