"""A machine to submit to: an ssh server of the test's own on loopback, with a home folder of its own."""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = "/usr/sbin/sshd"


@dataclass(frozen=True)
class Machine:
    """What a user knows of a machine that he may log in to."""

    port: int
    key: Path
    home: Path
    venv: Path


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with Python and raydd's dependencies, but without raydd, reached by ssh as root on a port of its own.

    Its processes see only each other: `ray up` and `ray down` run `ray stop`, which ends every Ray that it can see.
    """
    if os.geteuid() != 0 or not Path(SSHD).is_file() or shutil.which("rsync") is None:
        pytest.skip("needs root, openssh-server and rsync")
    folder = tmp_path_factory.mktemp("machine")
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    home, port = folder / "home", free_port()
    home.mkdir()
    options = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "SetEnv": f"HOME={home}",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    Path("/run/sshd").mkdir(exist_ok=True)
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", SSHD, "-D", "-e"]
    with (folder / "sshd.log").open("w") as log:
        server = subprocess.Popen([*command, "-f", folder / "sshd_config"], stderr=log)
    try:
        wait_for(port)
        yield Machine(port, folder / "key", home, bare_environment(folder / "venv"))
    finally:
        server.kill()
        server.wait()


def bare_environment(venv: Path) -> Path:
    """An environment that has this one's packages but not its raydd: a fresh one, with a path file to the packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = Path(sysconfig.get_paths(vars={"base": str(venv), "platbase": str(venv)})["purelib"])
    links = packages / "links"
    links.mkdir()
    for item in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "raydd" not in item.name.lower():
            (links / item.name).symlink_to(item)
    (packages / "links.pth").write_text(f"{links}\n")
    for name in ("ray", "raylet"):
        script = venv / "bin" / name
        script.write_text(f"#!{venv}/bin/python\nimport sys\nfrom ray.scripts.scripts import main\nsys.exit(main())\n")
        script.chmod(0o755)
    return venv


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < end, f"nothing listens on port {port}"
        time.sleep(0.05)
