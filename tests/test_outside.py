"""A user's own code by name: it is found, its faults are told, and a downloaded set cannot name it."""

import copy
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydd.errors import ConfigError, DataError
from raydd.outside import (
    find,
    guarded,
    names_code,
    names_download,
    outside,
    require_trusted,
    source_identity,
    with_folder,
    without_folder,
)

KNOWN: dict[str, Callable[..., Any]] = {"sum": sum, "sorted": sorted}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(code: str) -> str:
    Path("mine.py").write_text(code)
    return "mine.py:f"


def test_a_registry_s_name_wins_and_a_wrong_one_is_answered_with_the_nearest():
    assert find("sum", KNOWN, "x.y", None, "a function") is sum
    with pytest.raises(ConfigError, match=r"x.y 'sorte' is unknown. Did you mean 'sorted'\? .* module:NAME or FILE.py"):
        find("sorte", KNOWN, "x.y", None, "a function")


def test_a_file_is_found_from_the_working_directory_by_its_path_and_from_the_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    write("def f():\n    return 3\n")
    monkeypatch.setenv("HOME", str(folder))
    assert [outside(name, "x.y")() for name in ("mine.py:f", f"{folder}/mine.py:f", "~/mine.py:f")] == [3, 3, 3]


@pytest.mark.usefixtures("folder")
def test_a_file_is_imported_once_and_anew_when_it_changed():
    first = outside(write("class f:\n    pass\n"), "x.y")
    assert outside("mine.py:f", "x.y") is first
    second = outside(write("class g:\n    pass\nf = 3"), "x.y")
    assert second == 3
    write("class f:\n    pas_\n".replace("pas_", "pass"))
    assert outside("mine.py:f", "x.y") is first


@pytest.mark.usefixtures("folder")
def test_a_change_of_the_same_length_in_the_same_second_is_seen():
    for number in range(10):
        assert outside(write(f"f = {number}"), "x.y") == number


def test_two_files_of_one_name_are_two_modules(folder: Path):
    for number in range(2):
        (folder / str(number)).mkdir()
        (folder / str(number) / "mine.py").write_text("def f(): return __file__\n")
    assert [outside(f"{number}/mine.py:f", "x.y")() for number in range(2)] == [
        f"{folder}/{number}/mine.py" for number in range(2)
    ]


def test_what_a_file_defines_can_be_a_dataclass_and_is_unpickled_in_another_process(folder: Path):
    code = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass f:\n    x: int\n"
    (folder / "made.pickle").write_bytes(pickle.dumps(outside(write(code), "x.y")(3)))
    program = "import pickle, pathlib; print(pickle.loads(pathlib.Path('made.pickle').read_bytes()))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.stdout == "f(x=3)\n", done.stderr
    write(code + "# changed\n")
    done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True)
    assert "mine.py has changed since it was named" in done.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(:\n", "mine.py cannot be imported in line 1: SyntaxError"),
        ("\n\n1 / 0\n", "mine.py cannot be imported in line 3: ZeroDivisionError: division by zero. Correct it"),
        ("import sys\nsys.exit()\n", "mine.py cannot be imported in line 2: SystemExit. Correct it"),
        ("import no_such_thing\n", "line 1: ModuleNotFoundError: No module named 'no_such_thing'. Correct it"),
        ("def again():\n    again()\nagain()\n", "line 2: RecursionError"),
        ("raise BaseException('a\\n\\nb')", "line 1: BaseException: a b. Correct"),
        ("class E(Exception):\n    def __str__(self): return 1 / 0\nraise E", "line 3: E. Correct"),
        ("g = 3\nimport os\nfrom json import loads", "mine.py has no 'f'. Known: g.$"),
        ("", "mine.py has no 'f'. It defines no name"),
        ("def __getattr__(name):\n    return 1 / 0", " failed in mine.py line 2: ZeroDivisionError"),
        ("\0", "mine.py cannot be imported"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named(code: str, said: str):
    with pytest.raises(ConfigError, match=f"^x.y mine.py:f.*{said}") as error:
        outside(write(code), "x.y")
    assert error.value.__cause__ is not None


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "name", ["nowhere.py:f", "~no_such_user/mine.py:f", "\0.py:f", "..:f", " :f", f"{'x' * 5000}.py:f"]
)
def test_a_source_that_is_not_there_is_named(name: str):
    with pytest.raises(ConfigError, match=r"^x.y .*(there is no file|cannot be imported)"):
        outside(name, "x.y")


def test_a_module_that_fails_is_named_with_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "raydd_test_failing.py").write_text("\n1 / 0\n")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(ConfigError, match=f"in {folder}/raydd_test_failing.py line 2: ZeroDivisionError"):
        outside("raydd_test_failing:f", "x.y")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("1 / 0", "failed in mine.py line 3: ZeroDivisionError: division by zero. Correct the function.$"),
        ("raise SystemExit(3)", "failed in mine.py line 3: SystemExit: 3."),
        ("f(x)", "failed in mine.py line 3: RecursionError"),
        ("__import__('json').loads('{')", "failed in mine.py line 3: JSONDecodeError"),
        ("raise StopIteration", "failed in mine.py line 3: StopIteration."),
    ],
)
def test_a_fault_in_a_call_is_named_with_its_line(body: str, said: str):
    function = guarded(outside(write(f"def f(x):\n    x = 1\n    {body}\n"), "x.y"), "mine.py:f", "x.y")
    with pytest.raises(ConfigError, match=f"^x.y mine.py:f {said}") as error:
        function(1)
    assert error.value.__cause__ is not None
    with pytest.raises(ConfigError, match=r"^x.y mine.py:f failed: TypeError: f\(\) missing 1 required"):
        function()


@pytest.mark.parametrize("error", [DataError("mine"), KeyboardInterrupt(), torch.OutOfMemoryError("full")])
def test_what_is_no_fault_of_the_function_passes(error: BaseException):
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        guarded(fail, "mine.py:f", "x.y")()
    assert raised.value is error


def test_a_graceful_stop_in_the_middle_of_a_call_passes():
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with pytest.raises(SystemExit):
            guarded(lambda: os.kill(os.getpid(), signal.SIGTERM), "mine.py:f", "x.y")()
        with pytest.raises(ConfigError, match="SystemExit: 143"):
            guarded(lambda: sys.exit(143), "mine.py:f", "x.y")()
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("folder")
def test_a_guarded_function_is_pickled_and_copied_and_guarded_once():
    function = guarded(outside(write("def f(x):\n    return 3 / x\n"), "x.y"), "mine.py:f", "x.y")
    for again in (pickle.loads(pickle.dumps(function)), copy.deepcopy(function)):
        assert again(1) == 3
        with pytest.raises(ConfigError, match=r"mine.py line 2: ZeroDivisionError"):
            again(0)
    assert guarded(function, "mine.py:f", "x.y") is function


def test_the_source_s_identity_follows_the_file_and_runs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    first = [source_identity(name) for name in (write("1 / 0"), "mine:f", f"{folder}/mine.py:g")]
    assert len({*first}) == 1
    assert len(first[0]) == 16
    second = [source_identity(name) for name in (write("1 / 1"), "mine:f")]
    assert second[0] == second[1] != first[0]
    assert source_identity("repblend") == source_identity("sys:exit") == source_identity("no_such_module:f") == ""
    with pytest.raises(ConfigError, match="there is no file"):
        source_identity("nowhere.py:f")


def test_a_name_without_its_folder():
    assert without_folder("/home/me/mine.py:f") == without_folder("mine.py:f") == "mine.py:f"
    assert without_folder("joined:a/b.py:f,timm:x/y*0.5,c:d") == "joined:b.py:f,timm:x/y*0.5,c:d"
    assert [without_folder(name) for name in ("repblend", "a.b:c", "open_clip:M/w")] == [
        "repblend",
        "a.b:c",
        "open_clip:M/w",
    ]


def test_an_hf_folder_loses_its_path_for_records_and_gets_it_for_workers(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    for path in ("m/n", "hf:f"):
        (folder / path).mkdir(parents=True)
    names = {"hf:m/n": "hf:n", "hf:~/m": "hf:m", f"hf:{folder}/m/../m/": "hf:m", "hf:/not/here": "hf:here"}
    assert {name: without_folder(name) for name in names} == names
    assert with_folder("hf:m/n", "encoders.text") == with_folder("hf:m/n", "data.reader") == f"hf:{folder}/m/n"
    assert with_folder("hf:~/m", "encoders.text") == f"hf:{folder}/m"
    assert with_folder("hf:m", "encoders.image") == "hf:m"  # for images hf: is a module
    hub = ["hf:", "hf:someone/model", "hf:model@v1", "hf:\0", f"hf:{'x' * 5000}", "m/n"]
    assert [without_folder(name) for name in hub] == [with_folder(name, "encoders.text") for name in hub] == hub


EVIL = [
    ("encoders.image", "evilmod:image"),
    ("encoders.image", "evil.py:image"),
    ("encoders.image", "joined:efficientnet-lite0,evilmod:x"),
    ("encoders.image", "joined:efficientnet-lite0, timm:x"),
    ("encoders.image", "joined:joined:evil:x,nfnet"),
    ("encoders.image", "hf:evil"),  # hf: is a family of text encoders alone: for images it is a module
    ("encoders.image", "TIMM:x"),
    ("encoders.image", "Evil Mod:image"),
    ("encoders.image", " timm:x"),
    ("encoders.image", "os:system"),
    ("encoders.text", "timm:create_model"),
    ("encoders.text", "joined:nfnet,minilm"),
    ("data.reader", "os:system"),
    ("data.reader", "timm:create_model"),
    ("data.reader", "joined:a,b"),
    ("distill.method", "../../evil.py:METHOD"),
    ("distill.loss", "evil:loss"),
    ("sweep.space", "~/evil.py:space"),
    ("sweep.space", ":"),
]
HUBS = [
    ("encoders.image", "timm:x"),
    ("encoders.image", "open_clip:M/w"),
    ("encoders.image", "joined:nfnet,timm:x*0.5"),
    ("encoders.text", "hf:evil/model"),
    ("encoders.text", "open_clip:M/w"),
    ("data.reader", "hf:evil/data"),
]


@pytest.mark.parametrize(("setting", "name"), [*EVIL, *HUBS])
def test_a_set_never_names_what_is_outside_unless_the_user_repeats_it(setting: str, name: str):
    assert (names_code(name, setting), names_download(name, setting)) == (
        (setting, name) in EVIL,
        (setting, name) in HUBS,
    )
    fetched = "a data set" if setting == "data.reader" else "an encoder"
    does = "run code" if (setting, name) in EVIL else f"load {fetched}"
    for repeated in ({}, {"other": name}, {setting: f"{name} "}, {setting: name.upper() + "x"}, {setting: "nfnet"}):
        with pytest.raises(
            ConfigError, match=f"^The set names {setting} .* {does} from outside raydd.* repeat it: --{setting} "
        ):
            require_trusted({"distill.method": "repblend", setting: name}, repeated, "The set")
    require_trusted({"distill.method": "repblend", setting: name}, {setting: name}, "The set")


def test_a_set_may_name_what_raydd_has():
    names = {
        "encoders.image": "joined:efficientnet-lite0,nfnet*0.5",
        "encoders.text": "minilm",
        "data.reader": "stamps",
        "distill.method": "repblend",
        "sweep.space": "",
    }
    assert not any(names_code(name, setting) or names_download(name, setting) for setting, name in names.items())
    assert require_trusted(names, {}, "The set") is None


def test_a_name_is_shown_so_that_pasting_it_runs_nothing():
    with pytest.raises(ConfigError, match=r"--encoders.image 'a:b; rm -rf x'$"):
        require_trusted({"encoders.image": "a:b; rm -rf x"}, {}, "The set")
    with pytest.raises(ConfigError, match=r"'a:\\x1b\[2J'"):
        require_trusted({"encoders.image": "a:\x1b[2J"}, {}, "The set")
