"""What an import pulls in, seen from a fresh process: a linter does not see what a dependency imports."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import raydd

ROOMS = ("raydd.config", "raydd.settings", "raydd.place", "raydd.stages")
ENGINE = ("raydd.data", "raydd.distill", "raydd.evaluate", "raydd.store", "raydd.stages")


def modules_of(package: str) -> list[str]:
    folder = Path(raydd.__file__).parent / package.removeprefix("raydd.").replace(".", "/")
    return [package, *(module.name for module in pkgutil.walk_packages([str(folder)], f"{package}."))]


def imported(*names: str, tmp_path: Path) -> set[str]:
    """The top-level modules that a fresh process in another folder holds after importing these."""
    code = f"import importlib, json, sys\nfor name in {names!r}: importlib.import_module(name)\n"
    code += "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_the_engine_pulls_in_neither_ray_nor_optuna_nor_mlflow(tmp_path: Path):
    names = [*ROOMS, *(module for package in ENGINE for module in modules_of(package))]
    found = imported("raydd", *names, tmp_path=tmp_path)
    assert not found & {"ray", "optuna", "mlflow"}


def test_the_engine_pulls_in_no_encoder_package_before_one_is_asked_for(tmp_path: Path):
    assert not imported("raydd.stages", tmp_path=tmp_path) & {"timm", "open_clip", "transformers"}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["sweep", "--help"], ["run", "--print_config"]])
def test_the_command_line_answers_without_torch(arguments: list[str], tmp_path: Path):
    code = f"import sys; from raydd.cli import main; code = main({arguments!r})\n"
    code += "print('heavy:', sorted({'torch', 'numpy', 'ray', 'optuna', 'mlflow', 'pandas'} & set(sys.modules)), code)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.endswith("heavy: [] 0\n")


@pytest.mark.parametrize("name", ["trainables", "search_spaces"])
def test_the_packages_beside_raydd_import_from_anywhere(name: str, tmp_path: Path):
    assert name in imported(name, tmp_path=tmp_path)


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
