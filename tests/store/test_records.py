"""Records: no file of another record, no changed file, and no broken manifest is taken for what was written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save

from raydd.code_version import code_version
from raydd.errors import RecordError
from raydd.store import Record, Store
from raydd.store.records import canonical, fingerprint
from raydd.store.seals import seal_json


def scores_of(store: Store, name: str, r_mean: float) -> Record:
    record = Record.of(store, "scores", {"of": name}, {}, version=1)
    record.write_json("scores.json", [{"r_mean": r_mean}])
    record.finish(facts={"seeds": 1})
    return record


def set_of(store: Store) -> Record:
    record = Record.of(store, "synthetic", {"pairs": 2}, {"experts": "abc"}, version=1)
    record.write("pairs.parquet", b"PAR1 rows")
    record.write("images/000.png", b"\x89PNG pixels")
    record.write_tensors("synthetic.safetensors", {"texts": torch.ones(2)})
    record.finish(facts={"pairs": 2})
    return record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", tmp_path / "cache")


def file_of(record: Record, name: str) -> Path:
    assert record.store.folder
    return record.store.folder / record.folder / name


def test_the_names_of_records_stay_what_they_were():
    settings = {"b": 1, "a": (1.0, None, True, "é")}
    assert canonical(settings) == '{"a":[1.0,null,true,"é"],"b":1}'
    assert fingerprint("scores", 3, settings, {"experts": "abc"}) == "352e9d8d68c17804"
    for value in (object(), b"bytes", {1, 2}, Path("x")):
        with pytest.raises(ValueError, match="cannot be part of a fingerprint"):
            canonical({"a": value})


def test_a_record_is_named_by_all_that_it_was_made_from(store: Store):
    record = Record.of(store, "scores", {"of": "full"}, {"experts": "abc"}, version=2)
    assert (record.settings, record.upstream, record.version) == ({"of": "full"}, {"experts": "abc"}, 2)
    others = [
        Record.of(store, "scores", {"of": "full"}, {"experts": "abd"}, version=2),
        Record.of(store, "scores", {"of": "full"}, {}, version=2),
        Record.of(store, "scores", {"of": "random"}, {"experts": "abc"}, version=2),
        Record.of(store, "scores", {"of": "full"}, {"experts": "abc"}, version=3),
    ]
    assert len({record.folder, *(other.folder for other in others)}) == 5
    record.finish()
    assert record.manifest()["version"] == 2


def test_a_file_of_tensors_says_what_made_it(store: Store):
    record = Record.of(store, "stage", {}, {}, version=1)
    record.write_tensors("x.safetensors", {"a": torch.ones(2)}, {"why": "test"})
    with safe_open(file_of(record, "x.safetensors"), framework="pt") as file:
        notes = file.metadata()
    assert json.loads(notes["facts"]) == {"why": "test"}
    assert notes["raydd"] == code_version()


@pytest.mark.parametrize(
    ("content", "why"), [("{", "it is not JSON: "), ("[]", "it does not say which record"), ("{}", "it does not say")]
)
def test_a_folder_of_no_record_says_why(store: Store, content: str, why: str):
    record = set_of(store)
    file_of(record, "manifest.json").write_text(content)
    with pytest.raises(RecordError, match=f"is not the manifest of this record: {why}"):
        Record.of_folder(file_of(record, ""))


def test_one_expert_in_the_place_of_another_is_refused(store: Store):
    record = Record.of(store, "experts", {}, {}, version=1)
    for seed in (0, 1):
        record.write_tensors(f"seed-{seed}/epoch-001.safetensors", {"image": torch.full((3,), float(seed))})
    shutil.copy(file_of(record, "seed-0/epoch-001.safetensors"), file_of(record, "seed-1/epoch-001.safetensors"))
    for read in (record.map_tensors, record.read_tensors, record.local):
        with pytest.raises(RecordError, match=r"belongs to experts/.*/seed-0/epoch-001.*somebody put it here"):
            read("seed-1/epoch-001.safetensors")
    assert record.map_tensors("seed-0/epoch-001.safetensors")["image"].tolist() == [0, 0, 0]


def test_the_scores_of_another_record_are_refused(store: Store):
    full, random = scores_of(store, "full", 22.8), scores_of(store, "random", 15.8)
    shutil.copy(file_of(full, "scores.json"), file_of(random, "scores.json"))
    with pytest.raises(RecordError, match=f"belongs to {full.folder}/scores.json"):
        random.read_json("scores.json")


def test_a_number_changed_with_the_seal_removed_is_refused(store: Store):
    record = scores_of(store, "random", 22.8)
    file_of(record, "scores.json").write_text(json.dumps({"items": [{"r_mean": 15.8}]}))
    with pytest.raises(RecordError, match="was not written by this version of raydd, or its checksum was removed"):
        record.read_json("scores.json")
    made = set_of(store)
    tensors = load(file_of(made, "synthetic.safetensors").read_bytes())
    file_of(made, "synthetic.safetensors").write_bytes(save({"texts": tensors["texts"] * 2}))
    for read in (made.map_tensors, made.read_tensors):
        with pytest.raises(RecordError, match="its checksum was removed"):
            read("synthetic.safetensors")


@pytest.mark.parametrize("name", ["pairs.parquet", "images/000.png"])
def test_a_changed_file_that_carries_no_seal_is_refused(store: Store, name: str):
    record = set_of(store)
    content = record.read(name)
    file_of(record, name).write_bytes(content[:-1] + b"!")
    again = Record.of(store, "synthetic", {"pairs": 2}, {"experts": "abc"}, version=1)
    for read in (again.read, again.local):
        with pytest.raises(RecordError, match=rf"{name} is damaged: its content is not what its record's manifest"):
            read(name)


def test_a_file_that_no_manifest_lists_is_refused(store: Store):
    record = set_of(store)
    file_of(record, "images/001.png").write_bytes(b"\x89PNG")
    with pytest.raises(RecordError, match=r"images/001\.png was not written by raydd"):
        record.read("images/001.png")
    with pytest.raises(ValueError, match="needs a seal"):
        record.write("x.json", b"{}")


def test_the_manifest_of_another_record_is_refused(store: Store):
    one, other = scores_of(store, "one", 1.0), scores_of(store, "other", 2.0)
    shutil.copy(file_of(one, "manifest.json"), file_of(other, "manifest.json"))
    for ask in (lambda: other.complete, other.facts, other.manifest, lambda: other.read_json("manifest.json")):
        with pytest.raises(RecordError, match=f"belongs to {one.folder}/manifest.json"):
            ask()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def without(field: str) -> Callable[[Path], None]:
    """Seal a manifest that lacks a field, as a careless program could."""

    def change(path: Path) -> None:
        value = json.loads(path.read_text())
        place = value.pop("place")
        del value["sha256"], value[field]
        path.write_bytes(seal_json(value, place))

    return change


def with_files(files: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        value = json.loads(path.read_text())
        place = value.pop("place")
        del value["sha256"]
        path.write_bytes(seal_json(value | {"files": files}, place))

    return change


BROKEN = {
    "an empty mapping": lambda path: path.write_text("{}"),
    "a list": lambda path: path.write_text("[]"),
    "a number": lambda path: path.write_text("3"),
    "empty": lambda path: path.write_text(""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "cut in its seal": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00{"),
    "nested without end": lambda path: path.write_text("[" * 100_000),
    "a folder": a_folder,
    "without facts": without("facts"),
    "without stage": without("stage"),
    "without files": without("files"),
    "with a list of files": with_files([]),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_broken_manifest_is_a_sentence(store: Store, change: Callable[[Path], None]):
    record = set_of(store)
    change(file_of(record, "manifest.json"))
    again = Record.of(store, "synthetic", {"pairs": 2}, {"experts": "abc"}, version=1)
    asks = (
        lambda: again.complete,
        again.facts,
        again.manifest,
        lambda: again.read("pairs.parquet"),
        lambda: Record.of_folder(file_of(record, "")),
    )
    for ask in asks:
        with pytest.raises(RecordError, match=r"manifest\.json .*\. .+\.$"):
            ask()


@pytest.mark.parametrize("listed", [3, "", None])
def test_a_checksum_that_is_none_is_no_checksum(store: Store, listed: object):
    record = set_of(store)
    with_files({"pairs.parquet": listed})(file_of(record, "manifest.json"))
    with pytest.raises(RecordError, match=r"pairs\.parquet was not written by raydd"):
        record.read("pairs.parquet")


def test_a_folder_in_the_place_of_a_file_is_a_sentence(store: Store):
    record = scores_of(store, "one", 1.0)
    a_folder(file_of(record, "scores.json"))
    for ask in (record.read_json, record.has, record.local, lambda name: record.write_json(name, [])):
        with pytest.raises(RecordError, match=r"scores\.json is a folder where a file belongs\. Move it away"):
            ask("scores.json")


def test_a_record_copied_under_another_name_is_read(store: Store, tmp_path: Path):
    record, copy = set_of(store), tmp_path / "somewhere" / "my set"
    shutil.copytree(file_of(record, ""), copy)
    again = Record.of_folder(copy)
    assert again == Record(
        again.store, "synthetic", record.fingerprint, {"pairs": 2}, {"experts": "abc"}, 1, "somewhere/my set"
    )
    assert again.store.folder == tmp_path
    assert again.complete
    assert again.facts() == {"pairs": 2}
    assert again.read("pairs.parquet") == b"PAR1 rows"
    assert again.local("images/000.png") == copy / "images/000.png"
    assert again.read_tensors("synthetic.safetensors")["texts"].tolist() == [1, 1]
    assert again.map_tensors("synthetic.safetensors")["texts"].tolist() == [1, 1]
    assert Record.of_folder(file_of(record, "")).copied_to == ""


def test_a_copied_record_with_a_file_of_another_one_is_refused(store: Store, tmp_path: Path):
    one, other = scores_of(store, "one", 1.0), scores_of(store, "other", 2.0)
    copy = tmp_path / "copy"
    shutil.copytree(file_of(one, ""), copy)
    shutil.copy(file_of(other, "scores.json"), copy / "scores.json")
    with pytest.raises(RecordError, match=f"belongs to {other.folder}/scores.json"):
        Record.of_folder(copy).read_json("scores.json")


@pytest.mark.parametrize(
    "value", [[1], {"a": 1}, {"items": [1]}, {"place": "here", "sha256": "x"}, {}, "text", None], ids=str
)
def test_json_comes_back_as_it_was_given(store: Store, value: object):
    record = Record.of(store, "stage", {}, {}, version=1)
    record.write_json("x.json", value)
    assert record.read_json("x.json") == value


def test_a_record_directly_below_the_root_is_found():
    with pytest.raises(RecordError, match=r"no file no-such-set/manifest\.json"):
        Record.of_folder(Path("/no-such-set"))
