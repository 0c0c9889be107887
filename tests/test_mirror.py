"""Which file of tests/ tests a module: the one of its name, else those of the nearest modules that import it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("raydd", "trainables", "search_spaces", "bench")
# Tests of no room: whole sweeps, attacks on several rooms, formulas, pages of the documentation, .ci.
OF_NO_ROOM = ("ray", "attack", "golden", "docs", "ci")
# What imports the modules of a folder by names that it makes up.
FOUND_BY_NAME = {"raydd/commands": "raydd/cli.py", "search_spaces": "search_spaces/__init__.py"}


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
def tested_by() -> dict[Path, set[Path]]:
    """From each module to the test files that test it; none if no way leads to one."""
    modules = {".".join(file.with_suffix("").parts).removesuffix(".__init__"): file for file in python_files(*PACKAGES)}
    tests = {file: imported(file, modules) for file in python_files("tests") if file.name.startswith("test_")}
    above: dict[Path, set[Path]] = {file: set() for file in modules.values()}
    for file in modules.values():
        for other in imported(file, modules):
            above[other].add(file)
    for file, callers in above.items():
        if finder := FOUND_BY_NAME.get(str(file.parent)):
            callers.add(Path(finder))

    def of(file: Path) -> set[Path]:
        reached, level = {file}, {file}
        while level:
            for found in (
                {own_tests(each) for each in level} & set(tests),
                {test for test, uses in tests.items() if uses & level},
            ):
                if found:
                    return found
            level = {caller for each in level for caller in above[each]} - reached
            reached |= level
        return set()

    return {file: of(file) for file in modules.values() if file.name != "__init__.py"}


def test_every_module_is_tested_by_the_file_of_its_name_or_by_those_of_what_imports_it(tested_by):
    assert {str(module) for module, tests in tested_by.items() if not tests} == set()


def test_every_test_lies_in_the_folder_of_a_room_or_of_several():
    rooms = {own_tests(module).parent for module in python_files(*PACKAGES)}
    rooms |= {Path("tests") / name for name in OF_NO_ROOM}
    lost = [str(file) for file in python_files("tests") if file.name.startswith("test_") and file.parent not in rooms]
    assert lost == []
