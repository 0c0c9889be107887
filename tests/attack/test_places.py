"""Stores that are damaged, homes that cannot be written, disks that are full, terminals that can do little."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from attacking import attack, flags

_PATH = os.pathsep.join(map(str, (Path(__file__).parents[2], Path(__file__).parents[1])))
_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from raydd.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set `tiny` and the home of a finished run on it."""
    from tiny_pictures import write_pictures

    folder = tmp_path_factory.mktemp("finished")
    write_pictures(folder / "tiny", train=12, val=4, test=4)
    assert attack("run", *flags(folder / "tiny", folder / "home")).code == 0
    return folder


def scores(home: Path) -> dict[str, str]:
    return {str(file.relative_to(home)): file.read_text() for file in home.glob("store/scores/*/scores.json")}


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 60))])
def test_a_damaged_store_is_named_and_what_is_deleted_is_made_again(finished: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    home = tmp_path / "home"
    shutil.copytree(finished / "home", home)
    files = sorted(path for path in (home / "store").rglob("*") if path.is_file())
    victim = draw.choice(files)
    record = home / "store" / Path(*victim.relative_to(home / "store").parts[:2])
    content = bytearray(victim.read_bytes())
    how = draw.choice(["cut", "change", "empty", "swap", "folder"])
    if how == "folder":
        victim.unlink()
        victim.mkdir()
    elif how == "swap":
        victim.write_bytes(draw.choice(files).read_bytes())
    else:
        place = draw.randrange(len(content))
        if how == "change":
            content[place] ^= draw.randrange(1, 256)
        victim.write_bytes(content[:place] if how == "cut" else b"" if how == "empty" else content)
    said = attack("run", *flags(finished / "tiny", home))
    assert said.is_in_order()
    if said.code:
        assert said.is_refusal_of(record.name)
    shutil.rmtree(record)
    assert attack("run", *flags(finished / "tiny", home)).code == 0
    assert scores(home) == scores(finished / "home")


def test_verify_reads_what_is_no_store(tmp_path: Path) -> None:
    for name, content in (
        ("a.json", b"[" * 100_000),
        ("x/y/manifest.json", b"{}"),
        ("x/y/[b].safetensors", b"\xff" * 9),
    ):
        (tmp_path / "store" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "store" / name).write_bytes(content)
    os.mkfifo(tmp_path / "store" / "x" / "y" / "pipe.json")
    said = attack("verify", "--place.home", tmp_path)
    assert said.is_in_order()
    assert said.code == 1


@pytest.mark.parametrize("home", ["/proc/raydd", "/dev/null/raydd", "~nobody-here/raydd"])
@pytest.mark.parametrize("command", ["run", "features", "verify"])
def test_a_home_that_cannot_be_is_refused_by_name(tiny_data: Path, home: str, command: str) -> None:
    given = flags(tiny_data, Path(home)) if command != "verify" else ["--place.home", home]
    assert attack(command, *given).is_refusal_of("place.home")


def test_without_a_home_folder_the_way_out_is_said(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("RAYDD_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    given = flags(tiny_data, Path("x"))
    at = given.index("--place.home")
    assert attack("features", *given[:at], *given[at + 2 :]).is_refusal_of("place.home", "$HOME")


def test_the_home_is_its_owner_s_alone(finished: Path) -> None:
    assert (finished / "home").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("out", ["folder", "below a file", "/proc/x/scores.json"])
@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_an_output_that_cannot_be_written_is_refused_before_work(
    tmp_path: Path, tiny_data: Path, out: str, command: str
) -> None:
    (tmp_path / "file").write_text("kept")
    path = {"folder": tmp_path, "below a file": tmp_path / "file" / "x.json"}.get(out, Path(out))
    said = attack(command, *flags(tiny_data, tmp_path / "home"), "--json", path)
    assert said.is_refusal_of("--json")
    assert not (tmp_path / "home" / "store").exists()
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_same_command_goes_on(tmp_path: Path, finished: Path) -> None:
    home = tmp_path / "home"
    given = flags(finished / "tiny", home)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": _PATH}
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, "2000", "run", *given],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "unexpected" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert str(home) in last
    assert "disk" in last or "room" in last
    assert attack("run", *given).code == 0
    assert scores(home) == scores(finished / "home")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_dumb_terminal_of_few_letters_shows_all(tmp_path: Path, finished: Path) -> None:
    root = tmp_path / "Bär"
    shutil.copytree(finished / "tiny", root)
    environment = {"PATH": os.environ["PATH"], "LANG": "C", "LC_ALL": "C", "TERM": "dumb", "PYTHONIOENCODING": "ascii"}
    environment |= {"PYTHONPATH": _PATH}
    command = [sys.executable, "-m", "raydd.cli", "features", *flags(root, tmp_path / "homé [/b]")]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"hom\\xe9 [/b]" in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("seed", range(6))
def test_a_signal_at_any_moment_loses_nothing(tmp_path: Path, finished: Path, name: str, seed: int) -> None:
    home = tmp_path / "home"
    given = flags(finished / "tiny", home)
    environment = os.environ | {"PYTHONPATH": _PATH}
    run = subprocess.Popen([sys.executable, "-m", "raydd.cli", "run", *given], env=environment, stderr=subprocess.PIPE)
    try:
        run.wait(random.Random(seed).uniform(1, 12))
    except subprocess.TimeoutExpired:
        run.send_signal(getattr(signal, name))
    said = run.communicate()[1]
    assert b"unexpected" not in said
    assert attack("run", *given).code == 0
    assert scores(home) == scores(finished / "home")
