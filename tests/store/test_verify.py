"""Reading a store through: each kind of wrong file is found and deleted, and nothing else is."""

import ast
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from s3_server import BUCKET, Server

from raydd.errors import RecordError
from raydd.store import Record, Store
from raydd.store.verify import PROBE, STAGES, Finding, delete, verify

ROOT = Path(__file__).parents[2]
HALF = ".pairs.parquet.0123456789abcdef.part"


def fill(store: Store) -> dict[str, Record]:
    """Records of three stages: experts without a manifest, and a set with scores."""
    experts = Record.of(store, "experts", {}, {}, version=1)
    for seed in (0, 1):
        experts.write_tensors(f"seed-{seed}/epoch-001.safetensors", {"image": torch.full((3,), float(seed))})
    made = Record.of(store, "synthetic", {"pairs": 2}, {"experts": experts.fingerprint}, version=1)
    made.write("pairs.parquet", b"PAR1 rows")
    made.write("images/000.png", b"\x89PNG pixels")
    made.write_tensors("synthetic.safetensors", {"texts": torch.ones(2)})
    made.finish()
    scores = Record.of(store, "scores", {"seeds": 5}, {"synthetic": made.fingerprint}, version=1)
    scores.write_json("scores.json", [{"r_mean": 22.8}])
    scores.finish()
    return {record.stage: record for record in (experts, made, scores)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", tmp_path / "cache")


def path_of(record: Record, name: str = "") -> Path:
    assert record.store.folder
    return record.store.folder / record.folder / name


def age(folder: Path, hours: float = 2) -> None:
    then = time.time() - hours * 3600
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def kinds(store: Store) -> dict[str, str]:
    return {finding.name: finding.kind for finding in verify(store).findings}


def test_a_store_in_order_has_no_findings_whatever_its_age(store: Store):
    fill(store)
    assert store.folder
    age(store.folder, 1000)
    told = []
    found = verify(store, lambda work, done, total: told.append((work, done, total)))
    assert found.findings == ()
    assert (found.records, found.files, found.without_upstream) == (3, 8, 0)
    assert found.bytes == sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())
    assert told[-1] == ("files read", 6, 6)


def test_an_empty_folder_is_in_order_and_a_missing_one_is_said(tmp_path: Path):
    assert verify(Store(tmp_path)).findings == ()
    with pytest.raises(RecordError, match="There is no store in"):
        verify(Store(tmp_path / "stroe"))


EXPERT, SET, SCORES = "experts", "synthetic", "scores"
WRONG: dict[str, tuple[str, str, Callable[[Path], object], str]] = {
    "a flipped byte": (EXPERT, "seed-1/epoch-001.safetensors", flip, "damaged"),
    "another expert's": (
        EXPERT,
        "seed-1/epoch-001.safetensors",
        lambda path: shutil.copy(path.parents[1] / "seed-0" / path.name, path),
        "foreign",
    ),
    "without its seal": (SCORES, "scores.json", lambda path: path.write_text('{"items": [1]}'), "unsealed"),
    "a changed table": (SET, "pairs.parquet", flip, "damaged"),
    "a changed picture": (SET, "images/000.png", flip, "damaged"),
    "a missing picture": (SET, "images/000.png", Path.unlink, "damaged"),
    "an empty manifest": (SET, "manifest.json", lambda path: path.write_text("{}"), "unsealed"),
    "a manifest cut short": (SET, "manifest.json", lambda path: path.write_bytes(path.read_bytes()[:50]), "damaged"),
    "a folder as a manifest": (SET, "manifest.json", lambda path: (path.unlink(), path.mkdir()), "damaged"),
    "a folder as a snapshot": (
        EXPERT,
        "seed-1/epoch-001.safetensors",
        lambda path: (path.unlink(), path.mkdir(), (path / "x.json").write_text("{}")),
        "damaged",
    ),
}


@pytest.mark.parametrize(("stage", "name", "change", "kind"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_and_deleted_with_its_manifest(
    store: Store, stage: str, name: str, change: Callable[[Path], object], kind: str
):
    records = fill(store)
    record, others = records[stage], {key: value for key, value in records.items() if key != stage}
    change(path_of(record, name))
    whole = {other: store.names(value.folder) for other, value in others.items()}
    rest = set(store.names(record.folder)) - {f"{record.folder}/manifest.json"}
    found = verify(store).findings
    assert [(finding.name, finding.kind) for finding in found] == [(f"{record.folder}/{name}", kind)]
    assert delete(store, found) == (f"{record.folder}/{name}",)
    again = Record(store, record.stage, record.fingerprint, {}, {})
    assert not again.complete
    assert not again.has(name)
    assert set(store.names(record.folder)) == {one for one in rest if not one.startswith(f"{record.folder}/{name}")}
    assert {other: store.names(value.folder) for other, value in others.items()} == whole
    assert kinds(store) == {}
    fill(store)
    assert kinds(store) == {}


def test_what_killed_writers_left_is_orphaned_after_an_hour(store: Store):
    records = fill(store)
    assert store.folder
    path_of(records["scores"], "manifest.json").unlink()
    for folder in (path_of(records["synthetic"]), store.folder):
        (folder / HALF).write_bytes(b"PAR1")
    assert kinds(store) == {}
    age(store.folder)
    orphans = {records["scores"].folder, f"{records['synthetic'].folder}/{HALF}", HALF}
    found = verify(store).findings
    assert {finding.name for finding in found if finding.kind == "orphaned"} == orphans == {f.name for f in found}
    assert set(delete(store, found)) == orphans
    assert store.names("scores") == []
    assert records["synthetic"].complete
    assert kinds(store) == {}


def test_a_probe_that_a_killed_command_left_is_orphaned_after_an_hour(store: Store):
    probe = f"{PROBE}0123456789abcdef"
    fill(store)
    store.write(probe, b"x")
    assert kinds(store) == {}
    assert store.folder
    age(store.folder)
    found = verify(store).findings
    assert [(finding.name, finding.kind) for finding in found] == [(probe, "orphaned")]
    assert "is a probe of the store" in found[0].reason
    assert delete(store, found) == (probe,)
    assert kinds(store) == {}


def test_one_fresh_file_says_that_the_writer_is_at_work(store: Store):
    record = fill(store)["synthetic"]
    record.remove("manifest.json")
    assert store.folder
    age(store.folder)
    assert kinds(store) == {record.folder: "orphaned"}
    record.write_tensors("checkpoint.safetensors", {"a": torch.ones(1)})
    assert kinds(store) == {}


def test_what_was_mended_or_goes_on_since_it_was_found_is_not_deleted(store: Store):
    records = fill(store)
    assert store.folder
    path_of(records["scores"], "manifest.json").unlink()
    age(store.folder)
    flip(path_of(records["experts"], "seed-1/epoch-001.safetensors"))
    found = verify(store).findings
    assert len(found) == 2
    fill(store)
    names = store.names("experts") + store.names("scores")
    assert delete(store, found) == ()
    assert store.names("experts") + store.names("scores") == names


def test_what_raydd_does_not_keep_is_named_and_left(store: Store):
    record = fill(store)["synthetic"]
    assert store.folder
    (store.folder / "holiday").mkdir()
    (store.folder / "holiday" / "sea.jpg").write_bytes(b"x")
    (store.folder / "scores" / "mine.json").write_text("{}")
    path_of(record, "notes.txt").write_text("x")
    found = verify(store).findings
    unknown = {"holiday", "scores/mine.json", f"{record.folder}/notes.txt"}
    assert {finding.name: finding.kind for finding in found} == dict.fromkeys(unknown, "unknown")
    assert delete(store, found) == ()
    assert kinds(store) == dict.fromkeys(unknown, "unknown")


def test_a_file_that_goes_while_it_is_read_is_no_finding(store: Store, monkeypatch: pytest.MonkeyPatch):
    record, fault = fill(store)["synthetic"], Store.fault
    record.write_tensors("checkpoint.safetensors", {"a": torch.ones(1)})

    def late(self: Store, name: str, sha256: str = "") -> object:
        record.remove("checkpoint.safetensors")
        return fault(self, name, sha256)

    monkeypatch.setattr(Store, "fault", late)
    assert kinds(store) == {}


def test_records_whose_upstream_is_gone_are_counted_alone(store: Store):
    fill(store)
    assert store.folder
    shutil.rmtree(store.folder / "experts")
    found = verify(store)
    assert (found.without_upstream, found.findings) == (1, ())


def test_no_note_of_this_machine_hides_what_changed(store: Store):
    record = fill(store)["experts"]
    path = path_of(record, "seed-1/epoch-001.safetensors")
    time.sleep(0.05)
    record.local("seed-1/epoch-001.safetensors")
    state = path.stat()
    flip(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert kinds(store) == {f"{record.folder}/seed-1/epoch-001.safetensors": "damaged"}


def test_a_bucket_is_read_through_and_mended(s3: Server, tmp_path: Path):
    store = Store(f"s3://{BUCKET}/raydd", tmp_path / "cache")
    records = fill(store)
    record = records["synthetic"]
    assert record.facts() == {}
    assert verify(store).findings == ()
    key = f"raydd/{record.folder}/images/000.png"
    s3.client.put_object(Bucket=BUCKET, Key=key, Body=b"\x89PNG others")
    s3.client.put_object(Bucket=BUCKET, Key="raydd/ray-runs/sweep/notes.pkl", Body=b"x")
    found = verify(store).findings
    assert found == (
        Finding(
            f"{record.folder}/images/000.png",
            "damaged",
            "is damaged: its content is not what its record's manifest lists",
        ),
    )
    assert delete(store, found) == (found[0].name,)
    assert not record.complete
    assert verify(store).findings == ()


def test_every_stage_is_known():
    """Of each `Record.of(store, "stage", …)`, the stage; a new one has to say whether it has a manifest."""
    named = set()
    for folder in ("raydd", "trainables"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and ast.unparse(node.func) == "Record.of"
                    and isinstance(stage := node.args[1], ast.Constant)
                ):
                    named.add(stage.value)
    assert named == {*STAGES, "images"}  # what a machine knows of images lies in its cache
