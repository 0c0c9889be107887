"""What an import pulls in, seen from a fresh process: a linter does not see what a dependency imports."""

import configparser
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import raydd
from raydd.cli import COMMANDS

MODULES = ("raydd.config", "raydd.settings", "raydd.place", "raydd.device", "raydd.checkup")
ENGINE = (
    "raydd.cost",
    "raydd.data",
    "raydd.distill",
    "raydd.evaluate",
    "raydd.export",
    "raydd.protocols",
    "raydd.sets",
    "raydd.stages",
    "raydd.store",
    "raydd.terminal",
)


def modules_of(package: str) -> list[str]:
    folder = Path(raydd.__file__).parent / package.removeprefix("raydd.").replace(".", "/")
    return [package, *(module.name for module in pkgutil.walk_packages([str(folder)], f"{package}."))]


def imported(*names: str, tmp_path: Path) -> set[str]:
    """The top-level modules that a fresh process in another folder holds after importing these."""
    code = f"import importlib, json, sys\nfor name in {names!r}: importlib.import_module(name)\n"
    code += "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_the_engine_pulls_in_neither_the_sweep_s_packages_nor_an_encoder_s(tmp_path: Path):
    names = [*MODULES, *(module for package in ENGINE for module in modules_of(package))]
    found = imported("raydd", *names, tmp_path=tmp_path)
    assert not found & {"ray", "optuna", "mlflow"}
    assert not found & {"timm", "open_clip", "transformers"}


def test_which_protocol_it_is_is_asked_where_a_workbench_is_chosen_and_nowhere_else():
    """Everything above takes a workbench; the settings check what a protocol allows, a set says its own in words."""
    root = Path(raydd.__file__).parent
    asked = re.compile(r"protocol (==|!=)|\.protocol\]")
    sources = [path for name in ("raydd", "trainables", "search_spaces") for path in (root.parent / name).rglob("*.py")]
    assert len(sources) > 100
    found = {str(path.relative_to(root.parent)) for path in sources if asked.search(path.read_text(encoding="utf-8"))}
    assert found == {
        "raydd/config/__init__.py",
        "raydd/config/distill.py",
        "raydd/protocols/__init__.py",
        "raydd/sets/provenance.py",
    }


def test_the_command_line_gives_help_without_anything_heavy(tmp_path: Path):
    code = "import sys; from raydd.cli import COMMANDS, main\n"
    code += (
        "codes = [main(['--help']), main(['run', '--print_config']), *(main([name, '--help']) for name in COMMANDS)]\n"
    )
    code += (
        "print('heavy:', sorted({'torch', 'numpy', 'ray', 'optuna', 'mlflow', 'pandas'} & set(sys.modules)), *codes)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "heavy: []" + " 0" * (2 + len(COMMANDS))


@pytest.mark.parametrize("name", ["trainables", "search_spaces"])
def test_the_packages_beside_raydd_import_from_anywhere(name: str, tmp_path: Path):
    assert name in imported(name, tmp_path=tmp_path)


def test_every_room_has_its_layer():
    rules = configparser.ConfigParser()
    rules.read(Path(__file__).parents[1] / ".importlinter")
    layers = rules["importlinter:contract:layers"]["layers"].replace("|", " ").split()
    rooms = [f"raydd.{module.name}" for module in pkgutil.iter_modules([str(Path(raydd.__file__).parent)])]
    assert sorted(layers) == sorted([*rooms, "trainables", "search_spaces"])


def test_no_module_of_raydd_hides_a_module_of_another(tmp_path: Path):
    """`python raydd/sweep.py` puts the folder raydd first on the import path."""
    own = {module.name for module in pkgutil.iter_modules([str(Path(raydd.__file__).parent)])}
    installed = {
        module.name
        for finder in sys.path
        if Path(finder).is_dir() and (Path(finder) / "torch").is_dir()  # site-packages
        for module in pkgutil.iter_modules([finder])
    }
    assert not own & ({*sys.stdlib_module_names} | installed)
