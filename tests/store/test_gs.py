"""A store on gs://, against an emulator of Google's service.

The emulator is a process of its own: pyarrow opens a file of gs:// without letting other threads of its process run, so
a server in the same process never answers.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from machines import free_port, wait_for
from made_sets import SETTINGS
from tiny_pictures import write_pictures

import raydd
from raydd import stages
from raydd.errors import PlaceError, RecordError
from raydd.place import open_store
from raydd.settings import load
from raydd.store import Record, Store, remote

EMULATOR = pytest.importorskip("gcp_storage_emulator", reason="the extra `dev` brings gcp-storage-emulator").__name__


@contextlib.contextmanager
def emulator(port: int, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", EMULATOR, "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]
    with log.open("a") as output:
        process = subprocess.Popen([*command, "--default-bucket=bucket"], stdout=output, stderr=output)
    try:
        wait_for(port, 60)
        yield
    finally:
        process.kill()
        process.wait()


def address(port: int) -> str:
    return f"gs://bucket/raydd?endpoint_override=127.0.0.1:{port}&scheme=http&anonymous=true"


@pytest.fixture(scope="module")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with emulator(port, tmp_path_factory.mktemp("gs") / "log"):
        yield address(port)


def test_a_record_is_read_back_and_kept_by_the_node(gs: str, tmp_path: Path):
    record = Record.of(Store(gs, tmp_path / "cache"), "stage", {"lr": 0.1}, {}, version=1)
    assert not record.complete
    record.write_tensors("x.safetensors", {"a": torch.arange(3)})
    record.finish(facts={"size": 3})
    again = Record.of(Store(gs, tmp_path / "other"), "stage", {"lr": 0.1}, {}, version=1)
    assert again.facts() == {"size": 3}
    assert again.map_tensors("x.safetensors")["a"].tolist() == [0, 1, 2]
    assert again.store.names(again.folder) == [f"{again.folder}/manifest.json", f"{again.folder}/x.safetensors"]
    record.remove("x.safetensors")
    assert not record.has("x.safetensors")
    assert again.map_tensors("x.safetensors")["a"].tolist() == [0, 1, 2]  # the node's copy


def test_a_large_file_and_a_missing_one(gs: str, tmp_path: Path):
    store, content = Store(gs, tmp_path), bytes(range(256)) * 100_000  # 25.6 MB
    store.write("large.bin", content)
    assert store.read("large.bin") == content
    with pytest.raises(RecordError, match=r"there is no file none\.bin"):
        store.read("none.bin")


def test_a_flipped_bit_is_refused(gs: str, tmp_path: Path):
    record = Record.of(Store(gs, tmp_path), "flipped", {}, {}, version=1)
    record.write_tensors("x.safetensors", {"a": torch.arange(100)})
    content = bytearray(record.read("x.safetensors"))
    content[-1] ^= 1
    record.store.write(f"{record.folder}/x.safetensors", bytes(content))
    with pytest.raises(RecordError, match=r"x\.safetensors is damaged"):
        record.read_tensors("x.safetensors")


@pytest.mark.slow
def test_a_service_that_is_away_is_asked_again_and_given_up_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "_ANSWER_SECONDS", 0.5)  # what pyarrow repeats a request for by itself
    port = free_port()
    with pytest.raises(PlaceError, match="did not answer"):
        Store(address(port), tmp_path / "a", patience=1).write("a.bin", b"x")
    code = f"from raydd.store import Store; Store({address(port)!r}, {str(tmp_path / 'b')!r}).write('a.bin', b'x')"
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        time.sleep(5)
        with emulator(port, tmp_path / "log"):
            assert writer.wait(180) == 0
            assert Store(address(port), tmp_path / "c").read("a.bin") == b"x"


@pytest.mark.slow
def test_a_distillation_keeps_everything_there(gs: str, tmp_path: Path):
    settings = {**SETTINGS, "data.root": str(write_pictures(tmp_path / "tiny")), "distill.images": "features"}
    made = []
    for place in (gs, str(tmp_path / "folder")):
        config = load(settings={**settings, "place.store": place, "place.home": str(tmp_path / "home")})
        made.append(stages.run(raydd.open(config, open_store(config.place)))["synthetic"])
    assert made[0] == made[1]
