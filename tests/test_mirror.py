"""Which files of tests/ test a module: those of its name and of its importers' names, and those that import it.

For the few other modules, the test that covers them is written down here.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("raydd", "trainables", "search_spaces", "bench")
# Tests of no room: whole sweeps, attacks on several rooms, formulas, pages of the documentation, .ci.
OF_NO_ROOM = ("ray", "attack", "golden", "docs", "ci")
# The test of a module, or of the modules in a folder, that no rule finds.
TESTED_BY = {
    "bench/rows": "tests/bench/test_bench.py",
    "raydd/commands": "tests/test_cli.py",
    "raydd/config": "tests/test_config.py",
    "raydd/distill/methods": "tests/test_settings.py",
    "raydd/protocols/encoder.py": "tests/stages/test_encoder_protocol.py",
    "raydd/protocols/opened.py": "tests/protocols/test_opened_once.py",
    "raydd/protocols/student_modules.py": "tests/export/test_exporting.py",
    "raydd/stages/inverting.py": "tests/stages/test_stages.py",
    "search_spaces": "tests/search_spaces/test_spaces.py",
    "trainables/errand.py": "tests/ray/test_sweep.py",
}


def python_files(*folders: str) -> list[Path]:
    return [file.relative_to(ROOT) for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def own_tests(module: Path) -> Path:
    """Where the tests of a module lie if it has a file of its own: raydd/a/b.py has tests/a/test_b.py."""
    below = module.relative_to("raydd") if module.parts[0] == "raydd" else module
    return Path("tests") / below.parent / f"test_{below.name}"


def imported(file: Path, modules: dict[str, Path]) -> set[Path]:
    """The modules that a file imports, at its top or in a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
    return {modules[name] for name in names & set(modules)}


@pytest.fixture(scope="module")
def found_tests() -> dict[Path, set[Path]]:
    """From each module to the test files that a rule finds."""
    modules = {".".join(file.with_suffix("").parts).removesuffix(".__init__"): file for file in python_files(*PACKAGES)}
    tests = {file: imported(file, modules) for file in python_files("tests") if file.name.startswith("test_")}
    imports = {file: imported(file, modules) for file in modules.values()}

    def of(file: Path) -> set[Path]:
        callers = {caller for caller, uses in imports.items() if file in uses}
        named = {own_tests(each) for each in (file, *callers)}
        return named & set(tests) | {test for test, uses in tests.items() if file in uses}

    return {file: of(file) for file in modules.values() if file.name != "__init__.py"}


def test_every_module_has_a_test(found_tests: dict[Path, set[Path]]):
    without = {file for file, tests in found_tests.items() if not tests}
    assert {str(file) for file in without if not TESTED_BY.keys() & {str(file), str(file.parent)}} == set()
    needed = {str(place) for file in without for place in (file, file.parent)}
    assert TESTED_BY.keys() - needed == set()
    assert {test for test in TESTED_BY.values() if not (ROOT / test).is_file()} == set()


def test_every_test_lies_in_the_folder_of_a_room_or_of_several():
    rooms = {own_tests(module).parent for module in python_files(*PACKAGES)}
    rooms |= {Path("tests") / name for name in OF_NO_ROOM}
    lost = [str(file) for file in python_files("tests") if file.name.startswith("test_") and file.parent not in rooms]
    assert lost == []
