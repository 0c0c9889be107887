"""The store: whole files or none, names that stay inside, fingerprints that tell settings apart."""

import dataclasses
import errno
import itertools
import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raydd.errors import PlaceError, RecordError
from raydd.store import Record, Store, fingerprint, storage
from raydd.store.files import write_whole
from raydd.store.records import canonical

SETTINGS = st.dictionaries(
    st.text(max_size=5), st.one_of(st.integers(), st.booleans(), st.none(), st.text(max_size=5)), max_size=5
)


@given(SETTINGS, SETTINGS)
def test_fingerprints_are_equal_for_equal_settings_alone(one: dict[str, object], other: dict[str, object]) -> None:
    same = fingerprint("s", 1, one, {}) == fingerprint("s", 1, other, {})
    assert same == (canonical(one) == canonical(other))
    assert fingerprint("s", 1, dict(reversed(one.items())), {}) == fingerprint("s", 1, one, {})
    assert fingerprint("s", 2, one, {}) != fingerprint("s", 1, one, {})
    assert fingerprint("t", 1, one, {}) != fingerprint("s", 1, one, {})
    assert fingerprint("s", 1, one, {"u": "a"}) != fingerprint("s", 1, one, {"u": "b"})


def test_a_float_and_an_integer_differ_and_nan_is_refused() -> None:
    assert fingerprint("s", 1, {"a": 1}, {}) != fingerprint("s", 1, {"a": 1.0}, {})
    with pytest.raises(ValueError, match="nan"):
        fingerprint("s", 1, {"a": float("nan")}, {})


@dataclasses.dataclass(frozen=True)
class Settings:
    lr: float
    sizes: tuple[int, ...]


def test_dataclasses_are_their_fields() -> None:
    settings = {"x": Settings(0.1, (1, 2))}
    assert canonical(settings) == '{"x":{"lr":0.1,"sizes":[1,2]}}'


@given(st.binary(max_size=300))
def test_what_is_written_is_read(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.write("a/b.bin", content)
        assert store.read("a/b.bin") == content
        assert store.names("a") == ["a/b.bin"]
        assert store.local("a/b.bin").read_bytes() == content
        store.remove("a/b.bin")
        assert not store.exists("a/b.bin")
        store.remove("a/b.bin")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "a\0b", "a\\b"])
def test_no_name_leaves_the_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match="not a name inside the store"):
        Store(tmp_path / "store").write(name, b"x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"there is no file a/b\.bin"):
        Store(tmp_path).read("a/b.bin")


def test_a_record_is_complete_when_its_manifest_is_there(tmp_path: Path) -> None:
    record = Record.of(Store(tmp_path), "stage", {"lr": 0.1}, {"up": "abc"}, version=1)
    record.write_tensors("x.safetensors", {"a": torch.arange(3)}, {"why": "test"})
    assert not record.complete
    record.finish(facts={"size": 3})
    assert record.complete
    assert record.facts() == {"size": 3}
    assert record.read_tensors("x.safetensors")["a"].tolist() == [0, 1, 2]
    assert Record.of(Store(tmp_path), "stage", {"lr": 0.1}, {"up": "abc"}, version=1).complete
    assert not Record.of(Store(tmp_path), "stage", {"lr": 0.2}, {"up": "abc"}, version=1).complete


def test_a_damaged_tensor_file_is_named(tmp_path: Path) -> None:
    record = Record.of(Store(tmp_path), "stage", {}, {}, version=1)
    record.store.write(f"{record.folder}/x.safetensors", b"not tensors")
    with pytest.raises(RecordError, match=r"x\.safetensors is damaged"):
        record.read_tensors("x.safetensors")


def rewrite(folder: Path, began: Event) -> None:
    """Rewrite one file without end."""
    store = Store(folder)
    for turn in itertools.count():
        store.write("f.bin", bytes([turn % 256]) * 3_000_000)
        began.set()


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """A process that rewrites one file without end is killed many times; a reader sees a whole file each time."""
    fork = multiprocessing.get_context("fork")  # which imports nothing again
    for _ in range(5):
        began = fork.Event()
        writer = fork.Process(target=rewrite, args=(tmp_path, began))
        writer.start()
        assert began.wait(60)
        time.sleep(0.1)
        writer.kill()
        writer.join()
        content = (tmp_path / "f.bin").read_bytes()
        assert len(content) == 3_000_000
        assert len(set(content)) == 1


def test_a_flipped_bit_in_a_folder_is_refused_even_if_the_file_looks_as_old_as_before(tmp_path: Path) -> None:
    record = Record.of(Store(tmp_path / "store", tmp_path / "cache"), "stage", {}, {}, version=1)
    record.write_tensors("x.safetensors", {"a": torch.arange(1000)})
    time.sleep(0.05)
    path = record.local("x.safetensors")
    then = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    again = Record.of(Store(tmp_path / "store", tmp_path / "cache"), "stage", {}, {}, version=1)
    for reader in (record, again):
        with pytest.raises(RecordError, match=r"x\.safetensors is damaged"):
            reader.map_tensors("x.safetensors")


def test_a_file_that_was_checked_is_not_read_through_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked, check = [], storage.require_intact_file

    def counted(path: Path, *expected: str) -> None:
        checked.append(path)
        check(path, *expected)

    monkeypatch.setattr(storage, "require_intact_file", counted)
    Record.of(Store(tmp_path / "store"), "stage", {}, {}, version=1).write_tensors(
        "x.safetensors", {"a": torch.arange(1000)}
    )
    time.sleep(0.05)
    for _ in range(3):  # each stands for another process of the machine
        record = Record.of(Store(tmp_path / "store", tmp_path / "cache"), "stage", {}, {}, version=1)
        assert record.map_tensors("x.safetensors")["a"].shape == (1000,)
        assert record.map_tensors("x.safetensors")["a"].shape == (1000,)
    assert len(checked) == 1


def test_a_full_disk_leaves_what_is_there_and_says_so(tmp_path: Path) -> None:
    code = f"""
import resource
from raydd.errors import PlaceError
from raydd.store import Store
store = Store({str(tmp_path)!r})
store.write("a.bin", b"whole")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store.write("a.bin", bytes(5000))
except PlaceError as error:
    assert "no room for a.bin" in str(error)
    assert store.read("a.bin") == b"whole"
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "refused\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_below_the_home_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PlaceError, match="has no room for note"):
        write_whole(tmp_path / "checked" / "note", b"1")
