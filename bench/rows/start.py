"""Start-up times: of the help, and of importing the engine."""

import subprocess
import sys
from pathlib import Path

from bench.measuring import Pieces, Size
from bench.rows.row import ITSELF, WITHIN, Row


def _help_pieces(size: Size, folder: Path) -> Pieces:  # noqa: ARG001
    run = {
        "python": lambda: _run_python("pass"),
        "help": lambda: _run_python("from raydd.cli import main; main(['--help'])"),
    }
    return Pieces(run, {"python": 1}, {"help": 1})


def _import_pieces(size: Size, folder: Path) -> Pieces:  # noqa: ARG001
    run = {"torch": lambda: _run_python("import torch"), "engine": lambda: _run_python("import torch, raydd.stages")}
    return Pieces(run, {"torch": 1}, {"engine": 1})


def _run_python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


START = (
    Row(
        "help",
        "`raydd --help`",
        "a Python that does nothing",
        floor=0.7,
        aim=0.3,
        quick_floor=0.7,
        measure=ITSELF,
        memory=None,
        pieces=_help_pieces,
    ),
    Row(
        "import",
        "import of torch and the engine",
        "`import torch`",
        floor=1.5,
        quick_floor=1.7,
        measure=WITHIN,
        memory=None,
        pieces=_import_pieces,
    ),
)
